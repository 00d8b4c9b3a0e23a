"""MedMNIST archives: published names and sizes, stored and deflated members, read row by row, every damage one line."""

import csv
import threading
import tracemalloc
import zipfile

import numpy as np
import pytest

from radpref.data.config.data import DataConfig
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.datasets.importing import import_records
from radpref.data.datasets.medmnist import PUBLISHED, read_medmnist
from radpref.data.datasets.npz import Npz
from radpref.data.imaging.framing import fit_image
from radpref.data.study.study import Study
from tests.support.data import label_table
from tests.support.errors import refuses


def arrays(n=(6, 3, 4), side=28, n_labels=1, seed=0):
    """A small archive's arrays: images differ, labels are 0 or 1."""
    rng = np.random.default_rng(seed)
    found = {}
    for split, count in zip(("train", "val", "test"), n, strict=True):
        found[f"{split}_images"] = rng.integers(0, 256, (count, side, side)).astype(np.uint8)
        found[f"{split}_labels"] = rng.integers(0, 2, (count, n_labels)).astype(np.uint8)
    return found


def write(path, content=None, compressed=True):
    (np.savez_compressed if compressed else np.savez)(path, **(arrays() if content is None else content))
    return path


@pytest.fixture
def study(tmp_path):
    opened = Study.create(tmp_path / "s", '[data]\nreader = "medmnist"\nimage_size = 32\n')
    yield opened
    opened.db.close()


@pytest.mark.parametrize("compressed", [True, False], ids=["deflated", "stored"])
def test_pneumoniamnist(tmp_path, study, compressed):
    content = arrays()
    result = import_records(study, path=write(tmp_path / "pneumoniamnist_64.npz", content, compressed))
    assert (result.n_imported, result.n_quarantined) == (13, 0)
    found = {line.what: (line.found, line.expected) for line in result.found}
    assert found["images (train)"] == (6, 4708)
    assert found["images (test)"] == (4, 624)
    assert "own patient" in next(line.note for line in result.found if line.what == "patients")
    row = study.db.row("SELECT * FROM records WHERE record_id = 'pneumoniamnist-val-000002'")
    assert (row["dataset"], row["patient_id"], row["split"]) == ("pneumoniamnist", row["record_id"], "val")
    assert (study.store.image(row["image_sha"]) == fit_image(content["val_images"][2], 32)).all()
    labels = label_table(study.db, "train")
    assert labels["pneumonia"].tolist() == content["train_labels"][:, 0].tolist()
    assert (labels["normal"] == 1 - labels["pneumonia"]).all()
    captions = {row["caption"] for row in study.db.rows("SELECT caption FROM records")}
    assert captions == {"Normal", "Pneumonia"}


def test_chestmnist_has_fourteen_labels_by_column(tmp_path, study):
    content = arrays(n_labels=14)
    import_records(study, path=write(tmp_path / "chestmnist.npz", content))
    labels = label_table(study.db, "test")
    names = PUBLISHED["chestmnist"].labels
    assert (labels[list(names)].to_numpy() == content["test_labels"]).all()
    assert sum(PUBLISHED["chestmnist"].sizes) == 112120
    assert sum(PUBLISHED["pneumoniamnist"].sizes) == 5856


def test_another_archive_needs_names_and_may_keep_some(tmp_path):
    path = write(tmp_path / "mine.npz", arrays(n_labels=3))
    with refuses(InvalidInput, 3, "data.columns.labels"):
        read_medmnist(DataConfig(), path)
    with refuses(InvalidInput, 3, "data.columns.labels", 2):
        read_medmnist(DataConfig.model_validate({"columns": {"labels": ["a", "b"]}}), path)
    config = DataConfig.model_validate({"columns": {"labels": ["a", "b", "c"]}, "labels": ["c", "a"]})
    record = read_medmnist(config, path).records.load(0)
    assert list(record.labels) == ["a", "c"]
    classes = arrays()
    classes["val_labels"][0] = 3
    with refuses(InvalidInput, 4, "data.columns.labels", 3):
        read_medmnist(config, write(tmp_path / "classes.npz", classes))


def test_bad_rows_are_quarantined(tmp_path, study):
    content = arrays(n_labels=14)
    content["train_labels"][1, 4] = 2
    content["test_images"][3] = 7
    content["val_images"][2] = content["train_images"][0]
    result = import_records(study, path=write(tmp_path / "chestmnist.npz", content))
    with open(result.quarantine, newline="") as file:  # noqa: PTH123
        found = {row["record_id"]: row["reason"] for row in csv.DictReader(file)}
    assert found["chestmnist-train-000001"] == "label 'mass' is 2; use 1 or 0"
    assert "one grey value" in found["chestmnist-test-000003"]
    assert "maps to two patients" in found["chestmnist-val-000002"]
    assert len(found) == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"val_images": None}, ("val_images", "train_images")),
        ({"test_labels": np.zeros((9, 1), np.uint8)}, ("test", 4, 9)),
        ({"train_images": np.zeros((6, 28, 28, 3), np.uint8)}, ()),
        ({"train_images": np.zeros((6, 28, 28, 28), np.uint8)}, ([6, 28, 28, 28],)),
        ({"train_labels": np.zeros((6, 1), np.float32)}, ()),
        ({"train_labels": np.zeros((6, 2), np.uint8)}, ()),
        ({"train_labels": np.array([[None]] * 6)}, ("train_labels",)),
        ({"train_images": np.array([None] * 6)}, ("train_images",)),
        ({"train_images": np.asfortranarray(np.zeros((6, 28, 28), np.uint8))}, ("train_images",)),
    ],
)
def test_archives_that_cannot_be_planned(tmp_path, change, named):
    content = {name: value for name, value in {**arrays(), **change}.items() if value is not None}
    with refuses(InvalidInput, "pneumoniamnist.npz", *named):
        read_medmnist(DataConfig(), write(tmp_path / "pneumoniamnist.npz", content))


def test_paths_that_are_no_archive(tmp_path):
    path = write(tmp_path / "pneumoniamnist.npz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:-100])
    for given, kind, named in (
        (None, InvalidInput, ("data.path",)),
        (tmp_path / "none.npz", NotFound, ("none.npz",)),
        (tmp_path, InvalidInput, ("cut.npz", "pneumoniamnist.npz")),
        (tmp_path / "empty", InvalidInput, ("empty", ".npz")),
        (tmp_path / "text.npz", InvalidInput, ("text.npz",)),
        (tmp_path / "cut.npz", InvalidInput, ("cut.npz",)),
    ):
        with refuses(kind, *named):
            read_medmnist(DataConfig(), given)


def test_a_damaged_member_costs_its_rows_only(tmp_path, study):
    """Bytes in the middle of one deflated member are wrong: what was before them, and the other splits, come in."""
    path = write(tmp_path / "pneumoniamnist.npz", arrays(n=(40, 3, 4)))
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("train_images.npy")
    content = bytearray(path.read_bytes())
    middle = info.header_offset + info.compress_size // 2
    content[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(content)
    result = import_records(study, path=path)
    kept = study.db.rows("SELECT split, count(*) AS n FROM records GROUP BY 1 ORDER BY 1")
    assert [row["n"] for row in kept if row["split"] != "train"] == [4, 3]
    assert result.n_imported + result.n_quarantined == 47
    assert result.n_quarantined > 0
    with open(result.quarantine, newline="") as file:  # noqa: PTH123
        assert all("is damaged from row" in row["reason"] for row in csv.DictReader(file))


@pytest.mark.parametrize("compressed", [True, False], ids=["deflated", "stored"])
def test_rows_come_in_any_order_and_from_threads(tmp_path, compressed):
    content = arrays(n=(50, 1, 1), side=16)
    rows = Npz(write(tmp_path / "a.npz", content, compressed)).rows("train_images")
    for i in (7, 3, 49, 48, 0, 0, 30):
        assert (rows[i] == content["train_images"][i]).all()
    with pytest.raises(IndexError):
        rows[50]
    wrong = []

    def read(start):
        for i in range(start, 50, 5):
            if (rows[i] != content["train_images"][i]).any():
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_large_archive_is_never_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("radpref.data.datasets.npz.AHEAD", 4)
    rng = np.random.default_rng(0)
    content = {**arrays(side=128), "train_images": rng.integers(0, 256, (300, 128, 128)).astype(np.uint8)}
    content["train_labels"] = np.zeros((300, 1), np.uint8)
    path = write(tmp_path / "pneumoniamnist.npz", content)
    tracemalloc.start()
    plan = read_medmnist(DataConfig(image_size=32), path)
    total = sum(int(plan.records.load(i).image[0, 0] >= 0) for i in range(300))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 300
    assert peak < 1_500_000 < content["train_images"].nbytes / 3


def test_processes_read_an_archive_each_for_itself(tmp_path, study, monkeypatch):
    monkeypatch.setattr("radpref.data.datasets.workers.PROCESSES_FROM", 1)
    path = write(tmp_path / "pneumoniamnist.npz", arrays(n=(20, 5, 5)))
    assert import_records(study, path=path, workers=2).n_imported == 30
