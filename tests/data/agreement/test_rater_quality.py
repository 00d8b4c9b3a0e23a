"""Quality of raters: small cases by hand, independent packages, and made-up raters whose habits are recovered."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from radpref.data.agreement.rater_measures import (
    TooSmall,
    drift,
    equal_sets,
    in_range,
    leniency,
    pace,
    position_effect,
    residuals,
    straight_lining,
    with_others,
)
from radpref.data.agreement.rater_quality import THRESHOLDS, SetCounts, quality_report, study_agreement, study_quality
from radpref.data.agreement.reliability import MIN_REPEATS, MIN_SETS
from radpref.data.agreement.score_tables import asked_findings, repeat_table
from tests.support.annotate import add_people, add_sets, make_study
from tests.support.quality import Habit, add_expectations, dump, fill_study, make_frames, rating_sets

LENIENT = Habit("lenient", leniency=0.6)
PLAIN = [Habit("plain-1"), Habit("plain-2")]


def line(report, username, kind="human"):
    return next(rater for rater in report.by_kind[kind].raters if rater.username == username)


def rows(values, rater_id=0, criterion="text"):
    """Score rows of one rater from (set, slot, place, value)."""
    columns = ["set_id", "slot", "place", "value"]
    made = pd.DataFrame(values, columns=columns)
    finish = made["set_id"].rank(method="dense")
    return made.assign(rater_id=rater_id, criterion=criterion, finish=finish, others=np.nan)


# --- by hand -----------------------------------------------------------------------------------------------------


def test_the_others_of_a_rater_by_hand():
    both = pd.concat([rows([("s", 0, 0, 5), ("s", 1, 1, 1)]), rows([("s", 0, 0, 2)], 1), rows([("s", 0, 2, 4)], 2)])
    others = with_others(both)["others"].to_numpy()
    assert others[0] == 3.0
    assert np.isnan(others[1]), "nobody else scored it"
    assert list(others[2:]) == [4.5, 3.5]


def test_leniency_by_hand():
    mine = rows([(f"s{n:02d}", slot, slot, 3) for n in range(MIN_SETS) for slot in range(4)])
    theirs = rows([(f"s{n:02d}", slot, slot, 2 if n % 2 else 3) for n in range(MIN_SETS) for slot in range(4)], 1)
    found = with_others(pd.concat([mine, theirs]))
    own = leniency(found[found["rater_id"] == 0], n_boot=400, seed=1)
    assert own.value == 0.5
    assert 0.1 <= own.low < 0.5 < own.high <= 0.9
    assert own.n_sets == MIN_SETS
    few = leniency(found[(found["rater_id"] == 0) & (found["set_id"] < "s03")], n_boot=10, seed=1)
    assert few == TooSmall(3, "n too small: 3 sets shared with another rater, needs 10")


def test_position_effect_against_pingouin():
    rng = np.random.default_rng(4)
    table = rng.normal(0, 1, (30, 1)) + rng.normal(0, 0.7, (30, 4)) + np.array([0.4, 0.0, 0.0, -0.2])
    made = rows([(f"s{n:02d}", p, p, table[n, p]) for n in range(30) for p in range(4)])
    found = position_effect(made, n_boot=500, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pingouin

        anova = pingouin.rm_anova(made, dv="value", within="place", subject="set_id", detailed=True)
    p = anova["p-unc" if "p-unc" in anova else "p_unc"].iloc[0]
    assert found.f == pytest.approx(anova["F"].iloc[0], rel=1e-9)
    assert found.p == pytest.approx(p, rel=1e-6)
    centred = (table - table.mean(axis=1, keepdims=True)).mean(axis=0)
    assert [place.value for place in found.places] == pytest.approx(list(centred), abs=1e-4)
    assert sum(place.value for place in found.places) == pytest.approx(0, abs=3e-4)


def test_residuals_are_against_the_others_where_they_scored_nearly_all():
    made = rows([(f"s{n:02d}", p, p, p) for n in range(20) for p in range(4)])
    alone, basis = residuals(made)
    assert basis == "own mean"
    assert list(alone["residual"][:4]) == [-1.5, -0.5, 0.5, 1.5]
    half = made.assign(others=np.where(made["set_id"] < "s10", 2.0, np.nan))
    assert residuals(half)[1] == "own mean"
    most = made.assign(others=np.where(made["set_id"] < "s18", 2.0, np.nan))
    shared, basis = residuals(most)
    assert basis == "other raters' mean on the same images"
    assert len(shared) == 18 * 4
    assert list(shared["residual"][:4]) == [-2, -1, 0, 1]


def test_sets_without_four_scores_are_no_part_of_the_position_effect():
    made = rows([(f"s{n:02d}", p, p, p) for n in range(MIN_SETS) for p in range(4)])
    assert isinstance(position_effect(made.iloc[:-1], n_boot=10, seed=0), TooSmall)
    assert position_effect(made, n_boot=10, seed=0).p is None, "no noise at all: no F"


def test_drift_against_scipy():
    rng = np.random.default_rng(0)
    per_set = 0.01 * np.arange(40) + rng.normal(0, 0.3, 40)
    made = rows([(f"s{n:02d}", p, p, 2.5 + per_set[n]) for n in range(40) for p in range(4)])
    found = drift(made)
    fit = stats.linregress(np.arange(40), per_set)
    half = stats.t.ppf(0.975, 38) * fit.stderr
    assert found.basis == "own mean"
    assert found.value == pytest.approx(100 * fit.slope, abs=1e-3)
    assert (found.low, found.high) == pytest.approx((100 * (fit.slope - half), 100 * (fit.slope + half)), abs=1e-3)
    assert found.rolling[0][0] == 8.0, "the middle of the first fifteen sets"
    assert found.rolling[0][1] == pytest.approx(per_set[:15].mean() - per_set.mean(), abs=1e-3)
    assert len(found.rolling) == 26


def test_a_rater_who_always_gives_the_same_score_drifts_by_nothing():
    made = rows([(f"s{n:02d}", p, p, 3) for n in range(MIN_SETS) for p in range(4)])
    found = drift(made)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    dump(found)  # the dashboard's route refuses nan


def test_answers_in_range_by_hand():
    answers = rows([("s", 0, 0, 5), ("s", 1, 1, 1), ("s", 2, 2, 3), ("s", 3, 3, 0)])
    expected = pd.DataFrame(
        [("s", slot, "text", 4 * (slot % 2 == 0), 5 if slot % 2 == 0 else 1) for slot in range(4)],
        columns=["set_id", "slot", "criterion", "low", "high"],
    )
    found = in_range(answers, expected)
    assert (found.k, found.n, found.value, found.n_sets) == (3, 4, 0.75, 1)
    assert in_range(answers.iloc[:3], expected).too_small == "n too small: 3 answers, needs 4"


def test_straight_lining_by_hand():
    mine = [rows([(f"s{n}", p, p, 3 if n < 4 else p) for p in range(4)]) for n in range(MIN_SETS)]
    theirs = [rows([(f"s{n}", p, p, 3 if n < 1 else p) for p in range(4)], 1) for n in range(MIN_SETS)]
    mask = rows([("s0", p, p, p) for p in range(4)], criterion="mask")
    found = straight_lining(equal_sets(pd.concat([*mine, *theirs, mask])), 0)
    assert (found.k, found.n, found.others, found.n_others) == (3, 10, 0.1, 10), "s0 differs by mask"
    assert isinstance(straight_lining(equal_sets(pd.concat(mine[:3])), 0), TooSmall)


def test_pace_by_hand():
    shown = pd.DataFrame(
        {"done": [True] * 4 + [False], "active_s": [4.0, 20.0, 30.0, np.nan, 1.0], "n_required": [4, 4, 8, 4, 4]}
    )
    found = pace(shown, 1.5, 10)
    assert (found.n, found.median_s, found.left_s) == (3, 20.0, 200)
    assert (found.too_fast.k, found.too_fast.n) == (1, 3)
    assert isinstance(pace(shown.iloc[3:], 1.5, 10), TooSmall)


# --- habits are recovered ----------------------------------------------------------------------------------------


def coverage(make, truth, n=60):
    """Share of simulated studies whose interval holds the truth, and the mean estimate."""
    found = [make(seed) for seed in range(n)]
    inside = [one.low <= truth <= one.high for one in found]
    return np.mean(inside), np.mean([one.value for one in found])


def simulated(habit, seed, n=60, mode="T2I"):
    tables = make_frames([habit, *PLAIN], rating_sets(n, mode), seed=seed, whole=False)
    scores = with_others(tables.scores)
    return scores[scores["username"] == habit.username]


def test_leniency_is_recovered():
    covered, mean = coverage(lambda seed: leniency(simulated(LENIENT, seed), n_boot=300, seed=0), 0.6)
    assert covered >= 0.85
    assert mean == pytest.approx(0.6, abs=0.03)


def test_drift_is_recovered():
    covered, mean = coverage(lambda seed: drift(simulated(Habit("tired", drift=-0.8), seed)), -0.8)
    assert covered >= 0.85
    assert mean == pytest.approx(-0.8, abs=0.06)


def test_a_position_effect_is_recovered():
    habit = Habit("first", place=(0.45, -0.15, -0.15, -0.15))

    def at_a(seed):
        found = position_effect(simulated(habit, seed, mode="TM2I"), n_boot=300, seed=0)
        assert found.p < 0.05
        return found.places[0]

    covered, mean = coverage(at_a, 0.45, n=40)
    assert covered >= 0.85
    assert mean == pytest.approx(0.45, abs=0.03)


def test_without_an_effect_there_is_rarely_one():
    ps = [position_effect(simulated(Habit("plain"), seed), n_boot=5, seed=0).p for seed in range(100)]
    assert 0.01 <= np.mean(np.array(ps) < 0.05) <= 0.11


# --- the whole report --------------------------------------------------------------------------------------------

EXPECTED = [
    (f"{kind}{n}", slot, "text", *((4, 5) if slot % 2 == 0 else (0, 1)))
    for kind in "at"
    for n in range(6)
    for slot in range(4)
]
SETS = [
    *rating_sets(60),
    *((f"c{n}", "T2I", "comparison") for n in range(10)),
    *((f"a{n}", "T2I", "attention") for n in range(6)),
    *((f"t{n}", "T2I", "training") for n in range(6)),
]


def whole_report(habits, **kwargs):
    tables = make_frames(habits, SETS, n_repeats=8, expected=EXPECTED, **kwargs)
    report = quality_report(tables, too_fast_s=1.5, n_boot=100)
    dump(report)
    return report, tables


def test_what_counts_where():
    report, tables = whole_report([LENIENT, *PLAIN])
    own = line(report, "plain-1")
    assert own.progress.n_sets == 60 + 10 + 6 + 8
    assert own.progress.training == SetCounts(n_sets=6, n_done=6, n_skipped=0)
    assert own.pace.n == 84
    assert own.leniency.n_sets == own.drift.n_sets == own.position.n_sets == 70
    assert own.distribution["text"].n == sum(own.distribution["text"].counts) == 280
    assert own.straight_line.n == 70
    assert (own.attention.n, own.training.n, own.repeats.n_sets) == (24, 24, 8)
    assert own.repeats.measures["within_one"].value > 0.8
    assert 0 < own.repeats.hours_between < 24
    assert report.by_kind["human"].coverage == {"3": 70}
    assert len(repeat_table(tables)) == 3 * 8 * 4


def test_repeats_equal_a_count_by_hand():
    report, tables = whole_report(PLAIN)
    scores = tables.scores[tables.scores["username"] == "plain-1"].set_index(["presentation_id", "slot"])["value"]
    again = tables.shown[(tables.shown["username"] == "plain-1") & tables.shown["repeat_of"].notna()]
    gaps = [
        abs(scores[(row.presentation_id, slot)] - scores[(int(row.repeat_of), slot)])
        for row in again.itertuples()
        for slot in range(4)
    ]
    assert line(report, "plain-1").repeats.measures["exact"].value == pytest.approx(np.mean(np.array(gaps) == 0))


def test_people_and_simulated_raters_are_apart():
    alone, _ = whole_report([*PLAIN, LENIENT])
    mixed, _ = whole_report([*PLAIN, LENIENT, Habit("sim-1", kind="simulated", leniency=-2.0)])
    assert line(mixed, "lenient").leniency == line(alone, "lenient").leniency
    assert line(mixed, "lenient").straight_line == line(alone, "lenient").straight_line
    robot = line(mixed, "sim-1", "simulated")
    assert robot.kind == "simulated"
    assert isinstance(robot.leniency, TooSmall), "there is no other simulated rater to compare with"
    assert {rater.kind for rater in mixed.by_kind["human"].raters} == {"human"}


def test_flags_name_the_habit_and_nobody_else():
    habits = [
        *PLAIN,
        Habit("plain-3"),
        Habit("hurried", fast=0.4),
        Habit("flat", straight=0.5),
        Habit("kind-hearted", leniency=1.6),
        Habit("lost", careless=0.9),
        Habit("fading", drift=-1.5),
        Habit("top-left", place=(0.8, 0, 0, 0)),
        Habit("noisy", noise=3.0),
    ]
    report, _ = whole_report(habits)
    flags = {(flag.username, flag.measure) for flag in report.by_kind["human"].flags}
    expected = {
        ("hurried", "too_fast"),
        ("flat", "straight_line"),
        ("kind-hearted", "leniency"),
        ("lost", "attention"),
        ("fading", "drift"),
        ("top-left", "position_p"),
        ("noisy", "repeats_kappa"),
    }
    assert expected <= flags
    assert not {flag for flag in flags if flag[0].startswith("plain")}
    assert all(flag.threshold is not None and flag.n > 0 for flag in report.by_kind["human"].flags)
    assert len(report.by_kind["human"].raters) == len(habits), "a flag leaves nobody out"
    assert set(THRESHOLDS) == {measure for _, measure in expected}


def test_few_sets_give_words_and_no_figures():
    tables = make_frames([LENIENT, *PLAIN], rating_sets(MIN_SETS - 1), n_repeats=MIN_REPEATS - 1)
    own = line(quality_report(tables, too_fast_s=1.5, n_boot=20), "lenient")
    for measure in ("leniency", "position", "drift", "straight_line", "attention", "training"):
        assert getattr(own, measure).too_small.startswith("n too small"), measure
        assert isinstance(getattr(own, measure), TooSmall), measure
    assert own.repeats.not_computable == "n too small: 4 repeated sets, needs 5"
    nobody = quality_report(read_empty(), too_fast_s=1.5)
    assert nobody.by_kind == {}


def read_empty():
    tables = make_frames(PLAIN, rating_sets(1))
    return type(tables)(tables.shown.iloc[:0], tables.scores.iloc[:0], tables.expected, [])


# --- from a study ------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path):
    made = make_study(tmp_path, ("T2I",) * 12 + ("TM2I",) * 12)
    yield made
    made.db.close()


def test_a_study_is_read_as_it_is(study):
    ids = add_people(study)
    add_expectations(study, ["set-0-0", "set-0-1"], "attention")
    add_expectations(study, ["set-0-2"], "training")
    habits = [Habit("ann", leniency=1.0), Habit("bob"), Habit("sim-1", kind="simulated")]
    fill_study(study, habits, ids, n_repeats=6, seed=3)
    report = study_quality(study, n_boot=50)
    dump(report)
    ann = line(report, "ann")
    assert ann.progress.n_sets == 24 - 1 + 6
    n_skipped = ann.progress.n_skipped
    assert ann.progress.n_done == 29 - n_skipped
    in_db = study.db.value(
        "SELECT count(*) FROM presentation_states WHERE state = 'skipped' AND rater_id = ?", (ids["ann"],)
    )
    assert n_skipped <= in_db <= n_skipped + 1, "training may be skipped too"
    assert ann.leniency.value > 0.5
    assert ann.leniency.low > 0
    agreement = study_agreement(study, n_boot=20)
    assert set(agreement.by_kind) == {"human", "simulated"}
    assert set(agreement.by_kind["human"].modes) == {"T2I", "TM2I"}
    assert "ann" in agreement.by_kind["human"].intra_rater
    assert asked_findings(study.db)["condition-0-23"] == ["normal"]


def test_scores_taken_back_and_flags_taken_back(study):
    ids = add_people(study)
    fill_study(study, [Habit("ann")], ids)
    first = study.db.row("SELECT presentation_id FROM presentation_states WHERE state = 'submitted' LIMIT 1")
    assert first
    before = line(study_quality(study, n_boot=5), "ann").progress
    insert = (
        "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, slot, criterion, value, created_at)"
        " VALUES (?, ?, ?, ?, 0, ?, ?, '2026-04-01')"
    )
    shown = (first["presentation_id"], ids["ann"])
    for number, (kind, criterion, value) in enumerate([("flag", "artifact", 1), ("flag", "artifact", 0)]):
        with study.db.write() as connection:
            connection.execute(insert, (f"x{number}", *shown, kind, criterion, value))
        flags = line(study_quality(study, n_boot=5), "ann").progress.artifact
        again = before.artifact
        assert flags in ((again, again + 1) if value else (again, again - 1))
    with study.db.write() as connection:
        connection.execute(insert, ("x9", *shown, "score", "text", None))
    assert line(study_quality(study, n_boot=5), "ann").progress.n_done == before.n_done - 1


def test_after_the_lock_the_pilot_is_gone_but_not_the_training(study):
    ids = add_people(study)
    add_expectations(study, ["set-0-2"], "training")
    fill_study(study, [Habit("ann"), Habit("sim-1", kind="simulated")], ids)
    assert line(study_quality(study, n_boot=5), "ann").progress.n_sets == 23
    with study.db.write() as connection:
        connection.execute("INSERT INTO stages(at, actor, stage) VALUES ('2026-04-01', 'office', 'locked')")
    report = study_quality(study, n_boot=5)
    assert line(report, "ann").progress.n_sets == 0
    assert line(report, "ann").progress.training.n_sets == 1
    assert isinstance(line(report, "ann").leniency, TooSmall)
    assert line(report, "sim-1", "simulated").progress.n_sets == 23


def test_a_locked_study_that_kept_its_pilot(study):
    ids = add_people(study)
    fill_study(study, [Habit("ann")], ids)
    with study.db.write() as connection:
        detail = json.dumps({"keep_scores": 1})
        connection.execute(
            "INSERT INTO stages(at, actor, stage, detail) VALUES ('x', 'office', 'locked', ?)", (detail,)
        )
    assert line(study_quality(study, n_boot=5), "ann").progress.n_sets == 24


def test_no_word_of_arms(study):
    ids = add_people(study)
    add_sets(study, ("T2I",), seed=5)
    fill_study(study, [Habit("ann"), Habit("bob")], ids, n_repeats=6)
    text = dump(study_quality(study, n_boot=5)) + dump(study_agreement(study, n_boot=5))
    for arm in ("baseline", "aligned", "771100", "set-0", "condition-"):
        assert arm not in text
