"""The loop as one list of steps: a round of any study, and the demo on the embedded default.

Every step is a service function that resumes what is unfinished and returns at once where all is done,
so running the list again is how an interrupted round goes on.
"""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from radpref.data.config.study_config import parse_config
from radpref.data.core.errors import Conflict, InvalidInput
from radpref.data.reader_study.raters import Role, add_rater
from radpref.data.study.pools import PROXY_FILTERED, PROXY_FINETUNED
from radpref.data.study.study import Study
from radpref.data.study.templates import read_template

if TYPE_CHECKING:
    from radpref.data.captions.due import Estimate

Step = tuple[str, Callable[[], dict[str, Any]]]
_say = partial(typer.echo, err=True)
N_WORKERS = min(4, os.cpu_count() or 1)
"""Processes that train cells of the downstream grid."""
DEMO_TEMPLATES = {
    ("embedded", "demo"): "demo",
    ("embedded", "full"): "default",
    ("cxr128", "demo"): "demo-cxr128",
}
"""(shipped model, size) -> template of study.toml."""
DEMO_ACCOUNTS: tuple[tuple[str, Role, str], ...] = (
    ("reader", "rater", "demo-reader"),
    ("office", "admin", "demo-office"),
)
"""(user name, role, password) of the demo; only ``radpref demo`` makes them, and it serves on loopback alone."""


def import_step(study: Study) -> dict[str, Any]:
    """Import the records of study.toml's reader and caption those that bring none; at once where all is there.

    A set whose path came with ``radpref data import READER PATH`` is not read again.
    """
    from radpref.data.datasets.importing import import_records

    n_records = int(study.db.value("SELECT count(*) FROM records"))
    reader = study.config.data.reader
    if reader != "phantom" and study.config.data.path is None and n_records:
        return {"reader": reader, "n_imported": 0, "n_existing": n_records} | _missing_captions(study)
    return asdict(import_records(study)) | _missing_captions(study)


def _missing_captions(study: Study) -> dict[str, Any]:
    """Captions for records with a report or labels and none of their own; nothing is sent off this machine unasked."""
    from radpref.data.captions.writing import write_captions
    from radpref.data.reader_study.lifecycle import stage

    def refuse(expected: Estimate) -> None:
        if expected.place == "this machine":
            return
        raise Conflict("captions come from an endpoint off this machine: write them first with `radpref data caption`")

    if stage(study.db) in ("locked", "frozen"):
        return {}
    found = write_captions(study, missing=True, environ=os.environ, confirm=refuse)
    return {"captions": asdict(found)} if found.n_due else {}


def train_step(study: Study) -> dict[str, Any]:
    """Train the study's generator; torch is loaded here, when its turn has come."""
    from radpref.generation.training.study_training import run_train

    return run_train(study)


def before_scoring(study: Study) -> list[Step]:
    """The steps up to the reading room."""
    from radpref.generation.sampling.sets import run_sets

    steps: list[Step] = [("Import real images", lambda: import_step(study))]
    if study.config.generator.model == "trained":
        from radpref.generation.measuring.study_networks import run_networks

        steps.append(("Train the generator", lambda: train_step(study)))
        steps.append(("Train the measuring networks", lambda: run_networks(study)))
    return [*steps, ("Sample sets of four", lambda: run_sets(study))]


def after_scoring(study: Study, *, simulated: bool = False) -> list[Step]:
    """The steps from scores to the report."""
    from radpref.alignment.evaluation.evaluate import run_evaluate
    from radpref.alignment.preferences.pairs import run_pairs
    from radpref.alignment.training.preference_arms import run_align, run_finetune
    from radpref.downstream.grid import run_grid
    from radpref.downstream.report.report import run_report
    from radpref.generation.pools.pool import run_pool

    return [
        ("Turn scores into preference pairs", lambda: run_pairs(study)),
        ("Align with Diffusion-DPO", lambda: run_align(study)),
        ("Fine-tune on high scores (control arm)", lambda: run_finetune(study)),
        *proxy_steps(study),
        ("Evaluate on held-out conditions", lambda: run_evaluate(study)),
        *comparison_steps(study, simulated=simulated),
        ("Sample augmentation pools", lambda: run_pool(study)),
        ("Train the downstream models", lambda: run_grid(study, n_workers=N_WORKERS).to_json()),
        ("Write the report", lambda: {"report": str(run_report(study))}),
    ]


def proxy_steps(study: Study) -> list[Step]:
    """The proxy's arms, where downstream.arms asks for them: filtered pools, and the generator trained on them."""
    arms = [arm for arm in study.config.downstream.arms if arm in (PROXY_FILTERED, PROXY_FINETUNED)]
    if not arms:
        return []
    from radpref.alignment.training.proxy_arm import run_proxy

    return [("Filter and fine-tune by the proxy (control arm)", lambda: run_proxy(study, arms=arms))]


def comparison_steps(study: Study, *, simulated: bool) -> list[Step]:
    """Blinded comparison sets (``sets.comparison``); simulated raters score them at once, people in their time."""
    n = study.config.sets.comparison
    if n == 0:
        return []
    from radpref.alignment.evaluation.simulated_raters import run_simulate
    from radpref.generation.sampling.sets import run_sets

    sample: Step = ("Sample comparison sets", lambda: run_sets(study, n=n, arms=("baseline", "aligned")))
    score: Step = ("Simulated raters compare", lambda: run_simulate(study))
    return [sample, score] if simulated else [sample]


def open_presentations(study: Study) -> tuple[int, int]:
    """(human raters, rating sets they still have to score), over active raters.

    Sets count at their first showing, in the phase that is analysed: nobody waits for repeats that are held back, for
    training, attention checks or reader comparisons.
    """
    from radpref.data.reader_study.check_sets import ensure_checks
    from radpref.data.reader_study.presentations import ensure_presentations

    ensure_checks(study)
    settings = study.config.annotate
    raters = study.db.rows("SELECT rater_id FROM raters WHERE kind = 'human' AND role = 'rater' AND active = 1")
    for rater in raters:
        ensure_presentations(study.db, int(rater["rater_id"]), settings.seed, settings)
    left = study.db.value(
        "SELECT count(*) FROM counted_presentations p JOIN raters r USING (rater_id)"
        " WHERE r.kind = 'human' AND r.role = 'rater' AND r.active = 1 AND p.purpose = 'rating' AND p.state = 'open'"
    )
    return len(raters), int(left)


def run_steps(steps: list[Step], *, first: int = 1, total: int | None = None) -> dict[str, Any]:
    """Run steps in order with a headline and the time each took; returns {title: result}."""
    outcome: dict[str, Any] = {}
    total = total or first + len(steps) - 1
    for number, (title, step) in enumerate(steps, start=first):
        _say(f"[{number}/{total}] {title}")
        started = time.monotonic()
        outcome[title] = step()
        _say(f"      done in {time.monotonic() - started:.0f} s")
    return outcome


def run_round(study: Study, *, simulated: bool = False) -> dict[str, Any]:
    """One full round. Without ``simulated`` it stops where people must score: state "waiting for raters"."""
    first = before_scoring(study)
    total = len(first) + 1 + len(after_scoring(study, simulated=simulated))
    outcome = run_steps(first, total=total)
    if simulated:
        from radpref.alignment.evaluation.simulated_raters import run_simulate

        score: list[Step] = [("Simulated raters score", lambda: run_simulate(study))]
        outcome |= run_steps(score, first=len(first) + 1, total=total)
    else:
        n_raters, left = open_presentations(study)
        if n_raters == 0 or left:
            what = (
                f"{left} sets are still to be scored by {n_raters} raters"
                if n_raters
                else "no rater has an account yet"
            )
            _say(f"{what}: `radpref annotate rater add NAME`, `radpref annotate serve`, then run this command again")
            return {"state": "waiting for raters", "raters": n_raters, "sets_left": left, "steps": outcome}
    outcome |= run_steps(after_scoring(study, simulated=simulated), first=len(first) + 2, total=total)
    if not simulated and study.config.sets.comparison:
        _say("The comparison sets are in the reading room. When they are scored: `radpref study freeze`, then")
        _say("`radpref downstream report`.")
    return {"state": "done", "steps": outcome}


def run_demo(root: Path, *, size: str, serve: bool, port: int, as_json: bool = False, model: str = "embedded") -> None:
    """The whole loop on a shipped model with simulated raters, then the reading room and the report.

    Raises:
        InvalidInput: there is no demo of this size of ``model``.
        Conflict: the folder holds a study of another size.
    """
    started = time.monotonic()
    if (model, size) not in DEMO_TEMPLATES:
        raise InvalidInput(f"--model {model} --size {size}: choose embedded (demo or full) or cxr128 (demo)")
    toml = read_template(DEMO_TEMPLATES[model, size])
    root = root.resolve()
    study = Study(root) if (root / "study.toml").exists() else Study.create(root, toml)
    if study.config != parse_config(tomllib.loads(toml)):
        raise Conflict(f"{root} holds another study; give another folder with --study")
    if model != "embedded":
        from radpref.generation.fidelity.shipping import copy_networks

        copy_networks(model, root)
    add_demo_accounts(study)
    outcome = run_round(study, simulated=True)
    seconds = time.monotonic() - started
    _say(f"The loop took {seconds / 60:.1f} minutes.")
    report = outcome["steps"]["Write the report"]["report"]
    if as_json:
        typer.echo(json.dumps({"study": str(root), "seconds": round(seconds, 1), "report": report}))
    _say(f"Report: {report}")
    if serve:
        serve_demo(study, port)


def add_demo_accounts(study: Study) -> None:
    """Make the demo's human accounts if they are not there."""
    from radpref.annotate_app.accounts import hash_password

    known = {str(row["username"]) for row in study.db.rows("SELECT username FROM raters")}
    for username, role, password in DEMO_ACCOUNTS:
        if username not in known:
            add_rater(study.db, username, hash_password(password), role=role)


def serve_demo(study: Study, port: int) -> None:
    """Serve the reading room and the report on loopback until interrupted."""
    from radpref.annotate_app.server import serve

    base = f"http://127.0.0.1:{port}"
    _say(f"\nReading room  {base}/read     (user reader, password demo-reader)")
    _say(f"Dashboard     {base}/admin    (user office, password demo-office)")
    _say(f"Report        {base}/report   (user office)\nStop with Ctrl-C.\n")
    serve(study, host="127.0.0.1", port=port)
