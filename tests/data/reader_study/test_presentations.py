"""Who sees which set, in which order, at which letter: balance, repeats, coverage, phases; nothing made changes."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radpref.data.config.reader_study import AnnotateConfig
from radpref.data.reader_study.presentations import Planned, ensure_presentations, latin_rows, with_repeats
from radpref.data.reader_study.raters import add_rater
from radpref.data.study.runs import now
from radpref.data.study.study import Study
from radpref.rounds import open_presentations
from tests.support.annotate import add_checks, add_sets, make_study

PLAIN = {"training_sets": 0, "repeats": 0.0, "attention": 0.0}


def annotate(**fields: Any) -> AnnotateConfig:
    return AnnotateConfig(**{**PLAIN, **fields})


def shown(study: Study, rater_id: int = 1) -> list[dict[str, Any]]:
    return study.db.rows(
        "SELECT p.*, s.purpose FROM presentations p JOIN image_sets s USING (set_id) WHERE rater_id = ?"
        " ORDER BY position",
        (rater_id,),
    )


def order(study: Study, rater_id: int = 1) -> list[tuple[str, str, bool]]:
    return [(row["set_id"], row["slots"], row["repeat_of"] is not None) for row in shown(study, rater_id)]


def submit(study: Study, presentation_id: int, rater_id: int) -> None:
    with study.db.write() as connection:
        connection.execute(
            "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, created_at) VALUES (?, ?, ?, 'submit', ?)",
            (f"submit-{presentation_id}", presentation_id, rater_id, now()),
        )


def go_to(study: Study, *stages: str, keep: int = 0) -> None:
    with study.db.write() as connection:
        for stage in stages:
            connection.execute(
                "INSERT INTO stages(at, actor, stage, detail) VALUES (?, 'office', ?, json_object('keep_scores', ?))",
                (now(), stage, keep),
            )


@given(st.integers(0, 40), st.integers(0, 10**6))
def test_latin_rows_put_every_image_at_every_letter(n: int, seed: int) -> None:
    rows = latin_rows(np.random.default_rng(seed), n)
    assert len(rows) == n
    assert all(sorted(row) == list("0123") for row in rows)
    counts = Counter((letter, slot) for row in rows[: n // 4 * 4] for letter, slot in enumerate(row))
    assert set(counts.values()) <= {n // 4}


@given(st.lists(st.permutations("0123").map("".join), max_size=30), st.integers(0, 10**6))
def test_letters_of_a_repeat_are_balanced_and_never_the_first_ones(old: list[str], seed: int) -> None:
    rows = latin_rows(np.random.default_rng(seed), len(old), avoid=old)
    assert all(new != first for new, first in zip(rows, old, strict=True))
    whole = len(old) // 4 * 4
    counts = Counter((letter, slot) for row in rows[:whole] for letter, slot in enumerate(row))
    assert set(counts.values()) <= {whole // 4}


@given(st.data(), st.integers(1, 120), st.integers(1, 60), st.integers(0, 10**6))
@settings(max_examples=150)
def test_repeats_keep_their_distance(data: st.DataObject, n: int, gap: int, seed: int) -> None:
    purposes = data.draw(st.lists(st.sampled_from(["rating", "rating", "attention"]), min_size=n, max_size=n))
    plan = [Planned(f"{purpose}-{i}", "0123") for i, purpose in enumerate(purposes)]
    rating = {one.set_id for one in plan if one.set_id.startswith("rating")}
    n_repeats = data.draw(st.integers(0, len(rating) // 2))
    found = with_repeats(np.random.default_rng(seed), plan, rating, n_repeats, gap)
    assert [one for one in found if not one.repeats] == plan, "first showings keep their order"
    repeats = [(place, one) for place, one in enumerate(found) if one.repeats]
    assert len({one.set_id for _, one in repeats}) == n_repeats == len(repeats)
    between = [place - found.index(plan[names_at(plan, one.set_id)]) - 1 for place, one in repeats]
    if len(plan) >= gap + 1 + last_of_first(plan, rating, n_repeats):
        assert all(distance >= gap for distance in between)
    elif repeats:
        possible = len(plan) - 1 - last_of_first(plan, rating, n_repeats)
        assert all(distance >= possible for distance in between), "as far apart as the study allows"


def names_at(plan: list[Planned], name: str) -> int:
    return next(i for i, one in enumerate(plan) if one.set_id == name)


def last_of_first(plan: list[Planned], rating: set[str], n: int) -> int:
    """Place of the n-th rating set: with fewer sets behind it, n repeats cannot stand farther away."""
    places = [i for i, one in enumerate(plan) if one.set_id in rating]
    return places[n - 1] if n else 0


def test_one_order_of_everything(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 40)
    add_checks(study, "attention", 5)
    add_checks(study, "training", 3)
    compared = add_sets(study, ("T2I",) * 4, seed=9)
    with study.db.write() as connection:
        for name in compared:
            connection.execute("UPDATE image_sets SET purpose = 'comparison' WHERE set_id = ?", (name,))
    ann = add_rater(study.db, "ann").rater_id
    settings = annotate(training_sets=2, repeats=0.2, attention=0.1, repeat_gap_sets=15)
    assert ensure_presentations(study.db, ann, 3, settings) == 2 + 40 + 4 + 4 + 8
    rows = shown(study)
    assert [row["purpose"] for row in rows[:2]] == ["training", "training"]
    assert Counter(row["purpose"] for row in rows if row["repeat_of"] is None) == {
        "rating": 40, "comparison": 4, "attention": 4, "training": 2,
    }  # fmt: skip
    purposes = [row["purpose"] for row in rows[2:]]
    for purpose in ("comparison", "attention"):
        places = [place for place, one in enumerate(purposes) if one == purpose]
        assert places != list(range(places[0], places[0] + 4)), "interleaved, not in one heap"
    by_id = {row["presentation_id"]: row for row in rows}
    repeats = [row for row in rows if row["repeat_of"] is not None]
    assert len(repeats) == 8
    for row in repeats:
        first = by_id[row["repeat_of"]]
        assert (row["set_id"], row["purpose"], row["phase"]) == (first["set_id"], "rating", "pilot")
        assert row["position"] - first["position"] > 15
        assert row["slots"] != first["slots"]
    firsts = [row["slots"] for row in rows if row["purpose"] == "rating" and row["repeat_of"] is None]
    for group, each in ((firsts, 10), ([row["slots"] for row in repeats], 2)):
        counts = Counter((place, slot) for slots in group for place, slot in enumerate(slots))
        assert set(counts.values()) == {each}, "a Latin balance of its own for every kind"
    assert ensure_presentations(study.db, ann, 3, settings) == 0


def test_orders_depend_on_seeds_alone(tmp_path: Path) -> None:
    def made(folder: str, seed: int, others_first: bool) -> list[tuple[str, str, bool]]:
        study = make_study(tmp_path / folder, modes=("T2I",) * 12)
        add_checks(study, "attention", 2)
        ids = [add_rater(study.db, name).rater_id for name in ("bob", "ann")]
        wish = annotate(repeats=0.25, attention=0.2, repeat_gap_sets=3)
        for rater_id in ids if others_first else ids[1:]:
            ensure_presentations(study.db, rater_id, seed, wish)
        found = order(study, ids[1])
        study.db.close()
        return found

    assert made("a", 1, True) == made("b", 1, False) != made("c", 2, False)


def test_what_exists_stays_and_new_sets_follow_with_their_share(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 10)
    add_checks(study, "attention", 3)
    ann = add_rater(study.db, "ann").rater_id
    wish = annotate(repeats=0.2, attention=0.1, repeat_gap_sets=4)
    assert ensure_presentations(study.db, ann, 0, wish) == 10 + 2 + 1
    first = order(study)
    add_sets(study, ("T2I",) * 10, seed=8)
    assert ensure_presentations(study.db, ann, 0, wish) == 10 + 2 + 1
    assert order(study)[:13] == first
    assert Counter(row[0] for row in order(study) if not row[2]).most_common(1)[0][1] == 1


def test_sets_added_one_by_one_get_their_repeats_too(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 2)
    ann = add_rater(study.db, "ann").rater_id
    for seed in range(20, 38):
        add_sets(study, ("T2I",), seed=seed)
        ensure_presentations(study.db, ann, 0, annotate(repeats=0.1))
    assert sum(row[2] for row in order(study)) == 2


def test_a_study_from_before_goes_on_without_training_or_repeats(tmp_path: Path) -> None:
    """Presentations made by an earlier release: people in the middle are neither trained nor shown anything twice."""
    study = make_study(tmp_path, modes=("T2I",) * 20)
    ann = add_rater(study.db, "ann").rater_id
    ensure_presentations(study.db, ann, 0)
    first = order(study)
    submit(study, 1, ann)
    add_checks(study, "training", 3)
    add_checks(study, "attention", 1)
    assert ensure_presentations(study.db, ann, 0, AnnotateConfig()) == 0
    assert order(study) == first


def test_training_made_late_still_comes_to_who_has_not_begun(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    ann = add_rater(study.db, "ann").rater_id
    ensure_presentations(study.db, ann, 0, annotate(training_sets=2))
    add_checks(study, "training", 2)
    assert ensure_presentations(study.db, ann, 0, annotate(training_sets=2)) == 2


def test_simulated_raters_get_plain_rating_sets(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 10)
    for purpose in ("training", "attention"):
        add_checks(study, purpose, 3)
    sim = add_rater(study.db, "sim", kind="simulated").rater_id
    wish = annotate(training_sets=3, repeats=0.5, attention=0.3, raters_per_set=1, sets_per_rater=2)
    assert ensure_presentations(study.db, sim, 0, wish) == 10
    assert {(row["purpose"], row["phase"], row["repeat_of"]) for row in shown(study, sim)} == {("rating", "main", None)}


def test_a_lock_gives_people_everything_but_training_anew(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 10)
    add_checks(study, "training", 2)
    add_checks(study, "attention", 1)
    ann = add_rater(study.db, "ann").rater_id
    wish = annotate(training_sets=2, repeats=0.2, attention=0.1, repeat_gap_sets=4)
    assert ensure_presentations(study.db, ann, 0, wish) == 15
    pilot = order(study)
    go_to(study, "pilot", "locked")
    assert ensure_presentations(study.db, ann, 0, wish) == 13
    assert ensure_presentations(study.db, ann, 0, wish) == 0
    rows = shown(study)
    assert order(study)[:15] == pilot
    assert [row["phase"] for row in rows] == ["pilot"] * 15 + ["main"] * 13
    assert {row["repeat_of"] for row in rows[15:]} - {None} <= {row["presentation_id"] for row in rows[15:]}
    assert [row[0] for row in pilot[2:]] != [row[0] for row in order(study)[15:]], "in a new order"


def test_a_lock_that_keeps_the_scores_gives_nothing_anew(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 4)
    ann, bob = (add_rater(study.db, name).rater_id for name in ("ann", "bob"))
    ensure_presentations(study.db, ann, 0, annotate())
    go_to(study, "pilot", "locked", keep=1)
    assert ensure_presentations(study.db, ann, 0, annotate()) == 0
    assert ensure_presentations(study.db, bob, 0, annotate()) == 4
    assert {row["phase"] for row in shown(study, bob)} == {"main"}


def test_a_frozen_study_gives_nothing_more(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    ann = add_rater(study.db, "ann").rater_id
    go_to(study, "pilot", "locked", "frozen")
    assert ensure_presentations(study.db, ann, 0, annotate()) == 0


def test_sets_of_an_unfinished_run_are_not_shown(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    for name, kind in (("ann", "human"), ("sim", "simulated")):
        rater = add_rater(study.db, name, kind="human" if kind == "human" else "simulated").rater_id
        with study.db.write() as connection:
            connection.execute("UPDATE runs SET status = 'running'")
        assert ensure_presentations(study.db, rater, 0, annotate()) == 0
        with study.db.write() as connection:
            connection.execute("UPDATE runs SET status = 'done'")
        assert ensure_presentations(study.db, rater, 0, annotate()) == 3


def readers(study: Study) -> Counter[str]:
    rows = study.db.rows("SELECT set_id FROM presentations JOIN raters USING (rater_id) WHERE active = 1")
    return Counter(row["set_id"] for row in rows)


@given(n=st.integers(1, 12), k=st.integers(1, 4), people=st.integers(1, 6), limit=st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_coverage(n: int, k: int, people: int, limit: int) -> None:
    """Never more readers than asked, nobody above the limit, and nothing left where the people suffice."""
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(Path(folder), modes=("T2I",) * 12)
        with study.db.write() as connection:  # n of the twelve
            connection.execute("UPDATE image_sets SET purpose = 'training' WHERE ordinal >= ?", (n,))
        ids = [add_rater(study.db, f"r{i}").rater_id for i in range(people)]
        wish = annotate(raters_per_set=k, sets_per_rater=limit)
        for rater_id in ids:
            ensure_presentations(study.db, rater_id, 0, wish)
            assert ensure_presentations(study.db, rater_id, 0, wish) == 0
        given_to = [len(shown(study, rater_id)) for rater_id in ids]
        counts = readers(study)
        study.db.close()
    assert max(counts.values(), default=0) <= min(k, people)
    assert not limit or max(given_to) <= limit
    share = -(-n * k // people)
    assert max(given_to) <= min(n, share)
    if not limit or limit >= share:
        assert sum(counts.values()) == n * min(k, people), "every set has its readers"
    else:
        levels = [counts.get(f"set-0-{i}", 0) for i in range(n)]
        assert max(levels) - min(levels) <= 1, "those with the fewest readers first"


def test_a_retired_reader_is_replaced_for_what_was_not_read(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 8)
    ann, bob = (add_rater(study.db, name).rater_id for name in ("ann", "bob"))
    wish = annotate(raters_per_set=1)
    assert [ensure_presentations(study.db, rater, 0, wish) for rater in (ann, bob)] == [4, 4]
    first = order(study, bob)
    done = shown(study, ann)[0]
    submit(study, done["presentation_id"], ann)
    with study.db.write() as connection:
        connection.execute("UPDATE raters SET active = 0 WHERE rater_id = ?", (ann,))
    assert ensure_presentations(study.db, bob, 0, wish) == 3
    assert order(study, bob)[:4] == first
    assert done["set_id"] not in {row[0] for row in order(study, bob)}


def test_a_new_reader_changes_nobodys_order(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 8)
    ann = add_rater(study.db, "ann").rater_id
    wish = annotate(raters_per_set=2, repeats=0.25, repeat_gap_sets=2)
    ensure_presentations(study.db, ann, 0, wish)
    first = order(study, ann)
    bob = add_rater(study.db, "bob").rater_id
    assert ensure_presentations(study.db, bob, 0, wish) == 8 + 2
    assert ensure_presentations(study.db, ann, 0, wish) == 0
    assert order(study, ann) == first


def test_a_limit_alone_takes_the_least_read_first(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 9)
    for name in ("ann", "bob", "eve"):
        ensure_presentations(study.db, add_rater(study.db, name).rater_id, 0, annotate(sets_per_rater=3))
    assert set(readers(study).values()) == {1}
    assert len(readers(study)) == 9


def test_people_who_come_at_once_share_without_overlap(tmp_path: Path) -> None:
    study = make_study(tmp_path, modes=("T2I",) * 12)
    ids = [add_rater(study.db, f"r{i}").rater_id for i in range(6)]
    start = threading.Barrier(6)
    errors: list[BaseException] = []

    def come(rater_id: int) -> None:
        start.wait()
        try:
            ensure_presentations(study.db, rater_id, 0, annotate(raters_per_set=2))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=come, args=(rater_id,)) for rater_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert set(readers(study).values()) == {2}
    assert len(readers(study)) == 12


@pytest.mark.parametrize("n_sets", [200, 400])
def test_looking_for_new_sets_is_quick(tmp_path: Path, n_sets: int) -> None:
    """The check at every page load reads a fixed number of statements, however many sets there are."""
    study = make_study(tmp_path, modes=("T2I",))
    with study.db.write() as connection:
        for i in range(1, n_sets):
            connection.execute(
                "INSERT INTO image_sets SELECT 'more-' || ?, run_id, ?, condition_id, purpose FROM image_sets"
                " WHERE set_id = 'set-0-0'",
                (i, i + 1),
            )
    ann = add_rater(study.db, "ann").rater_id
    wish = annotate(repeats=0.1)
    assert ensure_presentations(study.db, ann, 0, wish) == n_sets + n_sets // 10
    statements: list[str] = []
    study.db.connection.set_trace_callback(statements.append)
    assert ensure_presentations(study.db, ann, 0, wish) == 0
    study.db.connection.set_trace_callback(None)
    assert len(statements) <= 8
    assert not any(text.startswith("BEGIN") for text in statements)


def test_a_round_waits_for_first_showings_of_rating_sets_only(tmp_path: Path) -> None:
    toml = "[annotate]\ntraining_sets = 2\nrepeats = 0.5\nattention = 0.5\nrepeat_gap_hours = 99.0\n"
    study = make_study(tmp_path, modes=("T2I",) * 4, toml=toml)
    add_checks(study, "training", 2)
    add_checks(study, "attention", 2)
    with study.db.write() as connection:
        connection.execute("UPDATE image_sets SET purpose = 'comparison' WHERE set_id = 'set-0-3'")
    ann = add_rater(study.db, "ann").rater_id
    add_rater(study.db, "office", role="admin")
    retired = add_rater(study.db, "bob").rater_id
    with study.db.write() as connection:
        connection.execute("UPDATE raters SET active = 0 WHERE rater_id = ?", (retired,))
    assert open_presentations(study) == (1, 3)
    for row in shown(study, ann):
        if row["purpose"] == "rating" and row["repeat_of"] is None:
            submit(study, row["presentation_id"], ann)
    assert open_presentations(study) == (1, 0), "training, checks, comparisons and repeats are still open"
    go_to(study, "locked")
    assert open_presentations(study) == (1, 3), "the pilot does not count any more"


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("open"), st.integers(1, 4)),
            st.tuples(st.just("sets"), st.integers(1, 6)),
            st.tuples(st.just("retire"), st.integers(1, 4)),
            st.tuples(st.just("score"), st.integers(1, 4)),
            st.tuples(st.just("lock"), st.integers(0, 1)),
        ),
        min_size=3,
        max_size=12,
    ),
    k=st.integers(0, 3),
)
@settings(max_examples=30, deadline=None)
def test_whatever_happens_what_was_shown_stays(steps: list[tuple[str, int]], k: int) -> None:
    """Raters come and go, sets are added, the study is locked: old rows stay, and every order stays sound."""
    wish = annotate(raters_per_set=k, repeats=0.3, attention=0.2, training_sets=1, repeat_gap_sets=3)
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(Path(folder), modes=("T2I",) * 5)
        add_checks(study, "training", 1)
        add_checks(study, "attention", 3)
        for i in range(4):
            add_rater(study.db, f"r{i}")
        known: list[dict[str, Any]] = []
        for number, (what, value) in enumerate(steps):
            take_step(study, what, value, wish, number)
            rows = study.db.rows("SELECT * FROM presentations ORDER BY presentation_id")
            assert rows[: len(known)] == known
            known = rows
        by_id = {row["presentation_id"]: row for row in known}
        firsts = [(row["rater_id"], row["set_id"], row["phase"]) for row in known if row["repeat_of"] is None]
        assert len(firsts) == len(set(firsts))
        for row in known:
            if row["repeat_of"] is not None:
                first = by_id[row["repeat_of"]]
                assert [row[key] for key in ("rater_id", "set_id", "phase")] == [
                    first[key] for key in ("rater_id", "set_id", "phase")
                ]
                assert first["repeat_of"] is None
                assert first["position"] < row["position"]
        study.db.close()


def take_step(study: Study, what: str, value: int, wish: AnnotateConfig, number: int) -> None:
    locked = study.db.value("SELECT stage FROM study_stage") == "locked"
    if what == "open":
        ensure_presentations(study.db, value, 0, wish)
    elif what == "retire":
        with study.db.write() as connection:
            connection.execute("UPDATE raters SET active = 1 - active WHERE rater_id = ?", (value,))
    elif what == "sets" and not locked:
        add_sets(study, ("T2I",) * value, seed=100 + number)
    elif what == "score" and study.db.value("SELECT active FROM raters WHERE rater_id = ?", (value,)):
        waiting = [row for row in shown(study, value) if row["repeat_of"] is None]
        if waiting and not study.db.value("SELECT 1 FROM score_events WHERE rater_id = ?", (value,)):
            submit(study, waiting[0]["presentation_id"], value)
    elif what == "lock" and study.db.value("SELECT stage FROM study_stage") == "pilot":
        go_to(study, "locked", keep=value)
