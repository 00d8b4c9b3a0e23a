"""The coverage planner: what it promises is what raters are given; its precision is that of simulated studies."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from radpref.annotate_app.cli import app
from radpref.data.agreement.coefficients import preference_agreement
from radpref.data.agreement.planning import (
    DEFAULT_SECONDS,
    MIN_MEASURED,
    capacity,
    load_of,
    plan,
    plan_lines,
    seconds_per_set,
)
from radpref.data.agreement.precision import SharedOut, _preference, bonett_half_width, expected_precision
from radpref.data.agreement.reliability import agreement
from radpref.data.config.reader_study import AnnotateConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.reader_study.presentations import ensure_presentations
from radpref.data.reader_study.raters import add_rater
from radpref.data.study.study import Study
from tests.data.reader_study.test_lifecycle import add_person_scores
from tests.support.annotate import make_study

BUSY = "[annotate]\ntraining_sets = 0\nattention = 0.0\nrepeats = 0.1\n"


# --- loads -------------------------------------------------------------------------------------------------------


def test_a_load_counts_training_checks_and_repeats() -> None:
    load = load_of(100, 8, AnnotateConfig())
    assert (load.training, load.attention, load.repeats) == (3, 5, 10)
    assert load.total == 100 + 8 + 3 + 5 + 10


@pytest.mark.parametrize("n", [0, 3, 4, 5, 17, 60, 119, 120, 1000])
@pytest.mark.parametrize("n_comparison", [0, 10])
def test_capacity_is_the_largest_load_that_fits(n: int, n_comparison: int) -> None:
    settings = AnnotateConfig(repeats=0.23, attention=0.11)
    found = capacity(n, n_comparison, settings)
    assert found == max([x for x in range(n + 1) if load_of(x, n_comparison, settings).total <= n], default=0)


@pytest.mark.parametrize(("overlap", "hours"), [(1, 9), (2, 9), (3, 9), (4, 9), (2, 0.2), (3, 0.25)])
def test_raters_are_given_what_the_plan_says(tmp_path: Path, overlap: int, hours: float) -> None:
    study = make_study(tmp_path, ("T2I",) * 20, toml=BUSY)
    found = plan(study, raters=4, hours=hours, overlap=overlap, seconds=60.0)
    (row,) = found.rows
    lines = [line for line in row.study_toml if "=" in line and not line.startswith(("#", "["))]
    values = {key.strip(): int(value) for key, value in (line.split("=") for line in lines)}
    settings = study.config.annotate.model_copy(update=values)
    people = [add_rater(study.db, f"r{number}").rater_id for number in range(4)]
    for rater in people:
        ensure_presentations(study.db, rater, 0, settings)
    shown = Counter(r["rater_id"] for r in study.db.rows("SELECT rater_id FROM presentations WHERE repeat_of IS NULL"))
    assert max(shown.values()) == row.load.rating
    total = Counter(r["rater_id"] for r in study.db.rows("SELECT rater_id FROM presentations"))
    assert max(total.values()) == row.sets_per_rater <= hours * 60
    readers = Counter(
        int(r["n"])
        for r in study.db.rows("SELECT count(*) AS n FROM presentations WHERE repeat_of IS NULL GROUP BY set_id")
    )
    if row.enough:
        assert readers == {overlap: 20}
    else:  # the sets are there already, so they get fewer readers; the rounding of shares may cost one reading each
        promised = sum(int(count) * n for count, n in row.all_sets.items())
        assert promised - 4 <= sum(count * n for count, n in readers.items()) <= promised
        assert row.study_toml[0].startswith("# 20 sets are there already")
    study.db.close()


def test_too_few_hours_mean_fewer_sets_never_fewer_readers(study: Study) -> None:
    found = plan(study, raters=4, hours=2, sets=200, seconds=60.0)
    for row in found.rows:
        assert row.sets_per_rater <= 120
        assert row.n_sets * row.overlap <= 4 * row.load.rating
        assert row.enough == (row.n_sets == 200)
    by_overlap = {row.overlap: row for row in found.rows}
    assert by_overlap[2].enough
    assert by_overlap[4].n_sets == 102
    assert by_overlap[4].study_toml == [
        "[sets]",
        "n = 102",
        "[annotate]",
        "raters_per_set = 4",
        "sets_per_rater = 102",
    ]


def test_comparison_sets_take_time(study: Study, tmp_path: Path) -> None:
    from tests.support.data import add_rated_set

    for number in range(12):
        add_rated_set(study, number)
    alone = plan(study, raters=2, hours=1, sets=100, overlap=2, seconds=60.0).rows[0]
    with study.db.write() as connection:
        connection.execute("UPDATE image_sets SET purpose = 'comparison' WHERE ordinal < 10")
    beside = plan(study, raters=2, hours=1, sets=100, overlap=2, seconds=60.0).rows[0]
    assert beside.load.comparison == 10
    assert beside.load.rating < alone.load.rating


# --- seconds per set ---------------------------------------------------------------------------------------------


def test_seconds_are_measured_from_people_when_there_are_enough(study: Study) -> None:
    from tests.support.data import add_rated_set

    assert seconds_per_set(study)[0] == DEFAULT_SECONDS
    assert "arXiv" in seconds_per_set(study)[1]
    for number in range(MIN_MEASURED + 1):
        sim = add_rated_set(study, number)
        ann = add_person_scores(study, number)
        for ids, milliseconds in ((sim, 1), (ann, 1000 * (number + 30))):
            with study.db.write() as connection:
                connection.execute(
                    "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, client, created_at)"
                    " VALUES (hex(randomblob(8)), ?, ?, 'submit', ?, '9')",
                    (ids["presentation_id"], ids["rater_id"], json.dumps({"active_ms": milliseconds})),
                )
        if number == MIN_MEASURED - 2:
            assert seconds_per_set(study)[0] == DEFAULT_SECONDS, "not from four sets"
    assert seconds_per_set(study) == (32.5, "measured: median of 6 sets submitted in this study")


# --- precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_sets", "n_readers", "icc"), [(100, 2, 0.5), (100, 4, 0.5), (200, 4, 0.3), (50, 4, 0.7)])
def test_without_sets_and_severity_it_is_bonett_s_formula(n_sets: int, n_readers: int, icc: float) -> None:
    found = expected_precision(n_sets, n_readers, icc, between_sets=0.0, severity=0.0, n_draws=1500)
    assert found.icc_half_width == pytest.approx(bonett_half_width(4 * n_sets, n_readers, icc), rel=0.06)


def test_bonett_s_formula_solved_for_the_number_of_items_gives_it_back() -> None:
    # n = 8 z^2 (1-p)^2 (1+(k-1)p)^2 / (k (k-1) w^2) + 1 = 67.4 for p = 0.7, k = 3 readers, width w = 0.2
    assert bonett_half_width(68, 3, 0.7) == pytest.approx(0.1, abs=0.001)


def simulated(rng: np.random.Generator, n_sets: int, severities: np.ndarray, icc: float) -> np.ndarray:
    """Scores on the 0-5 scale, readers x images, written down independently of the module."""
    scores = np.empty((len(severities), n_sets * 4))
    for one in range(n_sets):
        level = rng.normal(0, np.sqrt(icc * 0.3))
        for image in range(4):
            quality = level + rng.normal(0, np.sqrt(icc * 0.7))
            for reader, severity in enumerate(severities):
                scores[reader, one * 4 + image] = quality + severity + rng.normal(0, np.sqrt((1 - icc) * 0.8))
    return np.clip(np.rint(2.5 + 1.3 * scores), 0, 5)


def test_the_half_width_is_that_of_the_dashboard_s_interval() -> None:
    """Simulated studies are bootstrapped as the dashboard does: its intervals are as wide as planned."""
    rng = np.random.default_rng(5)
    severities = np.sqrt(0.5 * 0.2) * np.array([-1.2, -0.3, 0.3, 1.2])
    widths: dict[str, list[float]] = {"icc_2_1": [], "preference_agreement": []}
    values: list[float] = []
    for draw in range(6):
        sets = [number // 4 for number in range(240)]
        found = agreement(simulated(rng, 60, severities, 0.5), sets, sets, n_boot=300, seed=draw)
        for name, seen in widths.items():
            seen.append((found[name].high - found[name].low) / 2)
        values.append(found["preference_agreement"].value)
    expected = expected_precision(60, 4, 0.5)
    assert np.mean(widths["icc_2_1"]) == pytest.approx(expected.icc_half_width, rel=0.2)
    assert np.mean(widths["preference_agreement"]) == pytest.approx(expected.preference_half_width, rel=0.2)
    assert np.mean(values) == pytest.approx(expected.preference, abs=0.03)


def test_icc_and_preferences_are_those_of_the_agreement_report() -> None:
    latent = np.random.default_rng(1).normal(size=(3, 80)) + np.random.default_rng(2).normal(size=80)
    points = np.clip(np.rint(2.5 + 1.3 * latent), 0, 5)
    sets = [number // 4 for number in range(80)]
    found = agreement(points, sets, sets, n_boot=0)
    whole = SharedOut(np.repeat(np.arange(3)[:, None], 80, axis=1), 3)
    assert whole.icc_2_1([whole.sums_of(points)])[0] == pytest.approx(found["icc_2_1"].value, abs=1e-6)
    assert _preference(latent, 4) == pytest.approx(preference_agreement(points, sets)["preference_agreement"])


def test_more_sets_and_more_readers_are_more_precise() -> None:
    base = expected_precision(100, 3, 0.5)
    assert expected_precision(400, 3, 0.5).icc_half_width == pytest.approx(base.icc_half_width / 2, rel=0.15)
    assert expected_precision(100, 6, 0.5).preference_half_width < base.preference_half_width
    assert base.icc_half_width_any_readers > base.icc_half_width
    assert expected_precision(100, 3, 0.5) == base


# --- commands ----------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments])


def test_the_table_and_the_lines_to_write(study: Study) -> None:
    place = ("--study", str(study.root), "--raters", "4", "--hours", "2")
    text = run(*place, "--sets", "200").stdout
    assert "only 102" in text
    assert "60 s per set: assumed" in text
    assert "simulation of the two-way model" in text
    assert "variance components of the incomplete design" in text
    one = run(*place, "--sets", "200", "--overlap", "4").stdout
    assert "For study.toml:\n  [sets]\n  n = 102\n  [annotate]\n  raters_per_set = 4" in one
    assert "incomplete design" not in one
    found = json.loads(run(*place, "--json", "--seconds-per-set", "30", "--icc", "0.3").stdout)
    assert found["sets"] == study.config.sets.n
    assert [row["overlap"] for row in found["rows"]] == [1, 2, 3, 4]
    assert found["seconds_per_set"] == 30
    computed = plan(study, raters=4, hours=2, seconds=30, icc=0.3)
    assert all(len(line) < 160 for line in plan_lines(computed)[2:-4])
    assert found == json.loads(json.dumps(asdict(computed)))


def test_after_the_lock_the_lines_are_for_another_study(study: Study) -> None:
    from radpref.data.reader_study.lifecycle import lock
    from tests.support.data import add_rated_set

    add_rated_set(study)
    lock(study, "office")
    assert (
        "The study is locked: what study.toml says is fixed"
        in run("--study", str(study.root), "--raters", "2", "--hours", "1").stdout
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--raters", "0"), ("--hours", "0"), ("--hours", "nan"), ("--sets", "0"), ("--overlap", "5"),
        ("--seconds-per-set", "0.5"), ("--icc", "1"), ("--icc", "nan"), ("--hours", "0.01"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_one_line(study: Study, arguments: tuple[str, ...]) -> None:
    result = run("--study", str(study.root), "--raters", "4", "--hours", "2", *arguments)
    assert isinstance(result.exception, InvalidInput)
    assert arguments[0] in str(result.exception)
    assert "\n" not in str(result.exception)
