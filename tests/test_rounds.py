"""One round: order of the steps, waiting for people, going on; and the command line around it: imports, errors."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import types
import uuid
from pathlib import Path

import pytest

import radpref.cli
from radpref import rounds
from radpref.data.core.errors import Conflict, InvalidInput
from radpref.data.reader_study.raters import add_rater
from radpref.data.reader_study.scores import ScoreEvent, record_events, required_scores
from radpref.data.study.study import Study
from tests.support import ROOT
from tests.support.annotate import add_sets
from tests.support.data import table_study
from tests.support.errors import refuses

HEAVY = ("torch", "diffusers", "gradio", "transformers", "pandas", "scipy", "sklearn", "matplotlib")
AFTER = {
    "run_pairs": "radpref.alignment.preferences.pairs",
    "run_align": "radpref.alignment.training.preference_arms",
    "run_finetune": "radpref.alignment.training.preference_arms",
    "run_evaluate": "radpref.alignment.evaluation.evaluate",
    "run_pool": "radpref.generation.pools.pool",
    "run_grid": "radpref.downstream.grid",
    "run_report": "radpref.downstream.report.report",
}
ALL = {
    "run_sets": "radpref.generation.sampling.sets",
    "run_simulate": "radpref.alignment.evaluation.simulated_raters",
    **AFTER,
}


@pytest.fixture
def steps(monkeypatch):
    """Replaces every step by one that only notes its name; returns the list of what ran."""
    ran: list[str] = []

    results = {"run_report": Path("r.html"), "run_grid": types.SimpleNamespace(to_json=lambda: {"ran": "run_grid"})}

    def note(name: str):
        return lambda study, **options: ran.append(name) or results.get(name, {"ran": name})

    stubs = {module: types.ModuleType(module) for module in ALL.values()}
    for name, module in ALL.items():
        setattr(stubs[module], name, note(name))
    for module, stub in stubs.items():
        package, _, child = module.rpartition(".")
        monkeypatch.setitem(sys.modules, module, stub)
        monkeypatch.setattr(importlib.import_module(package), child, stub, raising=False)
    monkeypatch.setattr(rounds, "import_step", lambda study: ran.append("import") or {})
    return ran


def _score_all(study: Study, rater_id: int, n_sets: int | None = None) -> None:
    rows = study.db.rows(
        "SELECT presentation_id, mode FROM presentations JOIN image_sets USING (set_id) JOIN conditions"
        " USING (condition_id) WHERE rater_id = ? ORDER BY position",
        [rater_id],
    )
    events = []
    for row in rows[:n_sets]:
        number = row["presentation_id"]
        for slot, criterion in required_scores(row["mode"]):
            events.append(ScoreEvent(_uuid(number, slot, criterion), number, rater_id, "score", slot, criterion, 3))
        events.append(ScoreEvent(_uuid(number, "submit"), number, rater_id, "submit"))
    record_events(study.db, events)


def _uuid(*parts: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, parts))))


# ---- rounds


def test_every_step_is_where_the_round_looks_for_it():
    for name, module in ALL.items():
        assert callable(getattr(importlib.import_module(module), name))


def test_a_simulated_round_runs_every_step_in_order(study, steps, capsys):
    outcome = rounds.run_round(study, simulated=True)
    assert outcome["state"] == "done"
    assert steps == ["import", "run_sets", "run_simulate", *AFTER]
    assert outcome["steps"]["Write the report"] == {"report": "r.html"}
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == [f"[{i}/10" for i in range(1, 11)]


def test_a_round_without_accounts_stops_before_the_scores(study, steps, capsys):
    outcome = rounds.run_round(study)
    assert outcome["state"] == "waiting for raters"
    assert steps == ["import", "run_sets"]
    assert "no rater has an account yet: `radpref annotate rater add NAME`" in capsys.readouterr().err


def test_a_round_waits_for_the_last_set_of_the_last_rater_and_then_goes_on(study, steps):
    add_sets(study)
    first, second, gone = (add_rater(study.db, name, "x", kind="human", role="rater") for name in ("a", "b", "gone"))
    add_rater(study.db, "office", "x", kind="human", role="admin")
    with study.db.write() as connection:
        connection.execute("UPDATE raters SET active = 0 WHERE rater_id = ?", [_id(gone)])
    outcome = rounds.run_round(study)
    assert (outcome["state"], outcome["raters"], outcome["sets_left"]) == ("waiting for raters", 2, 6)
    _score_all(study, _id(first))
    _score_all(study, _id(second), 2)
    assert rounds.run_round(study)["sets_left"] == 1
    assert "run_pairs" not in steps
    _score_all(study, _id(second))
    steps.clear()
    assert rounds.run_round(study)["state"] == "done"
    assert steps == ["import", "run_sets", *AFTER]


def _id(rater) -> int:
    return int(getattr(rater, "rater_id", rater))


def test_a_study_with_its_own_generator_trains_it_and_its_networks_first(tmp_path, steps, monkeypatch):
    from radpref.generation.measuring import study_networks
    from radpref.generation.training import study_training

    for module, name in ((study_training, "run_train"), (study_networks, "run_networks")):
        monkeypatch.setattr(module, name, lambda study, name=name: steps.append(name) or {})
    opened = Study.create(tmp_path / "own", '[generator]\nmodel = "trained"\n')
    rounds.run_round(opened, simulated=True)
    assert steps[:5] == ["import", "run_train", "run_networks", "run_sets", "run_simulate"]
    opened.db.close()


@pytest.mark.parametrize("simulated", [True, False])
def test_comparison_sets_come_after_the_alignment_and_only_simulated_raters_are_called(
    tmp_path, steps, simulated, monkeypatch, capsys
):
    opened = Study.create(tmp_path / "compared", "[sets]\ncomparison = 4\n")
    monkeypatch.setattr(rounds, "open_presentations", lambda _: (1, 0))
    rounds.run_round(opened, simulated=simulated)
    first, later = steps.index("run_evaluate") + 1, ["run_sets", "run_simulate"] if simulated else ["run_sets"]
    assert steps[first:] == [*later, "run_pool", "run_grid", "run_report"]
    said = capsys.readouterr().err
    assert ("radpref study freeze" in said) is not simulated
    lines = [line for line in said.splitlines() if line.startswith("[")]
    numbers = [line[1:].split("]")[0].split("/") for line in lines]
    assert int(numbers[-1][0]) == int(numbers[-1][1])
    opened.db.close()


def test_an_error_in_a_step_ends_the_round_there(study, steps, monkeypatch):
    def broken(study):
        raise InvalidInput("no scores yet")

    monkeypatch.setattr(sys.modules["radpref.alignment.preferences.pairs"], "run_pairs", broken)
    with pytest.raises(InvalidInput, match="no scores yet"):
        rounds.run_round(study, simulated=True)
    assert steps[-1] == "run_simulate"


def test_records_are_imported_once(study, tmp_path):
    opened = Study.create(tmp_path / "phantom", "[data]\nimage_size = 32\nn_train = 2\nn_val = 1\nn_test = 1\n")
    assert rounds.import_step(opened)["n_imported"] == 4
    assert rounds.import_step(opened)["n_imported"] == 0
    opened.db.close()


def test_a_table_that_was_imported_by_hand_is_not_asked_for_again(tmp_path):
    from radpref.data.datasets.importing import import_records

    opened = table_study(tmp_path)
    table = opened.config.data.path
    text = (opened.root / "study.toml").read_text().replace(f'path = "{table}"\n', "")
    (opened.root / "study.toml").write_text(text)
    opened = Study(opened.root)
    with refuses(InvalidInput, "table", "data.path"):
        rounds.import_step(opened)
    import_records(opened, "table", Path(table))
    assert rounds.import_step(opened) == {"reader": "table", "n_imported": 0, "n_existing": 8}
    opened.db.close()


def test_an_archive_that_was_imported_by_hand_is_not_asked_for_again(tmp_path):
    import numpy as np

    from radpref.data.datasets.importing import import_records

    opened = Study.create(tmp_path / "s", '[data]\nreader = "medmnist"\nimage_size = 32\n')
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    arrays = {f"{split}_images": images[k : k + 1] for k, split in enumerate(("train", "val", "test"))}
    arrays |= {f"{split}_labels": np.array([[1]]) for split in ("train", "val", "test")}
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    with refuses(InvalidInput, "medmnist", ".npz", "data.path"):
        rounds.import_step(opened)
    import_records(opened, path=tmp_path / "pneumoniamnist.npz")
    found = rounds.import_step(opened)
    assert (found["reader"], found["n_imported"], found["n_existing"]) == ("medmnist", 0, 3)
    opened.db.close()


def test_the_demo_refuses_another_study_and_another_size(tmp_path, steps):
    with refuses(InvalidInput, "--size", "huge", "demo", "full"):
        rounds.run_demo(tmp_path / "demo", size="huge", serve=False, port=1)
    with refuses(InvalidInput, "--model", "roentgen", "--size", "demo", "embedded"):
        rounds.run_demo(tmp_path / "demo", size="demo", serve=False, port=1, model="roentgen")
    Study.create(tmp_path / "other", 'name = "other"\n').db.close()
    with refuses(Conflict, tmp_path / "other"):
        rounds.run_demo(tmp_path / "other", size="demo", serve=False, port=1)


def test_the_demo_of_real_radiographs_brings_its_own_networks(tmp_path, steps):
    rounds.run_demo(tmp_path / "demo", size="demo", serve=False, port=1, model="cxr128")
    opened = Study(tmp_path / "demo")
    assert opened.config.generator.model == "cxr128"
    assert (tmp_path / "demo" / "networks" / "rater-1.safetensors").is_file()
    opened.db.close()


def test_the_demo_makes_its_accounts_once_and_can_be_run_again(tmp_path, steps, capsys):
    for _ in range(2):
        rounds.run_demo(tmp_path / "demo", size="demo", serve=False, port=1, as_json=True)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["report"] == "r.html"
    opened = Study(tmp_path / "demo")
    rows = opened.db.rows("SELECT username, kind, role, password_hash FROM raters ORDER BY username")
    assert [(r["username"], r["kind"], r["role"]) for r in rows] == [
        ("office", "human", "admin"),
        ("reader", "human", "rater"),
    ]
    assert all(r["password_hash"].startswith("$argon2id$") for r in rows)
    opened.db.close()


# ---- the command line


def _run(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``radpref words...`` in this process."""
    monkeypatch.setattr(sys, "argv", ["radpref", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        radpref.cli.main()
    streams = capsys.readouterr()
    code = caught.value.code
    return (0 if code is None else int(code)), streams.out, streams.err


def test_importing_the_command_line_imports_nothing_heavy():
    code = f"import json, sys, radpref; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == []


def test_help_names_every_room(monkeypatch, capsys):
    code, out, _ = _run(monkeypatch, capsys, "--help")
    assert code == 0
    for name in ("demo", "study", "data", "generate", "annotate", "align", "downstream", "round"):
        assert name in out


COMMANDS = (
    ("study", "show"), ("study", "verify"), ("data", "list"), ("data", "import"), ("generate", "sets"),
    ("generate", "pool"), ("generate", "train"), ("generate", "networks"), ("annotate", "simulate"), ("round", "run"),
)  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_missing_study_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, words):
    code, out, err = _run(monkeypatch, capsys, *words, "--study", tmp_path / "nowhere")
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("radpref: no study at ")
    assert "radpref study new" in err


def test_a_broken_study_toml_is_one_line_that_names_the_place(monkeypatch, capsys, study):
    path = study.root / "study.toml"
    for text, wanted in (
        ("name = \n", "not valid TOML"),
        ("[sets]\nmixx = [75, 15, 10]\n", "unknown key 'sets.mixx'; did you mean 'mix'?"),
        ("[sets]\nmix = [75, 15, 11]\n", "three percentages that sum to 100"),
    ):
        path.write_text(text)
        code, _, err = _run(monkeypatch, capsys, "generate", "sets", "--study", study.root)
        assert code == 2
        assert err.count("\n") == 1
        assert wanted in err
        assert str(path) in err


def test_errors_are_json_too_where_a_script_asks_for_it(monkeypatch, capsys, tmp_path):
    code, out, err = _run(monkeypatch, capsys, "generate", "sets", "--study", tmp_path / "nowhere", "--json")
    assert code == 2
    assert json.loads(out)["kind"] == "NotFound"
    assert json.loads(out)["error"] in err


@pytest.mark.parametrize(
    ("words", "wanted"),
    [(("generate", "sett"), "sett"), (("sample",), "sample"), (("generate", "sets", "--nn", "3"), "--nn"),
     (("generate", "sets", "--n", "none"), "valid integer"), (("generate", "sets", "--n", "0"), "'--n'")],
)  # fmt: skip
def test_unknown_commands_options_and_values_are_one_line(monkeypatch, capsys, words, wanted):
    code, _, err = _run(monkeypatch, capsys, *words)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("radpref: ")
    assert wanted in err
    assert " --help`" in err


def test_no_words_at_all_print_the_help(monkeypatch, capsys):
    code, out, err = _run(monkeypatch, capsys)
    assert code == 2
    assert "demo" in out + err
    assert "Traceback" not in err


@pytest.mark.parametrize("mix", ["75/15", "a/b/c", "75,15,10", "75/15/11"])
def test_a_bad_mix_is_one_line(monkeypatch, capsys, tiny_study, mix):
    (tiny_study.root / "generator").mkdir()
    with (tiny_study.root / "study.toml").open("a") as file:
        file.write('[generator]\nmodel = "generator"\n')
    code, _, err = _run(monkeypatch, capsys, "generate", "sets", "--study", tiny_study.root, "--mix", mix)
    assert code == 2
    assert err.count("\n") == 1
    assert "three percentages" in err


def test_an_interruption_and_a_full_disk_say_how_to_go_on(monkeypatch, capsys, study):
    import radpref.generation.sampling.sets

    def fail(error):
        def raising(*args, **kwargs):
            raise error

        return raising

    for error, code, wanted in (
        (KeyboardInterrupt(), 130, "run the same command again"),
        (OSError(28, "No space left on device", "runs/x/metrics.jsonl"), 2, "free space"),
    ):
        monkeypatch.setattr(radpref.generation.sampling.sets, "run_sets", fail(error))
        found, _, err = _run(monkeypatch, capsys, "generate", "sets", "--study", study.root)
        assert found == code
        assert wanted in err
        assert "Traceback" not in err


def test_waiting_for_raters_is_exit_code_3(monkeypatch, capsys, study, steps):
    code, out, _ = _run(monkeypatch, capsys, "round", "run", "--study", study.root, "--json")
    assert code == 3
    assert json.loads(out)["state"] == "waiting for raters"
