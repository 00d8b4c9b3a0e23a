"""Raters with known habits: scores drawn from a simple model, as tables, or put into a study through its event log."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pandas as pd

from radpref.data.agreement.score_tables import QualityTables, RaterRow, make_tables
from radpref.data.reader_study.scores import CRITERIA, ScoreEvent, record_events, required_scores
from radpref.data.study.study import Study

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
SET_S = 70.0
"""Seconds from the start of one set to the next in a made-up study."""


@dataclass(frozen=True)
class Habit:
    """How one made-up rater scores; all in score points. ``drift`` per 100 sets, ``place`` at A, B, C, D."""

    username: str
    kind: str = "human"
    leniency: float = 0.0
    noise: float = 0.5
    place: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    drift: float = 0.0
    straight: float = 0.0
    fast: float = 0.0
    seconds: float = 30.0
    careless: float = 0.0
    done: float = 1.0
    """Share of the sets that are scored by now."""


@dataclass(frozen=True)
class Shown:
    """One set in one made-up rater's order."""

    rater_id: int
    order: int
    set_id: str
    mode: str
    purpose: str = "rating"
    repeat_of: int | None = None


def make_order(rater_id: int, sets: Sequence[tuple[str, str, str]], n_repeats: int, seed: int) -> list[Shown]:
    """(set_id, mode, purpose) of every set in a seeded order; the first ``n_repeats`` rating sets again at the end."""
    rng = np.random.default_rng([seed, rater_id])
    shown = [Shown(rater_id, k, *sets[int(i)]) for k, i in enumerate(rng.permutation(len(sets)))]
    first = [one for one in shown if one.purpose == "rating"][:n_repeats]
    return [*shown, *(replace(one, order=len(shown) + k, repeat_of=one.order) for k, one in enumerate(first))]


class Scorer:
    """Draws the scores of one habit; images have the same latent quality for every rater."""

    def __init__(self, habit: Habit, seed: int, whole: bool = True) -> None:
        self.habit, self.whole, self.seed = habit, whole, seed
        self.rng = np.random.default_rng([seed, *habit.username.encode()])

    def latent(self, shown: Shown) -> np.ndarray[Any, Any]:
        """(criteria, 4) quality of the images of a set."""
        rng = np.random.default_rng([self.seed, *shown.set_id.encode()])
        return rng.normal(2.6, 0.3) + rng.normal(0, 0.9, (2, 4))[: len(CRITERIA[shown.mode])]

    def scores(self, shown: Shown, slots: str) -> dict[tuple[int, str], float]:
        """(slot, criterion) -> score."""
        habit, latent = self.habit, self.latent(shown)
        if shown.purpose in ("attention", "training"):
            latent = np.broadcast_to(np.array([5.0, 0.0, 5.0, 0.0]), latent.shape)
            if self.rng.random() < habit.careless:
                latent = latent[:, ::-1]
        value = (
            latent + habit.leniency + habit.drift * shown.order / 100 + self.rng.normal(0, habit.noise, latent.shape)
        )
        value = value + np.array([habit.place[slots.index(str(slot))] for slot in range(4)])
        if self.rng.random() < habit.straight:
            value = np.broadcast_to(value.mean(), value.shape)
        if self.whole:
            value = np.clip(np.round(value), 0, 5).astype(int)
        criteria = CRITERIA[shown.mode]
        return {(slot, name): value[c, slot].item() for slot in range(4) for c, name in enumerate(criteria)}

    def seconds(self, shown: Shown) -> float:
        """Active seconds on a set."""
        if self.rng.random() < self.habit.fast:
            return 0.8 * len(required_scores(shown.mode))
        return float(self.habit.seconds * self.rng.lognormal(0, 0.3) * (1.5 if shown.mode == "TM2I" else 1.0))


def make_frames(
    habits: Sequence[Habit],
    sets: Sequence[tuple[str, str, str]],
    *,
    n_repeats: int = 0,
    seed: int = 0,
    whole: bool = True,
    expected: Sequence[tuple[str, int, str, int, int]] = (),
) -> QualityTables:
    """The tables of a study in which every habit scored every set. ``whole``: scores rounded and cut to 0-5."""
    rng = np.random.default_rng([seed, 9])
    shown_rows: list[dict[str, Any]] = []
    score_rows: list[dict[str, Any]] = []
    for rater_id, habit in enumerate(habits):
        scorer, base = Scorer(habit, seed, whole), 10_000 * rater_id
        for one in make_order(rater_id, sets, n_repeats, seed):
            slots = "".join(map(str, rng.permutation(4)))
            finished = START + timedelta(seconds=SET_S * one.order)
            shown_rows.append(
                {
                    "presentation_id": base + one.order, "rater_id": rater_id, "username": habit.username,
                    "rater_kind": habit.kind, "set_id": one.set_id, "purpose": one.purpose, "mode": one.mode,
                    "slots": slots, "repeat_of": np.nan if one.repeat_of is None else base + one.repeat_of,
                    "state": "submitted", "finish": base + one.order, "finished_at": finished.isoformat(),
                    "last_at": finished.isoformat(), "active_s": scorer.seconds(one), "artifact": 0, "unrealistic": 0,
                }
            )  # fmt: skip
            score_rows += [
                {"presentation_id": base + one.order, "slot": slot, "criterion": criterion, "value": value}
                for (slot, criterion), value in scorer.scores(one, slots).items()
            ]
    raters = [RaterRow(h.username, h.kind, True) for h in habits]
    answers = pd.DataFrame(list(expected), columns=["set_id", "slot", "criterion", "low", "high"])
    return make_tables(pd.DataFrame(shown_rows), pd.DataFrame(score_rows), answers, raters)


def rating_sets(n: int, mode: str = "T2I") -> list[tuple[str, str, str]]:
    """``n`` rating sets for :func:`make_frames`."""
    return [(f"s{number}", mode, "rating") for number in range(n)]


def fill_study(
    study: Study,
    habits: Sequence[Habit],
    ids: dict[str, int],
    *,
    n_repeats: int = 0,
    seed: int = 0,
    start: datetime = START,
) -> None:
    """Put the habits' presentations and scores into a study, through its event log, at the times of a working day."""
    rows = study.db.rows("SELECT set_id, mode, purpose FROM image_sets JOIN conditions USING (condition_id) ORDER BY 1")
    sets = [(str(row["set_id"]), str(row["mode"]), str(row["purpose"])) for row in rows]
    planned: list[tuple[datetime, ScoreEvent]] = []
    for habit in habits:
        planned += _plan(
            study, habit, ids[habit.username], make_order(ids[habit.username], sets, n_repeats, seed), seed
        )
    planned.sort(key=lambda one: one[0])
    times = iter([(at - START + start).isoformat(timespec="microseconds") for at, _ in planned])
    with mock.patch("radpref.data.reader_study.scores.now", side_effect=times):
        record_events(study.db, [event for _, event in planned])


def _plan(
    study: Study, habit: Habit, rater_id: int, order: list[Shown], seed: int
) -> list[tuple[datetime, ScoreEvent]]:
    scorer, rng = Scorer(habit, seed), np.random.default_rng([seed, rater_id, 3])
    planned: list[tuple[datetime, ScoreEvent]] = []
    n_done = round(habit.done * len(order))
    for one in order:
        slots = "".join(map(str, rng.permutation(4)))
        number = 1000 * rater_id + one.order
        with study.db.write() as connection:
            connection.execute(
                "INSERT INTO presentations(presentation_id, token, rater_id, set_id, position, slots, repeat_of, phase)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number, f"token-{number:018d}", rater_id, one.set_id, one.order, slots,
                    None if one.repeat_of is None else 1000 * rater_id + one.repeat_of,
                    "main" if habit.kind == "simulated" else "pilot",
                ),
            )  # fmt: skip
        if one.order >= n_done:
            continue
        # Sixty sets a day, as people do them; repeats come last, days after their first showing.
        day, place = divmod(one.order, 60)
        at = START + timedelta(days=day, seconds=SET_S * place + rater_id)

        def event(kind: str, at: datetime = at, number: int = number, **fields: Any) -> None:
            planned.append(
                (at, ScoreEvent(str(uuid.UUID(int=int(rng.integers(2**62)))), number, rater_id, kind, **fields))
            )

        if rng.random() < 0.02:
            event("skip", comment="image does not load")
            continue
        for (slot, criterion), value in scorer.scores(one, slots).items():
            event("score", slot=slot, criterion=criterion, value=int(value))
        if rng.random() < 0.05:
            event("flag", slot=int(rng.integers(4)), criterion=str(rng.choice(["artifact", "unrealistic"])), value=1)
        event("submit", client={"active_ms": round(1000 * scorer.seconds(one))})
    return planned


def add_expectations(study: Study, set_ids: Sequence[str], purpose: str) -> None:
    """Make sets attention or training sets: images 0 and 2 are right (4-5), 1 and 3 wrong (0-1)."""
    with study.db.write() as connection:
        for set_id in set_ids:
            connection.execute("UPDATE image_sets SET purpose = ? WHERE set_id = ?", (purpose, set_id))
            mode = connection.execute(
                "SELECT mode FROM conditions JOIN image_sets USING (condition_id) WHERE set_id = ?", (set_id,)
            ).fetchone()[0]
            for slot, criterion in required_scores(mode):
                low, high = (4, 5) if slot % 2 == 0 else (0, 1)
                connection.execute(
                    "INSERT INTO set_expectations VALUES (?, ?, ?, ?, ?, 'known')", (set_id, slot, criterion, low, high)
                )


def dump(report: DataclassInstance) -> str:
    """JSON without NaN, as the server sends it."""
    return json.dumps(asdict(report), allow_nan=False)
