import pytest

from radpref.data.core.errors import Conflict, InvalidInput, NotFound, StorageFull
from radpref.data.core.files import sha256_bytes, sha256_file, sha256_tree, write_atomic
from radpref.data.study.study import Study
from tests.support.data import full_disk_after
from tests.support.errors import refuses


def test_create_and_open(tmp_path):
    made = Study.create(tmp_path / "a" / "b", 'name = "x"\n')
    assert made.config.name == "x"
    assert Study(tmp_path / "a" / "b").config == made.config
    # SQLite keeps its journal, or its log and index, beside the file while it is open.
    names = {path.name for path in made.root.iterdir()} - {"study.db-journal", "study.db-wal", "study.db-shm"}
    assert names == {"study.db", "study.toml"}


def test_create_refuses_what_is_there(tmp_path, study):
    with refuses(Conflict, study.root):
        Study.create(study.root, "")
    (tmp_path / "file").write_text("")
    with refuses(InvalidInput, tmp_path / "file"):
        Study.create(tmp_path / "file", "")


def test_invalid_toml_makes_no_study(tmp_path):
    with pytest.raises(InvalidInput):
        Study.create(tmp_path / "s", "nope = 1")
    assert not (tmp_path / "s" / "study.toml").exists()
    assert Study.create(tmp_path / "s", "").config.name == "pilot"


def test_missing_study_is_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with refuses(NotFound, path, "study new"):
            Study(path)


def test_study_without_database(study):
    study.db.close()
    (study.root / "study.db").unlink()
    with refuses(NotFound, study.root / "study.db", "study new"):
        Study(study.root)


def test_write_atomic_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    full_disk_after(monkeypatch, 0)
    with refuses(StorageFull, path):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_below_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("old")
    for path in ("file/a.txt", "file/deeper/a.txt"):
        with refuses(InvalidInput, tmp_path / path):
            write_atomic(tmp_path / path, "new")


def test_hashes(tmp_path):
    write_atomic(tmp_path / "d" / "a", b"abc")
    assert sha256_file(tmp_path / "d" / "a") == sha256_bytes(b"abc")
    one = sha256_tree(tmp_path / "d")
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "b")
    assert sha256_tree(tmp_path / "d") != one
    two = sha256_tree(tmp_path / "d", without=("README.md",))
    (tmp_path / "d" / "README.md").write_text("card")
    assert sha256_tree(tmp_path / "d", without=("README.md",)) == two


def test_full_disk_while_making_a_study(tmp_path, monkeypatch):
    full_disk_after(monkeypatch, 0)
    with pytest.raises(StorageFull):
        Study.create(tmp_path / "s", "")
    monkeypatch.undo()
    assert Study.create(tmp_path / "s", "").config.name == "pilot"
