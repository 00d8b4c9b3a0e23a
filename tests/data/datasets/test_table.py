"""The table reader: every file format, DICOM and PNG, masks as files and as run lengths, several rows per image."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.importing import import_records
from radpref.data.datasets.registry import Found
from radpref.data.datasets.table import read_table
from radpref.data.datasets.table_file import read_table_file
from radpref.data.imaging.framing import fit_mask
from radpref.data.imaging.rle import encode_rle
from tests.support.data import gray, label_table, table_study
from tests.support.dicom import SYNTAXES, write_dicom
from tests.support.errors import refuses

RLE = ('mask.lungs = "mask"', 'rle.lungs = "mask"')
RELATIVE = ("[data]\n", '[data]\nrle = "relative"\n')


def reasons(quarantine):
    with open(quarantine, newline="") as file:  # noqa: PTH123
        return {row["record_id"]: row["reason"] for row in csv.DictReader(file)}


def disc(row, column, radius=12, size=(80, 64)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.hypot(rows - row, columns - column) < radius


def stored_mask(study, name):
    sha = study.db.value("SELECT mask_sha FROM record_masks WHERE record_id = ?", (f"tree/images/{name}",))
    return None if sha is None else study.store.mask(sha)


@pytest.mark.parametrize("name", ["table.tsv", "table.csv.gz", "table.parquet", "table.tsv.gz"])
def test_every_format_gives_the_same_records(tmp_path, name):
    study = table_study(tmp_path)
    tree = tmp_path / "tree"
    frame = pd.read_csv(tree / "table.csv", dtype={"ill": "Int64"})
    frame.loc[3, "ill"] = pd.NA
    if name.endswith("parquet"):
        frame.to_parquet(tree / name)
    else:
        frame.to_csv(tree / name, sep="\t" if ".tsv" in name else ",", index=False)
    assert name.endswith(".gz") == ((tree / name).read_bytes()[:2] == gzip.compress(b"")[:2])
    result = import_records(study, path=tree / name)
    assert result.n_imported == 8
    labels = label_table(study.db)["ill"]
    assert [value if value == value else None for value in labels] == [0, 1, 0, None, 0, 1, 0, 1]
    assert json.loads(study.db.value("SELECT extra FROM records WHERE record_id = 'tree/images/0.png'")) == {
        "ill": "0", "kind": "normal", "population": "adult",
    }  # fmt: skip
    study.db.close()


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("ending", ["zip", "bz2", "xz"])
def test_no_separator_is_guessed_from_packed_bytes(tmp_path, ending, separator):
    """Contents are chosen so that the packed bytes up to the first line feed hold a semicolon, no comma and no tab."""
    pack = {"zip": _zipped, "bz2": bz2.compress, "xz": lzma.compress}[ending]
    for number in range(10_000):
        packed = pack((f"name{separator}value\n" + f"bed{separator}{number}\n" * 20).encode())
        head = packed.split(b"\n")[0]
        if b";" in head and b"," not in head and b"\t" not in head:
            break
    path = tmp_path / f"table.{'csv' if separator == ',' else 'tsv'}.{ending}"
    path.write_bytes(packed)
    assert b";" in head
    assert read_table_file(path).to_dict("records") == [{"name": "bed", "value": str(number)}] * 20


def _zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("a;b.csv"), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def test_booleans_of_a_parquet_file_are_labels(tmp_path):
    study = table_study(tmp_path)
    tree = tmp_path / "tree"
    frame = pd.read_csv(tree / "table.csv")
    frame["ill"] = frame["ill"] == 1
    frame.to_parquet(tree / "table.parquet")
    import_records(study, path=tree / "table.parquet")
    assert label_table(study.db)["ill"].tolist() == [0, 1] * 4
    study.db.close()


def test_dicom_and_other_formats_side_by_side(tmp_path):
    names = [f"images/{i}.dcm" for i in range(6)] + ["images/6.jpg", "images/7"]
    study = table_study(tmp_path, file=names, mask=["masks/0.png"] + [""] * 7)
    images = tmp_path / "tree" / "images"
    for i in range(6):
        write_dicom(images / f"{i}.dcm", gray(i, 80)[:, :64].copy(), SYNTAXES[i])
    Image.fromarray(gray(6, 80)).save(images / "6.jpg")
    write_dicom(images / "7", gray(7, 80, np.uint16), WindowCenter=30000, WindowWidth=20000)
    result = import_records(study)
    assert (result.n_imported, result.n_quarantined) == (8, 0)
    assert result.found[-1] == Found("image files of the first 8", 8, 8)
    extra = json.loads(study.db.value("SELECT extra FROM records WHERE record_id = 'tree/images/7'"))
    assert (extra["view_position"], extra["modality"]) == ("PA", "DX")
    depths = study.db.rows(
        "SELECT record_id, bit_depth FROM records JOIN images ON sha256 = image_sha ORDER BY record_id"
    )
    assert [row["bit_depth"] for row in depths] == [8] * 7 + [16]
    study.db.close()


@pytest.mark.parametrize("convention", ["relative", "absolute"])
@pytest.mark.parametrize("first", [0, 1])
def test_run_lengths(tmp_path, convention, first):
    masks = [disc(20 + 5 * i, 30) for i in range(8)]
    texts = [encode_rle(mask, convention, first=first) for mask in masks]
    texts[2], texts[3] = "-1", ""
    head = ("[data]\n", f'[data]\nrle = "{convention}"\nrle_first = {first}\n')
    study = table_study(tmp_path, replace=(RLE, head), mask=texts)
    assert import_records(study).n_imported == 8
    for i, mask in enumerate(masks):
        found = stored_mask(study, f"{i}.png")
        assert (found is None) if i in (2, 3) else (found == fit_mask(mask, 64)).all()
    study.db.close()


def test_run_lengths_of_the_original_size(tmp_path):
    """The images were shrunk from 320x256 to 80x64; the masks still count in 320x256."""
    masks = [disc(120 + 5 * i, 130, 60, (320, 256)) for i in range(8)]
    texts = [encode_rle(mask, "relative") for mask in masks]
    size = ("[data.columns]\n", "[data.columns]\nrle_size = [320, 256]\n")
    study = table_study(tmp_path, replace=(RLE, RELATIVE, size), mask=texts)
    assert import_records(study).n_imported == 8
    for i, mask in enumerate(masks):
        assert (stored_mask(study, f"{i}.png") == fit_mask(mask, 64)).all()
    study.db.close()


def test_run_lengths_that_do_not_fit_are_quarantined(tmp_path):
    good = encode_rle(disc(30, 30), "relative")
    texts = [good, "5000 200", "10 5 3", "1 x", "4 0", good, good, good]
    study = table_study(tmp_path, replace=(RLE, RELATIVE), mask=texts)
    found = reasons(import_records(study).quarantine)
    assert set(found) == {f"tree/images/{i}.png" for i in (1, 2, 3, 4)}
    assert "run lengths of 'lungs': a run ends at pixel 5200 of 64x80" in found["tree/images/1.png"]
    assert "do not make pairs" in found["tree/images/2.png"]
    assert "not whole numbers" in found["tree/images/3.png"]
    assert "overlap or are empty" in found["tree/images/4.png"]
    study.db.close()


def test_run_lengths_of_another_shape_are_quarantined(tmp_path):
    texts = [encode_rle(disc(30, 30, size=(100, 100)), "relative")] * 8
    size = ("[data.columns]\n", "[data.columns]\nrle_size = [100, 100]\n")
    study = table_study(tmp_path, replace=(RLE, RELATIVE, size), mask=texts)
    with refuses(InvalidInput, "lungs", "100x100", "64x80"):
        import_records(study)
    study.db.close()


def rows_of_images(images, **columns):
    """Columns for a table of one row per entry of ``images``: what belongs to an image is the same in its rows."""
    return {
        "file": [f"images/{i}.png" for i in images],
        "person": [f"p{i // 2}" for i in images],
        "part": [("train", "train", "val", "test")[i // 2 % 4] for i in images],
        "words": [f"Case {i}." for i in images],
        "ill": [str(i % 2) for i in images],
        "kind": [("normal", "pneumonia")[i % 2] for i in images],
        "population": ["adult"] * len(images),
        **columns,
    }


def test_several_rows_of_one_image_are_united(tmp_path):
    images = [0, 1, 1, 2, 1, 3, 4, 4]
    masks = [disc(20 + 4 * k, 20 + 3 * k, 6) for k in range(8)]
    columns = rows_of_images(images, mask=[encode_rle(mask, "relative") for mask in masks])
    study = table_study(tmp_path, replace=(RLE, RELATIVE), **columns)
    result = import_records(study)
    assert (result.n_planned, result.n_imported, result.n_quarantined) == (5, 5, 0)
    assert [(line.what, line.found) for line in result.found[:3]] == [
        ("rows of table.csv", 8), ("images", 5), ("patients", 3),
    ]  # fmt: skip
    assert (stored_mask(study, "1.png") == fit_mask(masks[1] | masks[2] | masks[4], 64)).all()
    assert (stored_mask(study, "2.png") == fit_mask(masks[3], 64)).all()
    study.db.close()


def test_mask_files_of_several_rows_are_united(tmp_path):
    columns = rows_of_images([0, 1, 2, 2, 4, 5, 6, 7], mask=[f"masks/m{i}.png" for i in range(8)])
    study = table_study(tmp_path, **columns)
    masks = [disc(20 + 4 * k, 20 + 3 * k, 6) for k in range(8)]
    for i, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "tree" / "masks" / f"m{i}.png")
    assert import_records(study).n_imported == 7
    assert (stored_mask(study, "2.png") == fit_mask(masks[2] | masks[3], 64)).all()
    study.db.close()


def test_rows_of_one_image_that_disagree_are_not_united(tmp_path):
    columns = rows_of_images([0, 1, 1, 2, 3, 4, 5, 6], ill=["0", "1", "0", "0", "1", "0", "1", "0"], mask=["-1"] * 8)
    study = table_study(tmp_path, replace=(RLE, RELATIVE), **columns)
    result = import_records(study)
    assert result.n_imported == 7
    expected = "row 4 repeats tree/images/1.png in another way; keep one of them"
    assert reasons(result.quarantine) == {"tree/images/1.png#row4": expected}
    assert label_table(study.db).loc["tree/images/1.png", "ill"] == 1.0
    study.db.close()


def test_messages_name_the_line_of_the_file_also_after_where(tmp_path):
    where = ('mask.lungs = "mask"', 'where.population = "child"')
    files = [f"images/{i}.png" for i in (0, 1, 2, 3, 4, 5, 6, 6)]
    study = table_study(tmp_path, replace=(where,), file=files, **{"#": list("abcdefgh")})
    assert set(reasons(import_records(study).quarantine)) == {"tree/images/6.png#row9"}
    extra = study.db.value("SELECT extra FROM records WHERE record_id = 'tree/images/4.png'")
    assert json.loads(extra)["#"] == "e"
    study.db.close()


@pytest.mark.parametrize(
    ("replace", "named"),
    [
        ((RLE,), ("data.rle", "relative", "absolute")),
        ((RLE, ("[data]\n", '[data]\nrle = { heart = "relative" }\n')), ("data.columns.rle.lungs",)),
        ((RELATIVE, ('mask.lungs = "mask"', 'rle.heart = "mask"')), ("heart", "data.structures")),
        ((RELATIVE, ('mask.lungs = "mask"', 'mask.lungs = "mask"\nrle.lungs = "mask"')), ("lungs",)),
        ((RELATIVE, ('mask.lungs = "mask"', 'rle.lungs = "maks"')), ("maks", "mask")),
    ],
)
def test_a_bad_map_of_run_lengths_is_one_line(tmp_path, replace, named):
    study = table_study(tmp_path, replace=replace)
    with refuses(InvalidInput, *named):
        import_records(study)
    study.db.close()


def test_a_folder_for_a_table_and_a_missing_root_are_told(tmp_path):
    study = table_study(tmp_path)
    with refuses(InvalidInput, "table.csv"):
        import_records(study, path=tmp_path / "tree")
    (tmp_path / "empty").mkdir()
    with refuses(InvalidInput, "empty"):
        import_records(study, path=tmp_path / "empty")
    moved = (tmp_path / "tree" / "table.csv").rename(tmp_path / "empty" / "table.csv")
    with refuses(InvalidInput, "0.png"):  # the table was moved away from its images
        import_records(study, path=moved)
    found = read_table(study.config.data, moved).found
    assert (found[-1].found, found[-1].expected) == (0, 8)
    study.db.close()
