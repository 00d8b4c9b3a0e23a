"""The reader comparison: exact win rates, what counts and what does not, verdicts, blinding, the report's section."""

from __future__ import annotations

import csv
import json
import uuid
from dataclasses import replace

import numpy as np
import pytest

from radpref.data.core.errors import Conflict
from radpref.data.reader_study.lifecycle import REVEALED, unblind
from radpref.data.reader_study.presentations import ensure_presentations
from radpref.data.reader_study.raters import add_rater
from radpref.data.reader_study.scores import ScoreEvent, record_events
from radpref.data.study.study import Study
from radpref.downstream.inference.comparison_sets import ComparisonSet, Reading, SetImage
from radpref.downstream.inference.reader_comparison import (
    OVERALL,
    ArmsRead,
    Estimate,
    GainRow,
    compare_set,
    estimate,
    reader_comparison,
)
from radpref.downstream.report import reader_comparison_figures as reader_figures
from radpref.downstream.report import reader_comparison_views as reader_views
from radpref.downstream.report.evidence import gather
from radpref.downstream.report.report import run_report
from tests.support.comparison import add_comparison, score_comparison, set_stage
from tests.support.downstream import add_rated_sets
from tests.support.errors import refuses

MODES = ("T2I",) * 6 + ("M2I",) * 2 + ("TM2I",) * 4


@pytest.fixture
def compared(tiny_study):
    """A study with twelve comparison sets that nobody has scored."""
    add_comparison(tiny_study, MODES)
    return tiny_study


def _row(part, mode, criterion=OVERALL):
    return next(row for row in part.rows if (row.mode, row.criterion) == (mode, criterion))


def _compare_set(mode, scores):
    """Comparisons of one set. scores: criterion -> (scores of the first arm, of the second), None = not given."""
    images, given = [], {}
    for arm in (0, 1):
        for k in range(2):
            slot = len(images)
            images.append(SetImage(slot, "ab"[arm], k, ""))
            for criterion, own in scores.items():
                if k < len(own[arm]):
                    given[slot, criterion] = own[arm][k]
    about = ComparisonSet("c", mode, None, (("a", "1"), ("b", "2")), tuple(images[::-1]))
    return compare_set(Reading("r", "human", about, given, {}), "a")


def _html(study: Study) -> str:
    return run_report(study).read_text(encoding="utf-8")


# --- one set -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "wins", "ties", "gain"),
    [
        ([2, 3], [3, 5], 0.75, 0.25, 1.5),  # 3>2, 3=3, 5>2, 5>3
        ([4, 4], [4, 4], 0.0, 1.0, 0.0),
        ([5, 5], [0, 0], 0.0, 0.0, -5.0),
        ([0, 5], [5, 0], 0.25, 0.5, 0.0),
        ([1], [3, 1], 0.5, 0.5, 1.0),  # a score taken back: one image left in the first arm
    ],
)
def test_wins_ties_and_gain_of_one_set_are_exact(first, second, wins, ties, gain):
    (found, overall) = _compare_set("T2I", {"text": (first, second)})
    assert (found.wins, found.ties, found.gain) == (wins, ties, gain)
    assert found.win_rate == wins + ties / 2
    assert (overall.criterion, overall.gain, overall.n_scores) == (OVERALL, gain, len(first) + len(second))


def test_a_set_of_both_criteria_is_their_mean_and_needs_both():
    scores = {"text": ([1, 1], [2, 2]), "mask": ([3, 3], [3, 2])}
    text, mask, overall = _compare_set("TM2I", scores)
    assert (text.gain, mask.gain, overall.gain) == (1.0, -0.5, 0.25)
    assert (text.win_rate, mask.win_rate, overall.win_rate) == (1.0, 0.25, 0.625)
    assert overall.n_scores == 8
    assert [one.criterion for one in _compare_set("TM2I", {"text": ([1, 1], [2, 2])})] == ["text"]
    assert _compare_set("M2I", {"mask": ([1, 2], [])}) == []


def test_too_few_raters_or_conditions_get_a_figure_but_no_interval():
    for n_raters, n_conditions, enough in ((1, 20, False), (2, 20, False), (3, 4, False), (3, 5, True)):
        raters = [f"r{i}" for i in range(n_raters) for _ in range(n_conditions)]
        conditions = [f"c{i}" for _ in range(n_raters) for i in range(n_conditions)]
        values = np.random.default_rng(0).normal(1, 1, len(raters))
        found = estimate(list(values), raters, conditions)
        assert found.value == pytest.approx(values.mean())
        assert (found.ci is not None) == enough
        assert (found.ci_bootstrap is not None) == enough


# --- what is counted ---------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_scores_given(compared):
    score_comparison(compared, 3)
    set_stage(compared, "locked", "frozen")
    found = reader_comparison(compared)
    (part,) = found.parts
    assert (part.kind, part.first, part.second) == ("human", "baseline", "aligned")
    assert (part.n_raters, part.n_sets, part.n_scores) == (3, 12, 3 * (6 * 4 + 2 * 4 + 4 * 8))
    rows = compared.db.rows(
        "SELECT v.rater_id, v.set_id, v.criterion, v.value, i.arm, c.mode FROM current_scores v"
        " JOIN set_images i ON i.set_id = v.set_id AND i.slot = v.slot"
        " JOIN image_sets s ON s.set_id = v.set_id JOIN conditions c USING (condition_id)"
    )
    for mode, criterion in (("T2I", OVERALL), ("TM2I", "mask"), ("M2I", OVERALL)):
        groups: dict = {}
        for row in rows:
            if row["mode"] == mode and criterion in (OVERALL, row["criterion"]):
                groups.setdefault((row["rater_id"], row["set_id"]), {}).setdefault(row["arm"], []).append(row["value"])
        gains = [np.mean(g["aligned"]) - np.mean(g["baseline"]) for g in groups.values()]
        wins = [np.mean([(a > b) + (a == b) / 2 for a in g["aligned"] for b in g["baseline"]]) for g in groups.values()]
        shown = _row(part, mode, criterion)
        assert shown.gain.value == pytest.approx(np.mean(gains), abs=1e-6)  # balanced: the model's mean is the mean
        assert shown.win_rate.value == pytest.approx(np.mean(wins), abs=1e-6)
        assert shown.gain.n_conditions * 3 == len(groups)
    assert [row.role for row in part.rows].count("primary") == 1
    assert _row(part, "M2I").verdict == "too small to conclude"  # two sets
    assert _row(part, "M2I").gain.ci is None


def test_a_large_gain_is_found_and_its_interval_holds_it(compared):
    score_comparison(compared, 4, gain=1.5)
    set_stage(compared, "locked", "frozen")
    (part,) = reader_comparison(compared).parts
    primary = part.rows[0]
    assert primary.verdict == "better"
    assert primary.gain.ci[0] < 1.5 < primary.gain.ci[1]
    assert primary.gain.ci_bootstrap[0] < primary.gain.value < primary.gain.ci_bootstrap[1]
    assert primary.win_rate.ci[0] > 0.5
    said = reader_views.statements(part)[0].sentence
    assert said.startswith("4 people scored images of the preference-aligned generator higher than")


def test_the_other_direction_is_worse(compared):
    score_comparison(compared, 4, gain=-1.5)
    set_stage(compared, "locked", "frozen")
    (part,) = reader_comparison(compared).parts
    assert part.rows[0].verdict == "worse"
    assert reader_views.statements(part)[0].tone == "bad"
    assert " lower than images of the baseline generator" in reader_views.statements(part)[0].sentence


def test_a_lock_that_starts_anew_leaves_the_pilots_scores_out(compared):
    score_comparison(compared, 3)
    with compared.db.write() as connection:
        for name in ("locked", "frozen"):  # without keep_scores
            connection.execute("INSERT INTO stages(at, actor, stage) VALUES ('now', 't', ?)", [name])
    assert reader_comparison(compared).parts == ()


def test_a_repeat_and_a_skipped_set_do_not_count(compared):
    score_comparison(compared, 3)
    last = compared.db.row(
        "SELECT p.presentation_id, p.rater_id, p.set_id FROM presentations p JOIN image_sets s USING (set_id)"
        " JOIN conditions c USING (condition_id) WHERE c.mode = 'T2I' ORDER BY presentation_id DESC LIMIT 1"
    )
    with compared.db.write() as connection:
        connection.execute(
            "INSERT INTO presentations(token, rater_id, set_id, position, slots, repeat_of) VALUES ('t', ?, ?, 99,"
            " '0123', ?)",
            [last["rater_id"], last["set_id"], last["presentation_id"]],
        )
        repeat = int(connection.execute("SELECT max(presentation_id) FROM presentations").fetchone()[0])
    events = [
        ScoreEvent(str(uuid.uuid4()), repeat, last["rater_id"], "score", slot, "text", 5 * (slot % 2))
        for slot in range(4)
    ]
    record_events(compared.db, [*events, ScoreEvent(str(uuid.uuid4()), repeat, last["rater_id"], "submit")])
    unblind(compared.db, "t", "test")
    before = reader_comparison(compared).parts[0]
    assert before.n_readings == 36
    skip = ScoreEvent(str(uuid.uuid4()), last["presentation_id"], last["rater_id"], "skip", comment="black image")
    record_events(compared.db, [skip])
    assert reader_comparison(compared).parts[0].n_readings == 35


def test_a_score_taken_back_leaves_what_is_complete(compared):
    score_comparison(compared, 3)
    unblind(compared.db, "t", "test")
    shown = compared.db.row(
        "SELECT p.presentation_id, p.rater_id FROM presentations p JOIN image_sets s USING (set_id)"
        " JOIN conditions c USING (condition_id) WHERE c.mode = 'TM2I' LIMIT 1"
    )
    back = [
        ScoreEvent(str(uuid.uuid4()), shown["presentation_id"], shown["rater_id"], "score", slot, "mask", None)
        for slot in range(4)
    ]
    record_events(compared.db, back)
    (part,) = reader_comparison(compared).parts
    assert part.n_incomplete == 1
    assert part.n_scores == 192 - 4


def test_flags_count_by_arm_and_the_last_word_stands(compared):
    score_comparison(compared, 3)
    unblind(compared.db, "t", "test")
    rows = compared.db.rows(
        "SELECT p.presentation_id, p.rater_id, i.slot, i.arm FROM presentations p JOIN set_images i USING (set_id)"
    )
    events = [
        ScoreEvent(str(uuid.uuid4()), r["presentation_id"], r["rater_id"], "flag", r["slot"], "artifact", 1)
        for r in rows
        if r["arm"] == "baseline" and r["presentation_id"] % 2
    ]
    away = [
        ScoreEvent(str(uuid.uuid4()), e.presentation_id, e.rater_id, "flag", e.slot, "artifact", 0) for e in events[:1]
    ]
    record_events(compared.db, events + away)
    artifact, unrealistic = reader_comparison(compared).parts[0].flags
    assert (artifact.flag, artifact.n_images) == ("artifact", 144)
    assert artifact.share_first == pytest.approx((len(events) - 1) / 72)
    assert artifact.share_second == 0
    assert artifact.difference.value == pytest.approx(-artifact.share_first, abs=1e-6)
    assert artifact.difference.ci[0] < artifact.difference.value < artifact.difference.ci[1]
    same = unrealistic.difference
    assert (same.value, same.ci) == (0, None)  # nothing varies: no interval is made up


@pytest.mark.parametrize("n_raters", [1, 2])
def test_one_or_two_raters_never_conclude(compared, n_raters):
    score_comparison(compared, n_raters, gain=3.0)
    set_stage(compared, "locked", "frozen")
    (part,) = reader_comparison(compared).parts
    assert {row.verdict for row in part.rows if row.role != "detail"} == {"too small to conclude"}
    assert all(row.gain.ci is row.gain.fit is row.p_holm is None for row in part.rows)
    assert part.plan == ()
    said = reader_views.statements(part)[0].sentence
    assert f"{n_raters} rater{'s' if n_raters > 1 else ''} and 12 sets, would need at least 3 raters and 5 sets" in said
    reader_figures.forest(part)  # draws without any interval


def test_equal_scores_everywhere_say_so_instead_of_an_interval(compared):
    score_comparison(compared, 3, gain=0.0, spread=0.0)
    set_stage(compared, "locked", "frozen")
    (part,) = reader_comparison(compared).parts
    assert part.rows[0].ties == 1
    assert part.rows[0].win_rate.value == 0.5
    assert "every set gave the same difference" in reader_views.statements(part)[0].sentence


def test_one_mode_alone_and_unequal_numbers_of_sets(tiny_study):
    add_comparison(tiny_study, ("T2I",) * 10)
    score_comparison(tiny_study, 2)
    score_comparison(tiny_study, 3, kind="simulated", share=0.6)
    set_stage(tiny_study, "locked", "frozen")
    people, simulated = reader_comparison(tiny_study).parts
    assert [(row.mode, row.criterion) for row in people.rows] == [("all modes", OVERALL), ("T2I", OVERALL)]
    assert len(reader_views.statements(people)) == 1
    assert (people.n_raters, simulated.n_raters) == (2, 3)
    assert {row.rater for row in simulated.raters} == {"simulated-1", "simulated-2", "simulated-3"}
    assert simulated.n_readings == 18
    assert simulated.rows[0].gain.ci is not None


def test_an_arm_aligned_anew_is_another_comparison(tiny_study):
    add_comparison(tiny_study, ("T2I",) * 5, seed=0)
    add_comparison(tiny_study, ("T2I",) * 5, seed=1)  # another content hash of both arms
    score_comparison(tiny_study, 3, kind="simulated")
    found = reader_comparison(tiny_study)
    assert [part.n_sets for part in found.parts] == [5, 5]
    assert [reader_views.suffix(found.parts, i) for i in range(2)] == ["simulated", "simulated-2"]


def test_unfinished_runs_are_not_compared(compared):
    score_comparison(compared, 3, kind="simulated")
    with compared.db.write() as connection:
        connection.execute("UPDATE runs SET status = 'running' WHERE kind = 'sets'")
    assert reader_comparison(compared) is None


# --- blinding ----------------------------------------------------------------------------------------------------


def _reveals(study: Study) -> list[dict]:
    return [
        json.loads(row["detail"])
        for row in study.db.rows("SELECT detail FROM audit_events WHERE action = ?", [REVEALED])
    ]


def test_before_the_freeze_nothing_of_peoples_scores_is_shown_by_arm(compared):
    score_comparison(compared, 3, share=0.5, gain=2.0)
    score_comparison(compared, 3, kind="simulated", gain=0.0)
    found = reader_comparison(compared)
    assert {part.kind for part in found.parts} == {"simulated"}
    assert found.source.examples == ()
    path = run_report(compared)
    html = path.read_text(encoding="utf-8")
    assert "3 people finished 18 of the 36 comparison sets given to them" in html
    assert "radpref study freeze" in html
    assert "people scored images" not in html
    names = {file.stem for file in path.parent.rglob("*.*")}
    assert not any("human" in name and "comparison" in name for name in names)
    assert "reader-comparison-examples" not in names
    assert _reveals(compared) == []
    set_stage(compared, "locked", "frozen")
    html = _html(compared)
    assert "Readers: aligned against baseline" in html
    assert "Arms are hidden" not in html
    assert _reveals(compared) == [{"purpose": "report"}]


def test_early_unblinding_is_stated_for_ever(compared):
    score_comparison(compared, 3, share=0.5)
    unblind(compared.db, "office", "an image alarmed a reader")
    html = _html(compared)
    assert "Arms were revealed before scoring ended" in html
    assert "by office (an image alarmed a reader)" in html
    assert "3 people finished 18 of the 36 comparison sets given to them" in html
    set_stage(compared, "locked", "frozen")
    assert "Arms were revealed before scoring ended" in _html(compared)


def test_early_unblinding_is_stated_without_comparison_sets_too(study):
    unblind(study.db, "office", "why not")
    assert "Arms were revealed before scoring ended" in _html(study)


def test_simulated_raters_alone_are_free_and_always_named_so(compared):
    score_comparison(compared, 4, kind="simulated", gain=1.5)
    html = _html(compared)
    section = html[html.index('id="readers"') : html.index('id="samples"')]
    assert "4 SIMULATED raters scored" in section
    assert "This comparison was scored by 4 small networks, not by people" in section
    assert "people scored" not in section
    assert _reveals(compared) == []


def test_simulated_raters_are_given_comparison_sets(compared):
    rater = add_rater(compared.db, "sim", kind="simulated")
    assert ensure_presentations(compared.db, rater.rater_id, 0) == len(MODES)


# --- the report --------------------------------------------------------------------------------------------------


def test_the_section_stands_with_its_tables_and_figures(compared):
    score_comparison(compared, 4, flags=0.3)
    set_stage(compared, "locked", "frozen")
    path = run_report(compared)
    html = path.read_text(encoding="utf-8")
    assert '<a href="#readers">' in html
    for name in ("", "-raters", "-flags", "-plan"):
        assert (path.parent / f"reader-comparison-human{name}.csv").is_file()
    for name in ("human-forest", "human-wins", "examples"):
        assert (path.parent / "figures" / f"reader-comparison-{name}.svg").is_file()
    with (path.parent / "reader-comparison-human.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    (part,) = reader_comparison(compared).parts
    assert float(rows[0]["gain"]) == part.rows[0].gain.value
    assert float(rows[0]["se"]) == part.rows[0].gain.fit.se
    assert {row["rater_kind"] for row in rows} == {"human"}
    assert "of 0 preference pairs, 0 come from a comparison set" in html
    assert "12 of two images of each of two arms" in html


def test_a_study_without_comparison_sets_says_how_to_make_them(study):
    assert reader_comparison(study) is None
    assert "radpref generate sets --arms baseline,aligned" in _html(study)


def test_scores_of_comparison_sets_are_not_those_of_rating_sets(tiny_study):
    add_rated_sets(tiny_study, n_sets=3, kinds=("simulated",), n_raters=1)
    add_comparison(tiny_study, MODES)
    score_comparison(tiny_study, 2)
    counts = gather(tiny_study).counts
    assert (counts["rating sets"], counts["comparison sets"]) == (3, 12)
    assert (counts["simulated rating scores"], counts["simulated comparison scores"]) == (12, 0)
    people = 2 * (6 * 4 + 2 * 4 + 4 * 8)
    assert (counts["human rating scores"], counts["human comparison scores"]) == (0, people)


def test_the_database_refuses_pairs_of_comparison_sets_and_the_report_counts_them(compared):
    score_comparison(compared, 3, kind="simulated")
    set_id = compared.db.value("SELECT set_id FROM image_sets LIMIT 1")
    row = (set_id, 0, 1, "text", 0.5, 1, "simulated", "train")
    columns = "run_id, set_id, slot_i, slot_j, criterion, p, n_raters, rater_kind, split"
    run_id = compared.db.value("SELECT run_id FROM runs LIMIT 1")
    with refuses(Conflict), compared.db.write() as connection:
        connection.execute(f"INSERT INTO pairs({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [run_id, *row])
    assert reader_comparison(compared).source.trained_on.n_pairs_of_comparisons == 0


def _plain_row(verdict="better", gain=0.6, ci=(0.2, 1.0), n_raters=4, mode="all modes"):
    gains, wins = Estimate(gain, n_raters, 20, ci=ci), Estimate(0.61, n_raters, 20, ci=(0.52, 0.7))
    return GainRow(mode, OVERALL, "primary", 80, 2.0, 2.6, gains, wins, 0.5, 0.2, 0.004, 0.3, verdict)


@pytest.mark.parametrize(
    ("row", "tone", "text"),
    [
        (_plain_row(), "good", "+0.60 points of 5 (95 % CI 0.20 to 1.00), win rate 61 % (52 to 70 %); P = 0.004."),
        (_plain_row(verdict="worse", gain=-0.6), "bad", "lower than images of the baseline generator: −0.60"),
        (_plain_row(verdict="no difference shown", gain=0.1), "even", "No difference of 0.5 points or more was shown"),
        (_plain_row(verdict="too small to conclude"), "open", "Only gains above 0.30 points were likely (80 %)"),
        (_plain_row(verdict="too small to conclude", ci=None, n_raters=1), "open", "1 rater and 20 sets, would"),
        (_plain_row(mode="M2I"), "good", "in M2I sets"),
    ],
)
def test_sentences_say_what_the_verdict_says(row, tone, text):
    part = ArmsRead("human", "baseline", "aligned", (row,), (), (), (), 4, 20, 80, 20, 0)
    found = reader_views.statement(part, row)
    assert found.tone == tone
    assert text in found.sentence.replace("\u00a0", " ")
    assert "SIMULATED" not in found.sentence
    assert "SIMULATED" in reader_views.statement(replace(part, kind="simulated"), row).sentence
