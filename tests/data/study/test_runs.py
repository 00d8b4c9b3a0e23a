import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from radpref.data.core.errors import Conflict, InvalidInput, NotFound, StorageFull
from radpref.data.study import runs
from radpref.data.study.run_lock import only_one
from radpref.data.study.runs import finished_run, latest_run, once, provenance, start_run
from radpref.data.upkeep.verify import verify
from tests.support import ROOT
from tests.support.errors import refuses


def test_a_run_is_recorded(study):
    with start_run(study, "pool", {"n": 2}, {"table": "ab"}) as run:
        run.log(step=1, loss=0.5)
        run.result = {"made": 3}
    row = study.db.row("SELECT * FROM runs")
    assert (row["status"], json.loads(row["config"]), json.loads(row["result"])) == ("done", {"n": 2}, {"made": 3})
    assert json.loads(row["provenance"])["inputs"] == {"table": "ab"}
    assert json.loads((run.folder / "config.json").read_text())["kind"] == "pool"
    assert latest_run(study, "pool").result == {"made": 3}
    assert finished_run(study, "pool", {"n": 2}).run_id == run.run_id
    assert finished_run(study, "pool", {"n": 3}) is None
    with refuses(NotFound, "align"):
        latest_run(study, "align")


def test_interrupted_run_is_resumed_and_another_config_is_not(study):
    with pytest.raises(KeyboardInterrupt), start_run(study, "sets", {"n": 1}) as first:  # noqa: PT012
        first.log(step=1)
        raise KeyboardInterrupt
    with start_run(study, "sets", {"n": 2}) as other:
        assert other.run_id != first.run_id
    with start_run(study, "sets", {"n": 1}) as again:
        assert again.run_id == first.run_id
        assert again.metrics() == [{"step": 1}]
    with start_run(study, "sets", {"n": 1}) as third:
        assert third.run_id != first.run_id


def test_torn_metrics_line_is_dropped(study):
    with start_run(study, "align", {}) as run:
        run.log(step=1)
        with (run.folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2, "lo')
        assert run.metrics() == [{"step": 1}]


def test_latest_is_the_newest(study):
    ids = []
    for n in range(3):
        with start_run(study, "grid", {"n": n}) as run:
            ids.append(run.run_id)
    assert latest_run(study, "grid").run_id == ids[-1]


def test_provenance_names_versions():
    found = provenance({})
    assert {"python", "packages", "git", "inputs"} <= set(found)
    assert "numpy" in found["packages"]


def test_the_revision_is_of_radpref_not_of_a_repository_around_its_installation(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    installed = tmp_path / "environment" / "runs.py"
    installed.parent.mkdir()
    installed.write_text("# the package\n")
    (tmp_path / "notebook.py").write_text("# theirs\n")
    monkeypatch.setattr(runs, "__file__", str(installed))
    assert runs.git_revision() is None  # no repository
    git("init", "-q")
    git("add", "notebook.py")
    git("commit", "-qm", "theirs")
    assert runs.git_revision() is None
    git("add", ".")
    git("commit", "-qm", "the package too: a checkout")
    assert runs.git_revision() == git("rev-parse", "HEAD")
    installed.write_text("# changed\n")
    assert runs.git_revision() == git("rev-parse", "HEAD") + "+"


@pytest.mark.parametrize("error", [InvalidInput, NotFound, Conflict])
def test_a_command_refused_before_it_did_anything_leaves_no_run(study, error):
    with pytest.raises(error), start_run(study, "align", {"n": 1}):
        raise error("a mistyped value")
    assert study.db.value("SELECT count(*) FROM runs") == 0
    assert list((study.root / "runs").iterdir()) == []
    assert not [note for note in verify(study).notes if "not finished" in note]


@pytest.mark.parametrize("what", ["log", "database", "model", "full disk", "interrupted"])
def test_a_run_that_did_something_stays_and_is_resumed(study, what):
    error = {"full disk": StorageFull, "interrupted": KeyboardInterrupt}.get(what, InvalidInput)
    with pytest.raises(error), start_run(study, "align", {"n": 1}) as run:  # noqa: PT012
        if what == "log":
            run.log(step=1)
        elif what == "model":
            run.model_folder.mkdir(parents=True)
        elif what == "database":
            with study.db.write() as connection:
                connection.execute("INSERT INTO images VALUES (?, 'real', 64, 64, 8)", ("0" * 64,))
        raise error("later")
    with pytest.raises(InvalidInput), start_run(study, "align", {"n": 1}) as again:  # noqa: PT012
        assert again.run_id == run.run_id
        raise InvalidInput("and a resumed run is never forgotten")
    assert study.db.value("SELECT status FROM runs") == "running"


def test_one_process_works_on_a_run(study):
    with start_run(study, "sets", {"n": 1}):
        with refuses(Conflict, "sets", os.getpid()):  # noqa: SIM117
            with start_run(study, "sets", {"n": 1}):
                raise AssertionError
        with start_run(study, "sets", {"n": 2}):
            pass
    with start_run(study, "sets", {"n": 1}):
        pass
    assert study.db.value("SELECT count(*) FROM runs") == 3
    assert list((study.root / "runs").glob(".*")) == []


def test_a_lock_file_has_the_rights_that_the_umask_leaves(tmp_path):
    before = os.umask(0o002)
    try:
        with only_one(tmp_path, "x", "this"):
            assert (tmp_path / ".x.lock").stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)


def test_a_lock_file_of_another_user_that_may_only_be_read_is_locked(tmp_path, monkeypatch):
    real, held = os.open, tmp_path / ".x.lock"

    def only_reading(path, flags, *mode):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *mode)

    with only_one(tmp_path, "x", "this"):
        monkeypatch.setattr("radpref.data.study.run_lock.os.open", only_reading)
        with refuses(Conflict, os.getpid()), only_one(tmp_path, "x", "this"):
            raise AssertionError
    held.touch()
    with only_one(tmp_path, "x", "this"):
        assert held.exists()
    with refuses(InvalidInput, ".x.lock"), only_one(tmp_path, "x", "this"):
        raise AssertionError  # there is no file to read now


def test_work_is_done_once(study):
    worked = []

    def work(run):
        worked.append(run.run_id)
        if len(worked) == 1:
            run.log(step=1)
            raise KeyboardInterrupt
        return {"n_lines": len(run.metrics())}

    with pytest.raises(KeyboardInterrupt):
        once(study, "sets", {"n": 1}, work)
    first = once(study, "sets", {"n": 1}, work, {"table": "ab"})
    again = once(study, "sets", {"n": 1}, work)
    assert worked == [first.run_id, first.run_id]  # the interrupted run was taken up again
    assert (first.outcome, again.outcome) == ({"n_lines": 1}, {"n_lines": 1, "already_done": True})
    assert once(study, "sets", {"n": 2}, work).run_id != first.run_id
    assert not once(study, "sets", {"n": 1}, work, intact=lambda run: False).already_done
    assert study.db.value("SELECT count(*) FROM runs WHERE status = 'done'") == 3
    with pytest.raises(NotFound):
        once(study, "align", {}, lambda run: latest_run(study, "pairs").result)
    assert finished_run(study, "align") is None
    assert list((study.root / "runs").glob(".*")) == []


def test_work_that_another_process_ended_meanwhile_is_not_done_again(study, monkeypatch):
    real = only_one

    def late(*arguments):  # between the first question and the lock another command does it all
        monkeypatch.setattr("radpref.data.study.runs.only_one", real)
        once(study, "sets", {"n": 1}, lambda run: {"by": "the other"})
        return real(*arguments)

    monkeypatch.setattr("radpref.data.study.runs.only_one", late)
    assert once(study, "sets", {"n": 1}, lambda run: pytest.fail("done twice")).result == {"by": "the other"}
    assert study.db.value("SELECT count(*) FROM runs") == 1


def test_a_killed_holder_lets_go(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from radpref.data.study.run_lock import only_one\n"
        "with only_one(Path(sys.argv[1]), 'x', 'this'):\n    print('held', flush=True); time.sleep(600)"
    )
    here = ROOT
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=here, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with (
            refuses(Conflict, other.pid),
            only_one(tmp_path, "x", "this"),
        ):
            raise AssertionError
        other.send_signal(signal.SIGKILL)
    with only_one(tmp_path, "x", "this"):
        pass
