import json

import pytest

from data.errors import NotFound
from data.records import latest_run, provenance, start_run


def test_a_run_is_recorded(study):
    with start_run(study, "pool", {"n": 2}, {"table": "ab"}) as run:
        run.log(step=1, loss=0.5)
        run.result = {"made": 3}
    row = study.db.row("SELECT * FROM runs")
    assert (row["status"], json.loads(row["config"]), json.loads(row["result"])) == ("done", {"n": 2}, {"made": 3})
    assert json.loads(row["provenance"])["inputs"] == {"table": "ab"}
    assert json.loads((run.folder / "config.json").read_text())["kind"] == "pool"
    assert latest_run(study, "pool").result == {"made": 3}
    assert latest_run(study, "pool", {"n": 2}).run_id == run.run_id
    with pytest.raises(NotFound, match="run that step first"):
        latest_run(study, "pool", {"n": 3})


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
        run.rewrite_metrics([{"step": 9}])
        assert run.metrics() == [{"step": 9}]


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
