"""The import engine: what was found is told, order and memory hold, nothing but a full disk stops an import."""

import csv
import gc
import json

import pytest
from typer.testing import CliRunner

from radpref.data.cli import data_app
from radpref.data.core.errors import Conflict, InvalidInput, RadprefError, StorageFull
from radpref.data.datasets.importing import import_records
from radpref.data.datasets.registry import READERS, Found
from radpref.data.study.study import Study
from radpref.data.upkeep.verify import verify
from tests.support import importing
from tests.support.data import full_disk_after
from tests.support.errors import refuses
from tests.support.importing import write_list


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A study and the reader ``listed``."""
    monkeypatch.setitem(READERS, "listed", "tests.support.importing:read_listed")
    monkeypatch.setattr("tests.support.importing.COUNTER", importing.Counter())
    study = Study.create(tmp_path / "s", '[data]\nimage_size = 32\nstructures = ["lungs"]\n')
    yield study
    study.db.close()


def reasons(quarantine):
    with open(quarantine, newline="") as file:  # noqa: PTH123
        return {row["record_id"]: row["reason"] for row in csv.DictReader(file)}


def ids(study):
    return [row["record_id"] for row in study.db.rows("SELECT record_id FROM records ORDER BY rowid")]


PROCESSES = pytest.mark.parametrize("processes", [False, True], ids=["threads", "processes"])


@PROCESSES
def test_unforeseen_exceptions_are_quarantined_with_their_name(tmp_path, listed, monkeypatch, processes):
    monkeypatch.setattr("radpref.data.datasets.workers.PROCESSES_FROM", 1 if processes else 10**9)
    path = write_list(tmp_path / "list.csv", 9, does={1: "memory", 4: "odd", 7: "silent"})
    result = import_records(listed, "listed", path, workers=2)
    assert reasons(result.quarantine) == {
        "r00001": "MemoryError: cannot allocate 9 GiB",
        "r00004": "RuntimeError: first line second line",
        "r00007": "ZeroDivisionError: no reason given",
    }
    assert ids(listed) == [f"r{i:05d}" for i in (0, 2, 3, 5, 6, 8)]
    assert verify(listed).problems == []
    assert (importing.COUNTER.n_loaded == 0) == processes  # loaded here, or in other processes


def test_a_decoder_that_kills_its_process_costs_its_own_record_only(tmp_path, listed, monkeypatch):
    monkeypatch.setattr("radpref.data.datasets.workers.PROCESSES_FROM", 1)
    monkeypatch.setattr("radpref.data.datasets.importing.BATCH_SIZE", 6)
    path = write_list(tmp_path / "list.csv", 10, does={2: "crash", 8: "memory"})
    result = import_records(listed, "listed", path, workers=2)
    assert (result.n_imported, result.n_quarantined) == (8, 2)
    assert reasons(result.quarantine) == {
        "r00002": "the decoder crashed on this file; replace or remove it",
        "r00008": "MemoryError: cannot allocate 9 GiB",
    }


def test_a_source_that_changes_under_the_workers_stops_in_one_line(tmp_path, listed, monkeypatch):
    monkeypatch.setattr("radpref.data.datasets.workers.PROCESSES_FROM", 1)
    path = write_list(tmp_path / "list.csv", 4)
    with refuses(Conflict):
        import_records(listed, "listed", path, workers=2, on_found=lambda found: write_list(path, 2))
    assert ids(listed) == []
    assert import_records(listed, "listed", path, workers=2).n_imported == 2


def test_processes_and_threads_store_the_same_study(tmp_path, listed, monkeypatch):
    path = write_list(tmp_path / "list.csv", 20)
    monkeypatch.setattr("radpref.data.datasets.workers.PROCESSES_FROM", 1)
    one = import_records(listed, "listed", path, workers=2).splits.sha256
    other = Study.create(tmp_path / "t", '[data]\nimage_size = 32\nstructures = ["lungs"]\n')
    monkeypatch.setattr("radpref.data.datasets.workers.PROCESSES_FROM", 10**9)
    assert import_records(other, "listed", path).splits.sha256 == one
    assert ids(other) == ids(listed)
    other.db.close()


def test_memory_is_flat(tmp_path, listed, monkeypatch):
    monkeypatch.setattr("radpref.data.datasets.workers.PROCESSES_FROM", 10**9)
    monkeypatch.setattr(
        "radpref.data.imaging.images.write_atomic", lambda path, payload: None
    )  # it is records that are counted
    workers, n = 3, 3000
    result = import_records(listed, "listed", write_list(tmp_path / "list.csv", n), workers=workers)
    gc.collect()
    counter = importing.COUNTER
    assert (result.n_imported, counter.n_loaded) == (n, n)
    assert counter.peak <= workers  # a record lives until its files are written, no longer
    assert counter.alive == 0
    again = import_records(listed, "listed", tmp_path / "list.csv", workers=workers)
    assert (again.n_existing, again.n_imported) == (n, 0)
    assert counter.n_loaded == n  # what is there is skipped by its name, without loading


def test_an_image_of_two_patients_is_refused_and_names_its_twin(tmp_path, listed):
    path = write_list(
        tmp_path / "list.csv", 6, seed={2: "0", 3: "1", 4: "1"}, split={2: "test", 3: "val"}, patient={4: "p1"}
    )
    result = import_records(listed, "listed", path)
    found = reasons(result.quarantine)
    assert set(found) == {"r00002", "r00003", "r00004"}
    assert "maps to two patients" in found["r00002"]
    assert "identical to that of r00000 (patient p0 in train), here patient p2 in test" in found["r00002"]
    assert "that of r00001 (patient p1 in train), here patient p3 in val" in found["r00003"]
    assert found["r00004"] == "the image is identical to that of r00001; keep one of them"
    assert listed.db.value("SELECT count(*) FROM records GROUP BY image_sha HAVING count(*) > 1") is None


def test_a_repeated_identifier_and_a_patient_in_two_splits_are_refused(tmp_path, listed):
    path = write_list(tmp_path / "list.csv", 5, id={3: "r00001"}, patient={4: "p0"}, split={4: "val"})
    found = reasons(import_records(listed, "listed", path).quarantine)
    assert found["r00001"] == "the source holds r00001 twice; keep one of them"
    assert "patient p0 is in val and in train" in found["r00004"]
    assert ids(listed) == ["r00000", "r00001", "r00002"]


def test_an_interruption_keeps_whole_batches_and_their_quarantine(tmp_path, listed, monkeypatch):
    monkeypatch.setattr("radpref.data.datasets.importing.BATCH_SIZE", 4)
    path = write_list(tmp_path / "list.csv", 12, does={1: "odd", 9: "interrupt"})
    with pytest.raises(KeyboardInterrupt):
        import_records(listed, "listed", path)
    assert ids(listed) == [f"r{i:05d}" for i in (0, 2, 3, 4, 5, 6, 7)]
    run = listed.db.row("SELECT run_id, status FROM runs")
    kept = listed.root / "runs" / run["run_id"] / "quarantine.csv"
    assert run["status"] == "running"
    assert set(reasons(kept)) == {"r00001"}
    with kept.open("a") as file:
        file.write('r00009,"torn')  # killed while writing
    write_list(path, 12, does={1: "odd"})
    result = import_records(listed, "listed", path)
    assert (result.n_existing, result.n_imported, result.n_quarantined) == (7, 4, 1)
    assert set(reasons(result.quarantine)) == {"r00001"}
    assert str(kept) == result.quarantine


def test_a_full_disk_stops_an_import_and_loses_nothing(tmp_path, listed, monkeypatch):
    monkeypatch.setattr("radpref.data.datasets.importing.BATCH_SIZE", 4)
    path = write_list(tmp_path / "list.csv", 12, does={5: "odd"})
    full_disk_after(monkeypatch, 20)
    with pytest.raises(StorageFull):
        import_records(listed, "listed", path)
    monkeypatch.undo()
    monkeypatch.setitem(READERS, "listed", "tests.support.importing:read_listed")
    result = import_records(listed, "listed", path)
    assert result.n_existing + result.n_imported == 11
    assert verify(listed).problems == []


def test_what_was_found_is_told_before_and_given_back(tmp_path, listed):
    path = write_list(tmp_path / "list.csv", 3, does={0: "odd"})
    told = []
    result = import_records(listed, "listed", path, on_found=told.append)
    assert [(line.what, line.found, line.expected) for line in told[0]] == [("rows", 3, 12), ("patients", 3, None)]
    assert result.found[0] == Found("rows", 3, 12, "of the list")
    config = json.loads((listed.root / "runs" / result.run_id / "config.json").read_text())
    assert set(config["provenance"]["inputs"]) == {"list.csv"}


def test_the_command_prints_the_layout_check(tmp_path, listed):
    path = write_list(tmp_path / "list.csv", 3)
    arguments = ["import", "listed", str(path), "--study", str(listed.root), "--workers", "1"]
    shown = CliRunner().invoke(data_app, arguments)
    assert shown.exit_code == 0, shown.output
    line = next(line for line in shown.output.splitlines() if "rows" in line)
    assert [part.strip() for part in line.strip("│ ").split("│")] == ["rows", "3", "12", "-9; of the list"]
    as_json = json.loads(CliRunner().invoke(data_app, [*arguments, "--json"]).stdout)
    assert as_json["found"][0]["expected"] == 12
    assert as_json["n_existing"] == 3


@pytest.mark.parametrize("workers", [0, -2])
def test_workers_are_at_least_one(tmp_path, listed, workers):
    with refuses(InvalidInput, workers):
        import_records(listed, "listed", write_list(tmp_path / "list.csv", 1), workers=workers)


def test_processes_that_cannot_start_say_so(tmp_path, listed, monkeypatch):
    monkeypatch.setattr("radpref.data.datasets.workers.PROCESSES_FROM", 1)
    monkeypatch.setattr("radpref.data.datasets.workers._is_ready", importing.die)
    with refuses(RadprefError, "--workers"):
        import_records(listed, "listed", write_list(tmp_path / "list.csv", 2), workers=2)
