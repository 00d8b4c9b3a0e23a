"""Whatever a user gets wrong about data is one line; one bad image never stops an import; a full disk loses nothing."""

import csv
import errno
import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import radpref.cli
from radpref.data.cli import data_app, study_app
from radpref.data.core.errors import Conflict, InvalidInput, NotFound, RadprefError, StorageFull
from radpref.data.core.sqlite import sqlite3
from radpref.data.datasets.importing import import_records
from radpref.data.datasets.registry import ImportPlan, get_reader
from radpref.data.imaging.rle import encode_rle
from radpref.data.study.db import translate
from radpref.data.study.study import Study
from radpref.data.upkeep.overview import overview
from radpref.data.upkeep.verify import verify
from tests.support.data import full_disk_after, gray, table_study
from tests.support.dicom import write_dicom
from tests.support.errors import missing_names, refuses
from tests.support.grown import grow


def reasons(quarantine):
    with open(quarantine, newline="") as file:  # noqa: PTH123
        return {row["record_id"]: row["reason"] for row in csv.DictReader(file)}


def test_every_kind_of_bad_row_is_quarantined_with_its_reason(tmp_path):
    study = table_study(
        tmp_path,
        n=12,
        person=["p0", "p0", "p1", "p1", "p2", "p2", "p3", "p3", "p4", "", "p6", "p6"],
        part=["train", "train", "train", "train", "val", "nonsense", "test", "test", "val", "val", "train", "test"],
        ill=["0", "1", "0", "1", "0", "1", "2", "1", "0", "1", "0", "1"],
    )
    tree = tmp_path / "tree"
    (tree / "images" / "0.png").write_text("no image")
    (tree / "images" / "1.png").unlink()
    Image.fromarray(gray(1, 32)).save(tree / "masks" / "2.png")
    shutil.copy(tree / "images" / "7.png", tree / "images" / "3.png")
    with study.db.write() as connection:
        marked = study.store.path(study.store.put_image(connection, gray(77, 80), "synthetic"))
    shutil.copy(marked, tree / "images" / "8.png")
    result = import_records(study)
    found = reasons(result.quarantine)
    expected = {
        0: "not a readable image", 1: "no image at", 2: "mask", 5: "split 'nonsense'", 6: "'2'",
        7: "identical", 8: "synthetic mark", 9: "no patient", 10: "patient p6 is in train and in test",
    }  # fmt: skip
    assert set(found) == {f"tree/images/{i}.png" for i in expected}
    for i, words in expected.items():
        assert words in found[f"tree/images/{i}.png"]
        assert "\n" not in found[f"tree/images/{i}.png"]
    assert (result.n_imported, result.n_quarantined) == (3, 9)
    assert "32x32, its image 64x80" in found["tree/images/2.png"]
    assert verify(study).problems == []
    study.db.close()


def test_constant_tiny_and_repeated_rows(tmp_path):
    study = table_study(tmp_path, file=[f"images/{i}.png" for i in (0, 1, 2, 3, 4, 5, 6, 6)])
    tree = tmp_path / "tree"
    Image.fromarray(np.full((80, 64), 9, np.uint8)).save(tree / "images" / "0.png")
    Image.fromarray(gray(1, 8)).save(tree / "images" / "1.png")
    found = reasons(import_records(study).quarantine)
    assert "one grey value" in found["tree/images/0.png"]
    assert "8x8 pixels" in found["tree/images/1.png"]
    assert "row 9 repeats" in found["tree/images/6.png#row9"]
    study.db.close()


def test_mended_rows_come_in_on_the_next_import(tmp_path):
    study = table_study(tmp_path)
    good = (tmp_path / "tree" / "images" / "0.png").read_bytes()
    (tmp_path / "tree" / "images" / "0.png").write_text("broken")
    assert import_records(study).n_quarantined == 1
    (tmp_path / "tree" / "images" / "0.png").write_bytes(good)
    again = import_records(study)
    assert (again.n_imported, again.n_existing, again.quarantine) == (1, 7, None)
    assert import_records(study).n_imported == 0
    study.db.close()


def test_all_rows_bad_is_an_error(tmp_path):
    study = table_study(tmp_path, part=["x"] * 8)
    with refuses(InvalidInput, "x", "table.csv"):
        import_records(study)
    study.db.close()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('image = "file"', 'image = "fil"', ("fil", "file")),
        ('mask.lungs = "mask"', 'mask.lungs = "zzz"', ("zzz", "file")),
        ('mask.lungs = "mask"', 'mask.heart = "mask"', ("heart", "data.structures")),
        ('labels = ["ill", ', 'labels = ["illl", ', ("illl", "ill")),
        ('labels = ["ill", ', 'labels = ["ill=", ', ("name=column:value",)),
        ('labels = ["ill", ', 'labels = ["ill", "ill=kind:x", ', ("ill",)),
        ('text = "words"', 'text = "{popul} x"', ("popul", "population")),
        ('text = "words"', 'text = "{kind"', ("{kind",)),
        ('patient = "person"\n', "", ("data.columns.patient",)),
        ('text = "words"', 'where.population = "mars"', ()),
    ],
)
def test_bad_column_map_is_one_line(tmp_path, old, new, named):
    study = table_study(tmp_path, replace=((old, new),))
    with refuses(InvalidInput, *named):
        import_records(study)
    assert study.db.value("SELECT count(*) FROM runs") == 0
    study.db.close()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b'a,b\n"1,2\n', b"PAR1nonsense"])
def test_unreadable_tables(tmp_path, content):
    study = table_study(tmp_path)
    for name in ("bad.csv", "bad.parquet"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInput) as error:
            import_records(study, path=tmp_path / name)
        assert "\n" not in str(error.value)
    study.db.close()


def test_missing_table_and_no_path(tmp_path, study):
    with refuses(NotFound, "none.csv"):
        import_records(study, "table", tmp_path / "none.csv")
    with refuses(InvalidInput, "data.path"):
        import_records(study, "table")


def test_record_size_is_fixed_by_the_first_import(tmp_path):
    study = table_study(tmp_path)
    import_records(study)
    study.db.close()
    toml = study.root / "study.toml"
    toml.write_text(toml.read_text().replace("image_size = 64", "image_size = 128"))
    study = Study(study.root)
    with refuses(Conflict, 64, "data.image_size", 128):
        import_records(study)
    study.db.close()


def test_full_disk_while_importing_keeps_finished_batches_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr("radpref.data.datasets.importing.BATCH_SIZE", 4)
    study = Study.create(tmp_path / "s", "[data]\nimage_size = 32\nn_train = 12\nn_val = 0\nn_test = 0\n")
    full_disk_after(monkeypatch, 25)
    with refuses(StorageFull):
        import_records(study)
    kept = study.db.value("SELECT count(*) FROM records")
    assert kept in (4, 8)
    assert verify(study).problems == []
    monkeypatch.undo()
    result = import_records(study)
    assert (result.n_existing, result.n_imported) == (kept, 12 - kept)
    assert study.db.value("SELECT count(*) FROM runs") == 1  # the unfinished run was taken up again
    assert study.db.value("SELECT status FROM runs") == "done"
    study.db.close()


def test_interrupted_import_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr("radpref.data.datasets.importing.BATCH_SIZE", 4)
    study = Study.create(tmp_path / "s", "[data]\nimage_size = 32\nn_train = 10\nn_val = 0\nn_test = 0\n")
    real = get_reader("phantom")

    def interrupted(config, path):
        records = real(config, path).records

        class Interrupted(type(records)):
            def load(self, i):
                if i == 6:
                    raise KeyboardInterrupt
                return super().load(i)

        return ImportPlan(Interrupted(config, records.sizes))

    monkeypatch.setattr("radpref.data.datasets.digital_phantom.read_phantom", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_records(study)
    assert study.db.value("SELECT count(*) FROM records") == 4
    monkeypatch.setattr("radpref.data.datasets.digital_phantom.read_phantom", real)
    grow(study)
    assert import_records(study).n_imported == 6
    assert study.db.value("SELECT count(*) FROM runs") == 1
    study.db.close()


def test_empty_study_is_sound(study):
    found = verify(study)
    assert found.ok
    shown = CliRunner().invoke(study_app, ["show", "--study", str(study.root)])
    assert shown.exit_code == 0
    assert "radpref data import" in shown.output


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (study_app, ["show", "--study", "{root}/none"]),
        (study_app, ["verify", "--study", "{root}/none"]),
        (study_app, ["new", "{root}"]),
        (study_app, ["new", "{root}/x", "--template", "nope"]),
        (study_app, ["backup", "{root}/inside", "--study", "{root}"]),
        (study_app, ["restore", "{root}/none", "{root}/y"]),
        (data_app, ["import", "nope", "--study", "{root}"]),
        (data_app, ["import", "table", "nope.csv", "--study", "{root}"]),
        (data_app, ["list", "--study", "{root}/none"]),
    ],
)
def test_commands_raise_only_errors_of_the_tree(study, app, arguments):
    result = CliRunner().invoke(app, [argument.format(root=study.root) for argument in arguments])
    assert isinstance(result.exception, RadprefError)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT record_id, dataset, patient_id, split FROM records WHERE image_sha = ?",
        "SELECT split FROM records WHERE dataset = ? AND patient_id = ? AND split <> ?",
    ],
)
def test_what_is_asked_of_every_new_record_is_looked_up_not_searched(study, sql):
    plan = study.db.rows(f"EXPLAIN QUERY PLAN {sql}", ("x",) * sql.count("?"))
    assert [row["detail"].split()[0] for row in plan] == ["SEARCH"]


def spoilt_table(tmp_path):
    """A study on a table whose rows go wrong in every way that one row can."""
    masks = [encode_rle(np.ones((80, 64), bool), "relative")] * 8
    masks[3] = "5000 900"
    files = ["images/cut.dcm", *(f"images/{i}.png" for i in range(1, 8))]
    study = table_study(
        tmp_path,
        replace=(('mask.lungs = "mask"', 'rle.lungs = "mask"'), ("[data]\n", '[data]\nrle = "relative"\n')),
        file=files, mask=masks, ill=["0", "2", "0", "1", "0", "1", "0", "1"],
    )  # fmt: skip
    path = write_dicom(tmp_path / "tree" / "images" / "cut.dcm", gray(0, 80))
    path.write_bytes(path.read_bytes()[:-999])
    (tmp_path / "tree" / "images" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    return study


def test_the_command_goes_past_every_bad_row_and_counts_them(tmp_path):
    study = spoilt_table(tmp_path)
    shown = CliRunner().invoke(data_app, ["import", "--study", str(study.root), "--json"])
    assert shown.exit_code == 0
    found = reasons(json.loads(shown.stdout)["quarantine"])
    expected = {
        "cut.dcm": "pixel data",
        "1.png": "'2'",
        "2.png": "not a readable image",
        "3.png": "pixel 5900 of 64x80",
    }
    assert {name: words in found[f"tree/images/{name}"] for name, words in expected.items()} == dict.fromkeys(
        expected, True
    )
    assert len(found) == 4
    assert study.db.value("SELECT count(*) FROM records") == 4
    assert verify(study).problems == []
    study.db.close()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["table"], ("data.path",)),
        (["table", "{root}/none.csv"], ("none.csv",)),
        (["table", "{root}/empty"], ("empty",)),
        (["table", "{root}/image.png"], ("image.png",)),
        (["table", "{root}/head.csv"], ("head.csv",)),
        (["medmnist"], ("data.path",)),
        (["medmnist", "{root}/none.npz"], ("none.npz",)),
        (["medmnist", "{root}/empty"], ("empty",)),
        (["medmnist", "{root}/head.csv"], ("head.csv",)),
        (["chexpert", "{root}/none"], ("none", "chexpert")),
        (["chexpert", "{root}/head.csv"], ("head.csv", "chexpert")),
        (["siim", "{root}/empty"], ("empty",)),
        (["phantom", "{root}/head.csv"], ("head.csv", "phantom")),
        (["nope"], ("nope", "phantom", "table")),
    ],
)
def test_wrong_paths_are_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, arguments, named):
    study = table_study(tmp_path, replace=((f'path = "{tmp_path}/tree/table.csv"\n', ""),))
    (tmp_path / "empty").mkdir()
    Image.fromarray(gray(0)).save(tmp_path / "image.png")
    (tmp_path / "head.csv").write_text("file,person,part,words,ill,kind,population,mask\n")
    given = [argument.format(root=tmp_path) for argument in arguments]
    monkeypatch.setattr("sys.argv", ["radpref", "data", "import", *given, "--study", str(study.root)])
    with pytest.raises(SystemExit) as stopped:
        radpref.cli.main()
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert missing_names(shown.err, *named) == []
    assert len(shown.err.strip().splitlines()) == 1
    assert study.db.value("SELECT count(*) FROM runs") == 0
    study.db.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "train", "--threads", "0"],
        ["generate", "networks", "--n-steps", "0"],
        ["generate", "pool", "--engine", "ray", "--gpus", "-1"],
        ["align", "evaluate", "--conditions", "0"],
        ["align", "evaluate", "--images", "-2"],
    ],
)
def test_a_number_that_cannot_be_is_one_line_and_exit_code_2(study, capsys, monkeypatch, arguments):
    monkeypatch.setattr("sys.argv", ["radpref", *arguments, "--study", str(study.root)])
    with pytest.raises(SystemExit) as stopped:
        radpref.cli.main()
    assert stopped.value.code == 2
    shown = capsys.readouterr().err.strip()
    assert "greater than or equal to" in shown
    assert arguments[-2] in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["generate", "fidelity", "--images", ""], "--images"),
        (["generate", "fidelity", "--images="], "--images"),
        (["generate", "check", "embedded", "--out", " "], "--out"),
        (["generate", "share", "", "--name", "x"], "an argument"),
        (["data", "import", "table", ""], "an argument"),
        (["data", "import", "--study="], "--study"),
        (["study", "new", ""], "an argument"),
        (["study", "backup", ""], "an argument"),
        (["study", "export", ""], "an argument"),
        (["annotate", "export", ""], "an argument"),
        (["demo", "--study", ""], "--study"),
        (["round", "run", "--study", ""], "--study"),
        (["align", "evaluate", "--judge", ""], "--judge"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(study, capsys, monkeypatch, arguments, name):
    monkeypatch.chdir(study.root)
    before = sorted(study.root.rglob("*"))
    monkeypatch.setattr("sys.argv", ["radpref", *arguments])
    with pytest.raises(SystemExit) as stopped:
        radpref.cli.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"radpref: {name} is empty; give a value, or leave it out\n"
    assert sorted(study.root.rglob("*")) == before


def test_words_with_an_equals_sign_are_not_empty(study, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["radpref", "study", "show", f"--study={study.root}", "--json"])
    with pytest.raises(SystemExit) as stopped:
        radpref.cli.main()
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out)["name"] == "fresh"


TABLE = "[data.columns]\nimage = 'file'\npatient = 'pid'\n"


@pytest.mark.parametrize(
    ("encoding", "separator", "end"),
    [("utf-8-sig", ",", "\r\n"), ("utf-8", ";", "\r\n"), ("utf-16", "\t", "\n"), ("utf-16", ";", "\n")],
)
def test_tables_as_offices_save_them(tmp_path, encoding, separator, end):
    """Blanks and umlauts in folder and file, a byte-order mark, semicolons; the table behind a symbolic link."""
    folder = tmp_path / "Röntgen Bilder"
    folder.mkdir()
    lines = [separator.join(("file", "pid"))]
    for i in range(3):
        Image.fromarray(gray(i)).save(folder / f"ä ß {i}.png")
        lines.append(separator.join((f"ä ß {i}.png", f"p{i}")))
    (folder / "t.csv").write_bytes((end.join(lines) + end).encode(encoding))
    (tmp_path / "link").symlink_to(folder)
    study = Study.create(tmp_path / "eine Studie", f"[data]\nimage_size = 64\nreader = 'table'\n{TABLE}")
    assert import_records(study, path=tmp_path / "link" / "t.csv").n_imported == 3
    assert import_records(study, path=folder / "t.csv").n_existing == 3
    study.db.close()


def test_a_table_in_another_encoding_says_which_to_save(tmp_path):
    study = Study.create(tmp_path / "study", f"[data]\nimage_size = 64\nreader = 'table'\n{TABLE}")
    (tmp_path / "t.csv").write_bytes("file,pid\nä.png,p\n".encode("latin-1"))
    with refuses(InvalidInput, "t.csv", "0xe4", "UTF-8"):
        import_records(study, path=tmp_path / "t.csv")
    study.db.close()


def test_a_configuration_with_a_byte_order_mark_and_one_that_is_no_text(study):
    file = study.root / "study.toml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert Study(study.root).config.name == "fresh"
    file.write_bytes('name = "fr\xe4sch"'.encode("latin-1"))
    with refuses(InvalidInput, "study.toml", "UTF-8"):
        Study(study.root)


def test_an_emptied_database_is_no_new_study(study):
    study.db.close()
    (study.root / "study.db").write_bytes(b"")
    with refuses(RadprefError, "study.db", "study restore"):
        Study(study.root)
    assert (study.root / "study.db").stat().st_size == 0


def test_a_database_that_cannot_be_written_is_no_damage():
    told = translate(sqlite3.OperationalError("attempt to write a readonly database"), Path("s/study.db"))
    assert type(told) is RadprefError  # of an InvalidInput the reading room says 422, and the page drops the score
    assert missing_names(str(told), "study.db", "restore") == ["restore"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, "StorageFull"),
        (errno.EFBIG, "StorageFull"),
        (errno.EACCES, "InvalidInput"),
        (errno.ELOOP, "InvalidInput"),
        (errno.EMFILE, "InvalidInput"),
    ],
)
def test_what_the_system_refuses_is_one_line(study, capsys, monkeypatch, number, kind):
    def refused(*_):
        raise OSError(number, os.strerror(number), "x/y")

    monkeypatch.setattr("radpref.data.upkeep.overview.overview", refused)
    monkeypatch.setattr("sys.argv", ["radpref", "study", "show", "--study", str(study.root), "--json"])
    with pytest.raises(SystemExit) as stopped:
        radpref.cli.main()
    shown = capsys.readouterr()
    assert stopped.value.code == 2
    assert missing_names(shown.err, "x/y") == []
    assert len(shown.err.splitlines()) == 1
    assert json.loads(shown.out)["kind"] == kind


def test_a_fault_of_the_program_is_no_mistake_of_the_user(study, monkeypatch):
    def broken(*_):
        raise OSError("no errno, no file")

    monkeypatch.setattr("radpref.data.upkeep.overview.overview", broken)
    monkeypatch.setattr("sys.argv", ["radpref", "study", "show", "--study", str(study.root)])
    with pytest.raises(OSError, match="no errno"):
        radpref.cli.main()


def test_the_next_command_can_be_pasted_whatever_the_folder_is_called(tmp_path, capsys, monkeypatch):
    root = tmp_path / "eine Studie; $(ls)"
    monkeypatch.setattr("sys.argv", ["radpref", "study", "new", str(root), "--name", "a", "--json"])
    with pytest.raises(SystemExit):
        radpref.cli.main()
    words = shlex.split(json.loads(capsys.readouterr().out)["next"])
    assert words == ["radpref", "data", "import", "--study", str(root)]
    assert shlex.split(overview(Study(root)).next)[-1] == str(root)
