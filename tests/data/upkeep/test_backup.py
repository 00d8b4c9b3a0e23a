import csv
import errno
import json
import shutil

import pytest
from typer.testing import CliRunner

from radpref.data.cli import data_app, study_app
from radpref.data.core.errors import Conflict, InvalidInput, NotFound, StorageFull
from radpref.data.core.files import storage_errors
from radpref.data.exchange.export import export
from radpref.data.imaging.images import encode_png
from radpref.data.study.runs import now
from radpref.data.study.study import Study
from radpref.data.upkeep.backup import MANIFEST, _files, backup, restore
from radpref.data.upkeep.verify import verify
from tests.support.data import add_rated_set, full_disk_after, gray
from tests.support.errors import refuses


def test_round_trip_restores_everything(tiny_study, tmp_path):
    add_rated_set(tiny_study)
    found = backup(tiny_study, tmp_path / "b")
    restored = restore(tmp_path / "b", tmp_path / "again")
    assert restored.n_records == 48
    again = Study(tmp_path / "again")
    assert verify(again).ok
    assert again.db.rows("SELECT * FROM score_events") == tiny_study.db.rows("SELECT * FROM score_events")
    assert found.n_files == restored.n_files
    assert (again.root / "study.toml").read_text() == (tiny_study.root / "study.toml").read_text()
    again.db.close()


def test_second_backup_copies_only_what_is_new(tiny_study, tmp_path):
    first = backup(tiny_study, tmp_path / "b")
    assert backup(tiny_study, tmp_path / "b").n_new == 0
    add_rated_set(tiny_study)
    second = backup(tiny_study, tmp_path / "b")
    assert second.n_new == 4 + 2  # images, study.db, the run's config.json
    assert second.n_files == first.n_files + 5


def test_logins_are_left_out(tiny_study, tmp_path):
    add_rated_set(tiny_study, rater="ann")
    with tiny_study.db.write() as connection:
        connection.execute("INSERT INTO sessions VALUES ('secret-token-hash', 1, ?, ?, ?)", (now(), now(), now()))
        connection.execute("UPDATE raters SET password_hash = 'secret-password-hash'")
    backup(tiny_study, tmp_path / "b")
    assert not any(b"secret-token-hash" in path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file())
    assert tiny_study.db.value("SELECT count(*) FROM sessions") == 1
    export(tiny_study, tmp_path / "e", "csv", actor="office")
    assert not any("secret" in path.read_text() for path in (tmp_path / "e").glob("*.csv"))


def test_interrupted_backup_leaves_the_earlier_one_whole(tiny_study, tmp_path, monkeypatch):
    backup(tiny_study, tmp_path / "b")
    add_rated_set(tiny_study)
    full_disk_after(monkeypatch, 0)
    with pytest.raises(StorageFull):
        backup(tiny_study, tmp_path / "b")
    monkeypatch.undo()
    restore(tmp_path / "b", tmp_path / "again")
    again = Study(tmp_path / "again")
    assert again.db.value("SELECT count(*) FROM score_events") == 0
    assert verify(again).ok
    again.db.close()


def test_interrupted_first_backup_says_so_and_can_be_repeated(tiny_study, tmp_path, monkeypatch):
    full_disk_after(monkeypatch, 1)
    with pytest.raises(StorageFull):
        backup(tiny_study, tmp_path / "b")
    monkeypatch.undo()
    with refuses(NotFound, tmp_path / "b", "study backup"):
        restore(tmp_path / "b", tmp_path / "again")
    assert backup(tiny_study, tmp_path / "b").n_files > 48


def test_what_a_training_renames_meanwhile_is_left_out(tiny_study, tmp_path, monkeypatch):
    folder = tiny_study.root / "runs" / "one"
    folder.mkdir(parents=True)
    for name in ("kept.bin", "gone.part.npy", "checkpoint.part"):
        (folder / name).write_text(name)
    real = _files

    def listed_before(root):
        found = list(real(root))
        (folder / "gone.part.npy").rename(folder / "gone.npy")
        return iter(found)

    monkeypatch.setattr("radpref.data.upkeep.backup._files", listed_before)
    backup(tiny_study, tmp_path / "b")
    names = json.loads((tmp_path / "b" / MANIFEST).read_text())["files"]
    assert [name for name in names if name.startswith("runs/one/")] == ["runs/one/kept.bin"]


def test_a_source_that_cannot_be_read_is_named_and_not_the_target(tiny_study, tmp_path, monkeypatch):
    source = tiny_study.root / "runs" / "one.bin"
    source.parent.mkdir(exist_ok=True)
    source.write_text("x")
    real = shutil.copyfile

    def refused(path, draft):
        if path == source:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, draft)

    monkeypatch.setattr("radpref.data.upkeep.backup.shutil.copyfile", refused)
    with refuses(InvalidInput, source):
        backup(tiny_study, tmp_path / "b")


@pytest.mark.parametrize(
    ("named", "about"),
    [
        ("source/x.bin", "source/x.bin"),
        ("target/.x.part", "target"),
        (".target.draft", "target"),
        (".target.12.part/x", "target"),
        ("", "target"),
    ],
)
def test_an_error_names_the_file_that_it_is_about(tmp_path, named, about):
    with refuses(InvalidInput, tmp_path / about), storage_errors(tmp_path / "target"):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / named))


def test_damage_is_found_before_anything_is_restored(tiny_study, tmp_path):
    backup(tiny_study, tmp_path / "b")
    max((tmp_path / "b" / "objects").rglob("*")).write_bytes(b"x")
    with refuses(InvalidInput, tmp_path / "b"):
        restore(tmp_path / "b", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert not list(tmp_path.glob(".again*"))


def test_a_changed_image_is_not_backed_up(tiny_study, tmp_path):
    min((tiny_study.root / "images").rglob("*.png")).write_bytes(encode_png(gray(1)))
    with refuses(InvalidInput, tiny_study.root, "study verify"):
        backup(tiny_study, tmp_path / "b")


def test_refusals(tiny_study, tmp_path):
    with refuses(InvalidInput, tiny_study.root):
        backup(tiny_study, tiny_study.root / "backup")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with refuses(InvalidInput, tmp_path / "full"):
        backup(tiny_study, tmp_path / "full")
    with refuses(NotFound, tmp_path / "full", "MANIFEST.json"):
        restore(tmp_path / "full", tmp_path / "again")
    (tmp_path / "full" / "MANIFEST.json").write_text('{"kind": "radpref study-jsonl export", "files": {}}')
    with refuses(InvalidInput, tmp_path / "full", "study-jsonl"):
        restore(tmp_path / "full", tmp_path / "again")
    backup(tiny_study, tmp_path / "b")
    with refuses(Conflict, tmp_path / "full"):
        restore(tmp_path / "b", tmp_path / "full")
    manifest = json.loads((tmp_path / "b" / MANIFEST).read_text())
    manifest["files"]["../outside"] = next(iter(manifest["files"].values()))
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(manifest))
    with refuses(InvalidInput, "MANIFEST.json", "../outside"):
        restore(tmp_path / "b", tmp_path / "again")
    (tmp_path / "b" / MANIFEST).write_text("{")
    with refuses(InvalidInput, "MANIFEST.json"):
        restore(tmp_path / "b", tmp_path / "again")


def test_export_does_not_write_beside_another_manifest(tiny_study, tmp_path):
    backup(tiny_study, tmp_path / "b")
    before = sorted(tmp_path.joinpath("b").rglob("*"))
    with refuses(InvalidInput, tmp_path / "b", "radpref csv export"):
        export(tiny_study, tmp_path / "b", "csv", actor="office")
    assert sorted(tmp_path.joinpath("b").rglob("*")) == before


def test_export_is_csv_of_every_table(tiny_study, tmp_path):
    ids = add_rated_set(tiny_study)
    with tiny_study.db.write() as connection:
        connection.execute(
            "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, comment, created_at)"
            " VALUES ('u', ?, ?, 'comment', ?, '9')",
            (ids["presentation_id"], ids["rater_id"], '=HYPERLINK("x")\n"quoted", comma'),
        )
    found = export(tiny_study, tmp_path / "e", "csv", actor="office")
    assert found.counts["tables"]["records"] == 48
    assert found.counts["tables"]["current_scores"] == 4
    assert not (tmp_path / "e" / "sessions.csv").exists()
    with (tmp_path / "e" / "score_events.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["comment"] == '\'=HYPERLINK("x")\n"quoted", comma'
    assert len(rows) == 5


def test_commands(tmp_path, monkeypatch):
    runner = CliRunner()
    root = tmp_path / "My study"

    def run(app, *arguments):
        result = runner.invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    made = run(study_app, "new", root, "--template", "default")
    assert "radpref data import" in made
    toml = root / "study.toml"
    text = (
        toml.read_text()
        .replace("n_train = 600", "n_train = 4")
        .replace("n_val = 200", "n_val = 2")
        .replace("n_test = 400", "n_test = 2")
    )
    toml.write_text(text.replace("image_size = 128", "image_size = 32"))
    assert json.loads(run(data_app, "import", "--study", root, "--json"))["n_imported"] == 8
    shown = json.loads(run(study_app, "show", "--study", root, "--json"))
    assert shown["records"] == {"test": 2, "train": 4, "val": 2}
    assert shown["next"].startswith("radpref generate sets")
    assert "records: train" in run(study_app, "show", "--study", root)
    listed = json.loads(run(data_app, "list", "--study", root, "--json"))
    assert listed["splits"]["train"]["masks"]["lungs"] == 4
    assert run(study_app, "verify", "--study", root).startswith("ok (")
    run(study_app, "backup", tmp_path / "b", "--study", root)
    run(study_app, "restore", tmp_path / "b", tmp_path / "c")
    run(study_app, "export", tmp_path / "e", "--study", tmp_path / "c")
    monkeypatch.chdir(tmp_path / "c")
    assert json.loads(run(study_app, "show", "--json"))["name"] == "My study"
