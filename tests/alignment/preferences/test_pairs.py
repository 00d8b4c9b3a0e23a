"""Scores -> pairs: ties, raters, provenance, splits without a shared source, no mixing of people and simulations."""

import dataclasses
import itertools
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radpref.alignment.preferences import pairs
from radpref.alignment.preferences.pairs import Score
from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.reader_study.scores import ScoreEvent, record_event
from tests.support import alignment as support
from tests.support.errors import refuses


def _scores(table, set_id="s", criterion="text"):
    """table: {rater: [score per slot, None where missing]}"""
    count = itertools.count(1)
    return [
        Score(next(count), rater * 10, rater, set_id, slot, criterion, value)
        for rater, values in table.items()
        for slot, value in enumerate(values)
        if value is not None
    ]


def test_p_is_the_mean_over_raters_with_ties_as_halves():
    found = pairs.pairs_from_scores(_scores({1: [5, 3, 3, 0], 2: [2, 4, 4, 0], 3: [1, 1, 5, 0]}))
    by_slots = {(p.slot_i, p.slot_j): p for p in found}
    assert len(found) == 6
    assert by_slots[0, 1].p == pytest.approx((1 + 0 + 0.5) / 3)
    assert by_slots[1, 2].p == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert by_slots[0, 3].p == 1
    assert all(p.n_raters == 3 for p in found)


def test_missing_scores_and_min_raters():
    scores = _scores({1: [5, 3, None, 0], 2: [2, 4, 4, None]})
    assert {(p.slot_i, p.slot_j): p.n_raters for p in pairs.pairs_from_scores(scores)} == {
        (0, 1): 2, (0, 3): 1, (1, 3): 1, (0, 2): 1, (1, 2): 1,
    }  # fmt: skip
    assert [(p.slot_i, p.slot_j) for p in pairs.pairs_from_scores(scores, min_raters=2)] == [(0, 1)]
    with refuses(InvalidInput, "min_raters", 0):
        pairs.pairs_from_scores(scores, 0)


def test_a_repeat_counts_once():
    twice = _scores({1: [5, 0, 1, 1]})
    again = [dataclasses.replace(s, presentation_id=99, event_id=s.event_id + 50, value=5 - s.value) for s in twice]
    other = [dataclasses.replace(s, rater_id=2, presentation_id=7, event_id=s.event_id + 90) for s in twice]
    pair = next(p for p in pairs.pairs_from_scores(twice + again + other) if (p.slot_i, p.slot_j) == (0, 1))
    assert pair.n_raters == 2
    assert pair.p == pytest.approx((0.5 + 1) / 2)
    assert len(pair.events) == 6


def test_ranks_order_equal_scores_and_nothing_else():
    scores = _scores({1: [4, 4, 4, 1]})
    places = {0: 2, 1: 1, 3: 1}  # slot 2 has no rank; slot 3 has one left from before its score was lowered
    ranked = [
        dataclasses.replace(s, rank=places.get(s.slot), rank_event=s.event_id + 50 if s.slot in places else None)
        for s in scores
    ]
    found = {(p.slot_i, p.slot_j): p for p in pairs.pairs_from_scores(ranked)}
    assert found[0, 1].p == 1 - pairs.P_RANKED
    assert found[0, 1].events == (1, 2, 51, 52)
    assert (found[0, 2].p, found[0, 3].p, found[1, 3].p) == (0.5, 1, 1)
    assert found[0, 3].events == (1, 4)
    assert 0.5 < pairs.P_RANKED <= pairs.preference(4, 3)
    even = [dataclasses.replace(s, rank=1, rank_event=s.event_id + 50) for s in scores]
    assert {p.p for p in pairs.pairs_from_scores(even) if p.slot_j < 3} == {0.5}


@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_turning_the_scale_round_turns_p_round(rows):
    up = pairs.pairs_from_scores(_scores(dict(enumerate(rows))))
    down = pairs.pairs_from_scores(_scores({r: [5 - v for v in row] for r, row in enumerate(rows)}))
    assert [p.p for p in up] == pytest.approx([1 - p.p for p in down])
    assert all(0 <= p.p <= 1 for p in up)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=30), st.floats(0.05, 0.5), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_split_keeps_components_whole_and_near_the_fraction(sizes, fraction, seed):
    components = [[f"{g}-{k}" for k in range(size)] for g, size in enumerate(sizes)]
    split = pairs.split_components(components, fraction, seed)
    for group in components:
        assert len({split[name] for name in group}) == 1
    held = sum(part == "held_out" for part in split.values())
    assert 0 < held < len(split)
    assert held <= max(round(fraction * len(split)), 1) or held == min(sizes)
    assert split == pairs.split_components(components, fraction, seed)


def test_one_component_is_trained_on():
    assert set(pairs.split_components([["a", "b"]], 0.5, 0).values()) == {"train"}


def test_run_pairs_stores_provenance_and_is_idempotent(tmp_path):
    study = support.rated_study(tmp_path)
    result = pairs.run_pairs(study)
    assert result["raters"] == "simulated"
    assert result["n_pairs"] == 7 * 6  # six sets, one of them TM2I
    assert result["n_pairs_by_criterion"] == {"text": 24, "mask": 18}
    assert result["n_sets_held_out"] == 1
    stored = support.rows(study, "pairs")
    assert {row["rater_kind"] for row in stored} == {"simulated"}
    text = next(
        r for r in stored if (r["set_id"], r["slot_i"], r["slot_j"], r["criterion"]) == ("set-0-000", 2, 3, "text")
    )
    assert text["p"] == pytest.approx((0 + 0.5) / 2)  # sim-b ties slots 2 and 3
    for row in stored:
        events = study.db.rows(
            "SELECT e.* FROM pair_events JOIN score_events e USING (event_id) WHERE pair_id = ?", [row["pair_id"]]
        )
        assert len(events) == 2 * row["n_raters"]
        assert {e["slot"] for e in events} == {row["slot_i"], row["slot_j"]}
        assert {e["criterion"] for e in events} == {row["criterion"]}
    again = pairs.run_pairs(study)
    assert again["already_done"]
    assert again["run_id"] == result["run_id"]
    assert len(support.rows(study, "pairs")) == len(stored)


def test_no_source_on_both_sides(tmp_path):
    study = support.make_study(tmp_path)
    support.add_records(study, 6)
    support.add_sets(study, ("T2I",) * 6, seed=0)
    support.add_sets(study, ("M2I",) * 6, seed=1)  # the same six patients, through their masks
    support.add_scores(study, "reader", lambda _s, slot, _c: slot)
    result = pairs.run_pairs(study)
    assert result["n_source_groups"] == 6
    assert (result["n_sets_train"], result["n_sets_held_out"]) == (10, 2)
    sides = {}
    for row in study.db.rows(
        "SELECT DISTINCT p.split, coalesce(c.text_record, c.mask_record) AS source FROM pairs p"
        " JOIN image_sets USING (set_id) JOIN conditions c USING (condition_id)"
    ):
        assert sides.setdefault(row["source"], row["split"]) == row["split"]


def test_only_submitted_scores_of_rating_sets_count(tmp_path):
    study = support.make_study(tmp_path)
    support.add_records(study, 3)
    first, second, _ = support.add_sets(study, ("T2I", "T2I", "T2I"))
    with refuses(NotFound, "annotate serve", "annotate simulate"):
        pairs.run_pairs(study)
    support.add_scores(study, "halfway", lambda _s, slot, _c: slot, submit=False)
    with refuses(NotFound, "annotate serve", "annotate simulate"):
        pairs.run_pairs(study)
    support.add_scores(study, "reader", lambda _s, slot, _c: slot, sets=[first, second])
    result = pairs.run_pairs(study)
    assert (result["raters"], result["n_sets"], result["n_raters_max"]) == ("human", 2, 1)


def test_people_and_simulations_never_mix(tmp_path):
    study = support.rated_study(tmp_path, ("T2I", "T2I"))
    support.add_scores(study, "reader", lambda _s, slot, _c: 3 - slot)
    with refuses(Conflict, "human", "simulated"):
        pairs.run_pairs(study)
    for kind, p in (("human", 1.0), ("simulated", 0.0)):
        run_id = pairs.run_pairs(study, raters=kind)["run_id"]
        found = study.db.rows("SELECT * FROM pairs WHERE run_id = ? AND slot_i = 0 AND slot_j = 1", [run_id])
        assert {row["p"] for row in found} == {p}
        assert {row["rater_kind"] for row in found} == {kind}


def test_a_new_score_makes_a_new_run(tmp_path):
    study = support.rated_study(tmp_path, ("T2I", "T2I"))
    before = pairs.run_pairs(study)
    support.add_scores(study, "sim-c", lambda _s, slot, _c: slot, kind="simulated")
    after = pairs.run_pairs(study)
    assert after["run_id"] != before["run_id"]
    assert after["n_raters_max"] == 3


def test_ranks_come_from_the_log_and_make_new_pairs(tmp_path):
    study = support.rated_study(tmp_path)
    first = pairs.run_pairs(study)
    tied = study.db.row(
        "SELECT v.presentation_id, v.rater_id, v.criterion, v.slot AS i, w.slot AS j FROM current_scores v"
        " JOIN current_scores w ON w.presentation_id = v.presentation_id AND w.criterion = v.criterion"
        " AND w.value = v.value AND w.slot > v.slot LIMIT 1"
    )
    for slot, place in ((tied["i"], 1), (tied["j"], 3), (tied["j"], 2)):
        record_event(
            study.db,
            ScoreEvent(
                str(uuid.uuid4()), tied["presentation_id"], tied["rater_id"], "rank", slot, tied["criterion"], place
            ),
        )
    scores = {s.slot: s for s in pairs.load_scores(study, "simulated") if s.rank is not None}
    assert {slot: s.rank for slot, s in scores.items()} == {tied["i"]: 1, tied["j"]: 2}
    assert pairs.opinion(scores[tied["i"]], scores[tied["j"]])[0] == pairs.P_RANKED
    again = pairs.run_pairs(study)
    assert again["run_id"] != first["run_id"]


def test_only_first_showings_of_rating_sets_are_trained_on(tmp_path):
    """Repeats, training, attention and comparison sets, and the pilot after a lock, never reach a pair."""
    study = support.make_study(tmp_path)
    support.add_records(study, 5)
    support.add_sets(study, ("T2I",) * 5, seed=0)
    support.add_scores(study, "reader", lambda _set, slot, _criterion: slot)
    names = sorted(row["set_id"] for row in support.rows(study, "image_sets"))
    with study.db.write() as connection:
        for name, purpose in zip(names, ("training", "attention", "comparison"), strict=False):
            connection.execute("UPDATE image_sets SET purpose = ? WHERE set_id = ?", (purpose, name))
        first = connection.execute("SELECT * FROM presentations WHERE set_id = ?", (names[4],)).fetchone()
        again = connection.execute(
            "INSERT INTO presentations(token, rater_id, set_id, position, slots, phase, repeat_of)"
            " SELECT 'again', rater_id, set_id, 99, slots, phase, presentation_id FROM presentations"
            " WHERE presentation_id = ?",
            (first[0],),
        ).lastrowid
    for slot in range(4):
        record_event(study.db, ScoreEvent(str(uuid.uuid4()), again, first[2], "score", slot, "text", 5 - slot))
    record_event(study.db, ScoreEvent(str(uuid.uuid4()), again, first[2], "submit"))
    assert {score.set_id for score in pairs.load_scores(study, "human")} == set(names[3:])
    result = pairs.run_pairs(study)
    assert result["n_sets"] == 2
    assert {row["p"] for row in support.rows(study, "pairs")} == {0}, "the repeat, scored the other way, counts nowhere"
    with study.db.write() as connection:
        connection.execute("INSERT INTO stages(at, actor, stage) VALUES ('2026', 'office', 'locked')")
    with refuses(NotFound, "annotate serve", "annotate simulate"):
        pairs.run_pairs(study)
