import numpy as np
import pytest
from PIL import Image

from radpref.data.core.errors import Conflict, InvalidInput, NotFound, StorageFull
from radpref.data.imaging.images import encode_png, high_byte, is_marked_synthetic, read_image, to_uint8
from tests.support.data import full_disk_after, gray
from tests.support.errors import refuses


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("origin", ["real", "synthetic"])
def test_round_trip(study, dtype, origin):
    image = gray(1, 40, dtype)
    with study.db.write() as connection:
        sha = study.store.put_image(connection, image, origin)
        assert study.store.put_image(connection, image, origin) == sha
    back = study.store.image(sha)
    assert back.dtype == dtype
    assert (back == image).all()
    row = study.db.row("SELECT * FROM images")
    assert (row["origin"], row["width"], row["bit_depth"]) == (origin, 40, image.dtype.itemsize * 8)
    assert is_marked_synthetic(study.store.path(sha)) == (origin == "synthetic")


def test_mask_round_trip(study):
    mask = gray(2) > 200
    with study.db.write() as connection:
        sha = study.store.put_mask(connection, mask)
    assert (study.store.mask(sha) == mask).all()
    assert study.db.value("SELECT n_pixels FROM masks") == mask.sum()
    with refuses(InvalidInput, "bool", "uint8"), study.db.write() as connection:
        study.store.put_mask(connection, mask.astype(np.uint8))


@pytest.mark.parametrize("bad", [np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), np.float32), np.zeros(4, np.uint8)])
def test_other_shapes_and_types_are_refused(bad):
    with refuses(InvalidInput, bad.shape, bad.dtype):
        encode_png(bad)


def test_same_pixels_of_another_origin_conflict(study):
    image = gray(3)
    with study.db.write() as connection:
        sha = study.store.put_image(connection, image, "real")
        connection.execute("UPDATE images SET origin = 'synthetic'")
        with refuses(Conflict, sha[:12]):
            study.store.put_image(connection, image, "real")


def test_reading_bad_files(tmp_path):
    with pytest.raises(NotFound):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(encode_png(gray(4))[:200])
    (tmp_path / "folder.png").mkdir()
    for name in ("text.png", "cut.png", "folder.png"):
        with refuses(InvalidInput, name):
            read_image(tmp_path / name)


def test_colour_is_read_as_gray(tmp_path):
    Image.new("RGB", (5, 4), (10, 10, 10)).save(tmp_path / "c.jpg")
    assert read_image(tmp_path / "c.jpg").shape == (4, 5)
    assert read_image(tmp_path / "c.jpg").dtype == np.uint8


def test_to_uint8_is_the_full_scale():
    assert to_uint8(np.array([[0, 257, 65535]], np.uint16)).tolist() == [[0, 1, 255]]
    assert to_uint8(np.array([[7]], np.uint8)).tolist() == [[7]]


def test_high_byte_never_rounds_up():
    deep = np.array([[0, 255, 256, 511, 512, 65535]], np.uint16)
    assert high_byte(deep).tolist() == [[0, 0, 1, 1, 2, 255]]
    assert high_byte(np.array([[7]], np.uint8)).tolist() == [[7]]


def test_full_disk_stores_neither_row_nor_file(study, monkeypatch):
    full_disk_after(monkeypatch, 1)
    with pytest.raises(StorageFull), study.db.write() as connection:  # noqa: PT012
        study.store.put_image(connection, gray(5), "synthetic")
        study.store.put_image(connection, gray(6), "synthetic")
    assert study.db.value("SELECT count(*) FROM images") == 0
    assert not list(study.root.rglob(".*.png.*"))
    monkeypatch.undo()
    with study.db.write() as connection:
        study.store.put_image(connection, gray(5), "synthetic")
    assert study.db.value("SELECT count(*) FROM images") == 1
