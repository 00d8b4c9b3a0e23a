"""The report's sentences: what the primary comparisons of a grid allow one to say, in plain words.

Pure functions of a grid's result (`radpref.downstream.inference.grid_result`). The first sentence answers the first
primary comparison; the others follow. Nothing here softens or strengthens a verdict of
`radpref.downstream.inference.t_tests.verdict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from radpref.downstream.inference.comparisons import Comparison, PairedComparison
from radpref.downstream.inference.grid_result import GridResult, Rules

ARM_NAMES = {
    "real": "real images only",
    "real_balanced": "real images only, class-balanced",
    "baseline": "images of the baseline generator",
    "aligned": "images of the preference-aligned generator",
    "finetuned": "images of the generator fine-tuned on well-scored images",
    "proxy-filtered": "the baseline's images that the proxy kept",
    "proxy-finetuned": "images of the generator fine-tuned on what the proxy kept",
}
ALIGNMENT_RUNS_NEEDED = 3
"""Alignment runs (the outer level) that a claim about alignment itself needs."""


@dataclass(frozen=True)
class Statement:
    """A sentence of the report and its colour."""

    tone: str  # "good", "bad", "even" or "open"
    sentence: str


def arm_name(arm: str) -> str:
    """What an arm is, in words."""
    return ARM_NAMES.get(arm, f"images of arm {arm}")


def question(comparison: str) -> str:
    """ "a>b" as words."""
    a, b = comparison.split(">")
    return f"adding {arm_name(a)} is better than {'' if b.startswith('real') else 'adding '}{arm_name(b)}"


def headline(rows: Sequence[Comparison], rules: Rules) -> Statement:
    """What one primary comparison says over its tasks."""
    asked = question(rows[0].comparison)
    verdicts = [row.verdict for row in rows]
    n_better, n_worse = verdicts.count("better"), verdicts.count("worse")
    n_open = verdicts.count("too small to conclude")
    places = f"{len(rows)} comparison" + ("s" if len(rows) > 1 else "")
    if n_better and n_worse:
        return Statement("even", f"Mixed: {asked} in {n_better} of {places} and worse in {n_worse}.")
    if n_better:
        return Statement("good", f"In {n_better} of {places}, {asked} (Holm-adjusted P < {rules.alpha:g}).")
    if n_worse:
        return Statement(
            "bad", f"In {n_worse} of {places} the opposite holds: it is not true that {asked}; it is worse."
        )
    if n_open < len(rows):
        n_even = len(rows) - n_open
        shown = f"no difference of {rules.relevant_difference:g} or more was shown in {n_even} of {places}"
        return Statement("even", f"Whether {asked}: {shown}; the others are too small to conclude.")
    return Statement("open", f"Too small to conclude whether {asked}: {_why_small(rows, rules)}.")


def _why_small(rows: Sequence[Comparison], rules: Rules) -> str:
    n = min(row.n for row in rows)
    tested = [row for row in rows if isinstance(row, PairedComparison)]
    if not tested:
        return f"n = {n} paired seeds, would need at least {rules.min_seeds}"
    largest = max(tested, key=lambda row: abs(row.difference))
    seen = f"the largest observed difference ({largest.difference:+.3f}, {largest.task})".replace("-", "−")
    needed = largest.seeds_needed
    if needed is None:
        would = "would need more than 10,000"
    elif needed <= rules.min_seeds:
        would = f"would need at least {rules.min_seeds}"
    else:
        would = f"would need about {needed:,}"
    detectable = max(row.detectable_difference for row in tested)
    return (
        f"n = {n} paired seeds, and {seen} {would}. Only differences above {detectable:.2f} were likely (80 %) "
        "to be found here"
    )


def sentences(result: GridResult) -> list[Statement]:
    """One statement per primary comparison; the first is the report's verdict."""
    rows = result.comparisons
    asked = dict.fromkeys(row.comparison for row in rows)
    return [headline([row for row in rows if row.comparison == one], result.rules) for one in asked]


def scope_note(n_alignment_runs: int) -> str:
    """What one alignment run licenses."""
    if n_alignment_runs >= ALIGNMENT_RUNS_NEEDED:
        return f"{n_alignment_runs} alignment runs exist; the figures shown are those of the newest checkpoint."
    count = {0: "no alignment run", 1: "one alignment run"}.get(n_alignment_runs, f"{n_alignment_runs} alignment runs")
    return (
        f"From {count}: statements hold for this checkpoint only. A statement about alignment itself needs at least "
        f"{ALIGNMENT_RUNS_NEEDED} alignment runs."
    )
