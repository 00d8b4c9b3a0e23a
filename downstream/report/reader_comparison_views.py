"""The reader comparison as the report words it: sentences and tables.

Pure functions of `radpref.downstream.inference.reader_comparison`'s result. Sentences follow
`radpref.downstream.report.verdicts`: nothing here softens or strengthens a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields

from radpref.data.reader_study.lifecycle import Unblinding
from radpref.downstream.inference.comparison_sets import ComparisonSets, TrainedOn
from radpref.downstream.inference.crossed import Crossed
from radpref.downstream.inference.reader_comparison import (
    ALL,
    MIN_CONDITIONS,
    MIN_RATERS,
    OVERALL,
    RELEVANT_GAIN,
    ArmsRead,
    Estimate,
    GainRow,
)
from radpref.downstream.report.table import TONES, Table, interval, number, p_value
from radpref.downstream.report.verdicts import Statement, arm_name

NBSP = "\u00a0"
MODE_WORDS = {ALL: "All modes", "T2I": "From text (T2I)", "M2I": "From masks (M2I)", "TM2I": "From both (TM2I)"}
FLAG_WORDS = {"artifact": "artifact", "unrealistic": "looks unrealistic"}


def who(part: ArmsRead) -> str:
    """Who scored, in words; simulated raters are named so wherever they appear."""
    n = part.n_raters
    if part.kind == "simulated":
        return f"{n} SIMULATED rater" + ("s" if n != 1 else "")
    return "one person" if n == 1 else f"{n} people"


def label(row: GainRow) -> str:
    """Which sets and criterion a row is about."""
    return MODE_WORDS[row.mode] + ("" if row.criterion == OVERALL else f", {row.criterion}")


def statement(part: ArmsRead, row: GainRow) -> Statement:
    """What a row that has a verdict says."""
    tone = TONES[row.verdict or "too small to conclude"]
    first, second = arm_name(part.first), arm_name(part.second)
    where = "" if row.mode == ALL else f" in {row.mode} sets"
    asked = f"{who(part)} scored {second} {{}} than {first}{where}"
    if row.gain.ci is None:
        return Statement(tone, f"Too small to conclude whether {asked.format('higher')}: {_too_few(row.gain)}.")
    figures = (
        f"{number(row.gain.value, 2, signed=True)} points of 5 (95 % CI {interval(row.gain.ci, 2)}),"
        f" win rate {_percent(row.win_rate.value)} ({_percents(row.win_rate.ci)})"
    )
    if tone in ("good", "bad"):
        text = asked.format("higher" if tone == "good" else "lower")
        p = p_value(row.p_holm)
        return Statement(tone, f"{text[0].upper()}{text[1:]}: {figures}; P {p if p.startswith('<') else f'= {p}'}.")
    if tone == "even":
        shown = f"No difference of {RELEVANT_GAIN:g} points or more was shown"
        return Statement(tone, f"{shown}: {asked.format('no higher')}, {figures}.")
    found = f"Only gains above {number(row.detectable_gain, 2)} points were likely (80 %) to be found here"
    return Statement(tone, f"Too small to conclude whether {asked.format('higher')}: {figures}. {found}.")


def _too_few(gain: Estimate) -> str:
    raters, sets = gain.n_raters, gain.n_conditions
    if raters >= MIN_RATERS and sets >= MIN_CONDITIONS:
        return "every set gave the same difference, so there is no spread to judge by"
    seen = f"{raters} rater{'s' if raters != 1 else ''} and {sets} set{'s' if sets != 1 else ''}"
    return f"{seen}, would need at least {MIN_RATERS} raters and {MIN_CONDITIONS} sets"


def statements(part: ArmsRead) -> list[Statement]:
    """The primary statement first, then one per mode."""
    modes = [row for row in part.rows if row.role == "mode"]
    rows = [row for row in part.rows if row.role == "primary"] + (modes if len(modes) > 1 else [])
    return [statement(part, row) for row in rows]


def early_note(early: Unblinding) -> str:
    """That arms were named before scoring ended: when, by whom, why."""
    return (
        f"Arms were revealed before scoring ended: {early.at[:16].replace('T', ' ')} UTC, by {early.actor} "
        f"({early.reason}). Scores given after that are from a study that was no longer blind."
    )


def people_state(found: ComparisonSets) -> list[str]:
    """How far people's scoring is, as paragraphs: what is hidden, how many sets are done, what comes next."""
    progress = found.progress
    if not progress.n:
        return ["No person has been shown a comparison set yet."] if found.stage != "frozen" else []
    people = "1 person" if progress.n_raters == 1 else f"{progress.n_raters} people"
    finished = f"{people} finished {progress.n_done} of the {progress.n} comparison sets given to them."
    if found.visible:
        return [finished] if found.stage != "frozen" or progress.n_done < progress.n else []
    freeze = "`radpref study freeze`"
    if found.stage != "locked":
        freeze = f"`radpref study lock --keep-scores` (what is scored so far stays), then {freeze}"
    return [
        f"Arms are hidden until scoring ends, so nothing that people scored is shown here. {finished} When all is "
        f"scored: {freeze}, and write the report again."
    ]


def proof(counted: TrainedOn) -> str:
    """That nothing was trained on comparison sets, counted in the database."""
    shared = counted.n_rated_patients
    return (
        f"Counted in the study record: of {counted.n_pairs:,} preference pairs, {counted.n_pairs_of_comparisons} come "
        f"from a comparison set and {counted.n_pair_events_of_comparisons} of the scores behind them were given on "
        f"one; {shared} of the comparison’s patients {'is' if shared == 1 else 'are'} among those whose sets gave "
        "pairs."
    )


def suffix(parts: Sequence[ArmsRead], index: int) -> str:
    """Part of the names of a comparison's files: the kind of rater, and a number where arms differ."""
    kind = parts[index].kind
    before = sum(part.kind == kind for part in parts[:index])
    return kind if not before else f"{kind}-{before + 1}"


def _who_wrote(part: ArmsRead) -> str:
    kind = "SIMULATED raters" if part.kind == "simulated" else "People"
    return f"{kind}: {part.second} against {part.first}"


def result_table(part: ArmsRead, name: str) -> Table:
    """Gain and win rate per mode and criterion."""
    shown, tones = [], []
    for row in part.rows:
        verdict = row.verdict or "not tested"
        shown.append([
            label(row), str(row.gain.n_conditions), number(row.mean_first, 2), number(row.mean_second, 2),
            number(row.gain.value, 2, signed=True), interval(row.gain.ci, 2),
            interval(row.gain.ci_bootstrap, 2), _percent(row.win_rate.value), _percents(row.win_rate.ci),
            _percent(row.ties), p_value(row.p_holm), verdict,
        ])  # fmt: skip
        tones.append(TONES.get(verdict, "plain"))
    header = (
        "Sets", "n", f"{part.first}, mean", f"{part.second}, mean", "Gain", "95 % CI, model", "95 % CI, bootstrap",
        "Win rate", "95 % CI", "Ties", "P (Holm)", "Verdict",
    )  # fmt: skip
    readers = who(part)
    sizes = f"{part.n_sets} sets, {part.n_scores:,} scores"
    caption = f"{_who_wrote(part)}. {readers[0].upper()}{readers[1:]}, {sizes}"
    notes = (
        "Gain: mean score of the second arm minus the first, 0 to 5. Win rate: of all pairs of one image of each arm "
        "in a set, as each rater scored them; a tie is half a win. Intervals are for other raters and conditions.",
        "Primary: all modes together. The modes are a separate family (Holm); single criteria are not tested. "
        f"P is two-sided. Fewer than {MIN_RATERS} raters or {MIN_CONDITIONS} sets get no interval and no conclusion; "
        f"no difference shown needs 80 % power for {RELEVANT_GAIN:g} points.",
    )
    rows = [{"rater_kind": part.kind, "first": part.first, "second": part.second, **_flat(row)} for row in part.rows]
    return Table(name, caption, header, shown, rows, 1, notes, tuple(tones))


def _flat(row: GainRow) -> dict[str, object]:
    """A row for the CSV: one column per figure of its estimates; of the fit its P, df and variances."""
    gain, fit = row.gain, row.gain.fit
    names = [f.name for f in fields(Crossed) if f.name.startswith("var_")]
    own = {name: value for name, value in vars(row).items() if name not in ("gain", "win_rate")}
    return {
        **own, "n_raters": gain.n_raters, "n_conditions": gain.n_conditions, "gain": gain.value,
        **_columns("gain_", gain), "win_rate": row.win_rate.value, **_columns("win_rate_", row.win_rate),
        "df": fit.df if fit else None, "p": fit.p() if fit else None, "se": fit.se if fit else None,
        **{name: getattr(fit, name) if fit else None for name in names},
    }  # fmt: skip


def _columns(prefix: str, one: Estimate) -> dict[str, float | None]:
    ends = (*(one.ci or (None, None)), *(one.ci_bootstrap or (None, None)))
    return {f"{prefix}{name}": end for name, end in zip(("low", "high", "boot_low", "boot_high"), ends, strict=True)}


def _percent(value: float) -> str:
    return f"{100 * value:.0f}{NBSP}%"


def _percents(ci: tuple[float, float] | None) -> str:
    return "–" if ci is None else f"{100 * ci[0]:.0f} to {100 * ci[1]:.0f}{NBSP}%"


def _points(ci: tuple[float, float] | None) -> str:
    return interval(ci and [100 * end for end in ci], 1)


def rater_table(part: ArmsRead, name: str) -> Table:
    """Each rater alone."""
    shown = [
        [
            row.rater + (" (simulated)" if part.kind == "simulated" else ""), str(row.n_sets),
            number(row.first, 2), number(row.second, 2), number(row.gain, 2, signed=True),
            _percent(row.win_rate), _percent(row.ties),
        ]
        for row in part.raters
    ]  # fmt: skip
    header = ("Rater", "Sets", f"{part.first}, mean", f"{part.second}, mean", "Gain", "Win rate", "Ties")
    rows = [{"rater_kind": part.kind, **asdict(row)} for row in part.raters]
    return Table(name, f"{_who_wrote(part)}, rater by rater", header, shown, rows)


def flag_table(part: ArmsRead, name: str) -> Table:
    """Flags by arm."""
    shown = [
        [
            FLAG_WORDS[row.flag], number(row.n_images), _percent(row.share_first), _percent(row.share_second),
            number(100 * row.difference.value, 1, signed=True), _points(row.difference.ci),
            _points(row.difference.ci_bootstrap),
        ]
        for row in part.flags
    ]  # fmt: skip
    header = (
        "Flag", "Images read", part.first, part.second, "Difference, points of 100", "95 % CI, model",
        "95 % CI, bootstrap",
    )  # fmt: skip
    rows = [
        {"rater_kind": part.kind, **vars(row), "difference": row.difference.value, **_columns("", row.difference)}
        for row in part.flags
    ]
    return Table(name, f"{_who_wrote(part)}: share of images that raters flagged", header, shown, rows)


def plan_table(part: ArmsRead, name: str) -> Table | None:
    """What more raters or more sets would find; None where this study gives no variances."""
    plan = part.plan
    if not plan:
        return None
    sizes = list(dict.fromkeys(row.n_sets for row in plan))
    shown = []
    for n_raters in dict.fromkeys(row.n_raters for row in plan):
        cells = {row.n_sets: row.detectable_gain for row in plan if row.n_raters == n_raters}
        mark = " (here)" if n_raters == part.n_raters else ""
        shown.append([f"{n_raters}{mark}", *(number(cells[n], 2) for n in sizes)])
    header = ("Raters", *(f"{n} sets" for n in sizes))
    caption = "Smallest gain, in points, that would be found with 80 % power if each rater scored every set"
    notes = (
        "From the variances estimated here, for the primary comparison. More sets help until the difference between "
        "raters remains; only more raters help against that.",
    )
    rows = [{"rater_kind": part.kind, **asdict(row)} for row in plan]
    return Table(name, caption, header, shown, rows, 1, notes)
