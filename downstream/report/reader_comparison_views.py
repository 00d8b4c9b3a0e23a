"""The reader comparison as the report shows it: sentences, tables and figures.

Pure functions of `radpref.downstream.inference.reader_comparison`'s result. Sentences follow
`radpref.downstream.report.verdicts`: nothing here softens or strengthens a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.charts import INK, MUTED, arm_style, draw
from radpref.downstream.inference.reader_comparison import ALL, MIN_CONDITIONS, MIN_RATERS, OVERALL, RELEVANT_GAIN
from radpref.downstream.report.table import TONES, Table, interval, number, p_value
from radpref.downstream.report.verdicts import arm_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TIE = "#d5d9de"
NBSP = "\u00a0"
MODE_WORDS = {ALL: "All modes", "T2I": "From text (T2I)", "M2I": "From masks (M2I)", "TM2I": "From both (TM2I)"}
FLAG_WORDS = {"artifact": "artifact", "unrealistic": "looks unrealistic"}


def who(part: dict[str, Any]) -> str:
    """Who scored, in words; simulated raters are named so wherever they appear."""
    n = part["n_raters"]
    if part["kind"] == "simulated":
        return f"{n} SIMULATED rater" + ("s" if n != 1 else "")
    return "one person" if n == 1 else f"{n} people"


def label(row: dict[str, Any], *, short: bool = False) -> str:
    """Which sets and criterion a row is about."""
    name = row["mode"] if short and row["mode"] != ALL else MODE_WORDS[row["mode"]]
    if row["criterion"] != OVERALL:
        return f"{name}, {row['criterion']}"
    return name


def sentence(part: dict[str, Any], row: dict[str, Any]) -> tuple[str, str]:
    """(tone, sentence) of a row that has a verdict; tone as in the report's other verdicts."""
    tone = TONES[row["verdict"]]
    first, second = arm_name(part["first"]), arm_name(part["second"])
    where = "" if row["mode"] == ALL else f" in {row['mode']} sets"
    asked = f"{who(part)} scored {second} {{}} than {first}{where}"
    if row["gain_low"] is None:
        return tone, f"Too small to conclude whether {asked.format('higher')}: {_too_few(row)}."
    figures = (
        f"{number(row['gain'], 2, signed=True)} points of 5 (95 % CI {interval(row['gain_low'], row['gain_high'], 2)}),"
        f" win rate {_percent(row['win_rate'])} ({_percents(row['win_rate_low'], row['win_rate_high'])})"
    )
    if tone in ("good", "bad"):
        text = asked.format("higher" if tone == "good" else "lower")
        return tone, f"{text[0].upper()}{text[1:]}: {figures}; P {_p(row['p_holm'])}."
    found = f"Only gains above {number(row['detectable_gain'], 2)} points were likely (80 %) to be found here"
    if tone == "even":
        return (
            tone,
            f"No difference of {RELEVANT_GAIN:g} points or more was shown: {asked.format('no higher')}, {figures}.",
        )
    return tone, f"Too small to conclude whether {asked.format('higher')}: {figures}. {found}."


def _p(value: float) -> str:
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"


def _too_few(row: dict[str, Any]) -> str:
    raters, sets = row["n_raters"], row["n_conditions"]
    if raters >= MIN_RATERS and sets >= MIN_CONDITIONS:
        return "every set gave the same difference, so there is no spread to judge by"
    seen = f"{raters} rater{'s' if raters != 1 else ''} and {sets} set{'s' if sets != 1 else ''}"
    return f"{seen}, would need at least {MIN_RATERS} raters and {MIN_CONDITIONS} sets"


def sentences(part: dict[str, Any]) -> list[dict[str, str]]:
    """The primary sentence first, then one per mode."""
    rows = [row for row in part["rows"] if row["role"] == "primary"]
    modes = [row for row in part["rows"] if row["role"] == "mode"]
    rows += modes if len(modes) > 1 else []
    return [dict(zip(("tone", "sentence"), sentence(part, row), strict=True)) for row in rows]


def early_note(early: dict[str, Any]) -> str:
    """That arms were named before scoring ended: when, by whom, why."""
    reason = json.loads(early["detail"]).get("reason", "no reason given")
    return (
        f"Arms were revealed before scoring ended: {early['at'][:16].replace('T', ' ')} UTC, by {early['actor']} "
        f"({reason}). Scores given after that are from a study that was no longer blind."
    )


def people_state(found: dict[str, Any]) -> list[str]:
    """Where people's scoring stands, as paragraphs: what is hidden, how far they are, what comes next."""
    progress, said = found["progress"], list[str]()
    n, done, n_raters = (int(progress.get(key) or 0) for key in ("n", "n_done", "n_raters"))
    people = "1 person" if n_raters == 1 else f"{n_raters} people"
    if not n:
        return ["No person has been shown a comparison set yet."] if found["stage"] != "frozen" else []
    if not found["visible"]:
        freeze = "`radpref study freeze`"
        if found["stage"] != "locked":
            freeze = f"`radpref study lock --keep-scores` (what is scored so far stays), then {freeze}"
        said.append(
            "Arms are hidden until scoring ends, so nothing that people scored is shown here. "
            f"{people} finished {done} of the {n} comparison sets given to them. When all is scored: {freeze}, "
            "and write the report again."
        )
    elif found["stage"] != "frozen" or done < n:
        said.append(f"{people} finished {done} of the {n} comparison sets given to them.")
    return said


def proof(found: dict[str, Any]) -> str:
    """That nothing was trained on comparison sets, counted in the database."""
    counted = found["proof"]
    n_pairs, shared = counted["pairs"], counted["rated_patients"]
    return (
        f"Counted in the study record: of {n_pairs:,} preference pairs, {counted['pairs_of_comparisons']} come from a "
        f"comparison set and {counted['pair_events_of_comparisons']} of the scores behind them were given on one; "
        f"{shared} of the comparison’s patients {'is' if shared == 1 else 'are'} among those whose sets gave pairs."
    )


def example_title(example: dict[str, Any]) -> str:
    """What a set asked for."""
    return f"{example['mode']}: {example['text'] or 'masks only'}"


def suffix(parts: Sequence[dict[str, Any]], index: int) -> str:
    """Part of the names of a comparison's files: the kind of rater, and a number where arms differ."""
    kind = parts[index]["kind"]
    before = sum(part["kind"] == kind for part in parts[:index])
    return kind if not before else f"{kind}-{before + 1}"


def _who_wrote(part: dict[str, Any]) -> str:
    kind = "SIMULATED raters" if part["kind"] == "simulated" else "People"
    return f"{kind}: {part['second']} against {part['first']}"


def result_table(part: dict[str, Any], name: str) -> Table:
    """Gain and win rate per mode and criterion."""
    shown, tones, rows = [], [], []
    for row in part["rows"]:
        verdict = row.get("verdict", "not tested")
        shown.append([
            label(row), str(row["n_conditions"]), number(row["mean_first"], 2), number(row["mean_second"], 2),
            number(row["gain"], 2, signed=True), interval(row["gain_low"], row["gain_high"], 2),
            interval(row["gain_boot_low"], row["gain_boot_high"], 2), _percent(row["win_rate"]),
            _percents(row["win_rate_low"], row["win_rate_high"]), _percent(row["ties"]), p_value(row.get("p_holm")),
            verdict,
        ])  # fmt: skip
        tones.append(TONES.get(verdict, "plain"))
        rows.append({"rater_kind": part["kind"], "first": part["first"], "second": part["second"], **_plain(row)})
    header = (
        "Sets", "n", f"{part['first']}, mean", f"{part['second']}, mean", "Gain", "95 % CI, model",
        "95 % CI, bootstrap",
        "Win rate", "95 % CI", "Ties", "P (Holm)", "Verdict",
    )  # fmt: skip
    caption = (
        f"{_who_wrote(part)}. {who(part)[0].upper()}{who(part)[1:]}, {part['n_sets']} sets, {part['n_scores']:,} scores"
    )
    notes = (
        "Gain: mean score of the second arm minus the first, 0 to 5. Win rate: of all pairs of one image of each arm "
        "in a set, as each rater scored them; a tie is half a win. Intervals are for other raters and conditions.",
        "Primary: all modes together. The modes are a family of their own (Holm); single criteria are not tested. "
        f"P is two-sided. Fewer than {MIN_RATERS} raters or {MIN_CONDITIONS} sets get no interval and no conclusion; "
        f"no difference shown needs 80 % power for {RELEVANT_GAIN:g} points.",
    )
    return Table(name, caption, header, shown, rows, 1, notes, tuple(tones))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row for the CSV: the fit as its variances."""
    fit = row["fit"]
    variances = {
        key: getattr(fit, key) if fit else None for key in ("var_rater", "var_condition", "var_residual", "se")
    }
    return {key: value for key, value in row.items() if key != "fit"} | variances


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f}{NBSP}%"


def _percents(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f}{NBSP}%"


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share


def rater_table(part: dict[str, Any], name: str) -> Table:
    """Each rater alone."""
    shown = [
        [
            row["rater"] + (" (simulated)" if part["kind"] == "simulated" else ""), str(row["n_sets"]),
            number(row["first"], 2), number(row["second"], 2), number(row["gain"], 2, signed=True),
            _percent(row["win_rate"]), _percent(row["ties"]),
        ]
        for row in part["raters"]
    ]  # fmt: skip
    header = ("Rater", "Sets", f"{part['first']}, mean", f"{part['second']}, mean", "Gain", "Win rate", "Ties")
    rows = [{"rater_kind": part["kind"], **row} for row in part["raters"]]
    return Table(name, f"{_who_wrote(part)}, rater by rater", header, shown, rows)


def flag_table(part: dict[str, Any], name: str) -> Table:
    """Flags by arm."""
    shown = [
        [
            FLAG_WORDS[row["flag"]], number(row["n_images"]), _percent(row["share_first"]),
            _percent(row["share_second"]), number(100 * row["difference"], 1, signed=True),
            interval(_points(row["low"]), _points(row["high"]), 1),
            interval(_points(row["boot_low"]), _points(row["boot_high"]), 1),
        ]
        for row in part["flags"]
    ]  # fmt: skip
    header = (
        "Flag", "Images read", part["first"], part["second"], "Difference, points of 100", "95 % CI, model",
        "95 % CI, bootstrap",
    )  # fmt: skip
    rows = [{"rater_kind": part["kind"], **row} for row in part["flags"]]
    return Table(name, f"{_who_wrote(part)}: share of images that raters flagged", header, shown, rows)


def plan_table(part: dict[str, Any], name: str) -> Table | None:
    """What more raters or more sets would find; None where this study gives no variances."""
    plan = part["plan"]
    if not plan:
        return None
    sizes = list(dict.fromkeys(row["n_sets"] for row in plan))
    shown = []
    for n_raters in dict.fromkeys(row["n_raters"] for row in plan):
        cells = {row["n_sets"]: row["detectable_gain"] for row in plan if row["n_raters"] == n_raters}
        mark = " (here)" if n_raters == part["n_raters"] else ""
        shown.append([f"{n_raters}{mark}", *(number(cells[n], 2) for n in sizes)])
    header = ("Raters", *(f"{n} sets" for n in sizes))
    caption = "Smallest gain, in points, that would be found with 80 % power if each rater scored every set"
    notes = (
        "From the variances estimated here, for the primary comparison. More sets help until the difference between "
        "raters remains; only more raters help against that.",
    )
    return Table(name, caption, header, shown, [{"rater_kind": part["kind"], **row} for row in plan], 1, notes)


def forest(part: dict[str, Any]) -> str:
    """Gain (left) and win rate (right) per mode and criterion; dots: each rater's mean over all modes."""
    rows = part["rows"]
    colour, marker = arm_style(part["second"])
    ends = [row[key] for row in rows for key in ("gain", "gain_low", "gain_high", "gain_boot_low", "gain_boot_high")]
    reach = min(5.0, max([RELEVANT_GAIN * 1.5, *(abs(v) for v in ends if v is not None)]) * 1.1)

    def plot(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
        left.axvspan(-RELEVANT_GAIN, RELEVANT_GAIN, color="#eef1f4", zorder=0)
        for ax, key, zero in ((left, "gain", 0.0), (right, "win_rate", 0.5)):
            ax.axvline(zero, color=INK, linewidth=0.9)
            for y, row in enumerate(rows):
                strong = row["role"] == "primary"
                faint = row["role"] == "detail"
                for kind, dy, width in (("", 0.0, 2.6), ("_boot", 0.24, 1.0)):
                    low, high = row[f"{key}{kind}_low"], row[f"{key}{kind}_high"]
                    if low is not None:
                        ax.plot(
                            np.clip([low, high], -5, 5), [y + dy, y + dy], color=colour, linewidth=width,
                            alpha=0.55 if faint else 1.0, solid_capstyle="butt",
                        )  # fmt: skip
                fill = colour if row["gain_low"] is not None else "white"
                ax.plot(
                    row[key], y, marker=marker, color=colour, markerfacecolor=fill, markersize=9 if strong else 6.5,
                    markeredgecolor=colour if fill == "white" else "white", zorder=4,
                )  # fmt: skip
            if len(part["raters"]) > 1:
                own = [one[key] for one in part["raters"]]
                ax.plot(own, [-0.34] * len(own), linestyle="", marker="|", markersize=8, color=MUTED, zorder=3)
            ax.grid(axis="y", visible=False)
        _finish(left, right, rows, reach)

    return draw(8.6, 1.05 + 0.46 * len(rows), plot)


def _finish(left: Axes, right: Axes, rows: Sequence[dict[str, Any]], reach: float) -> None:
    left.set_yticks(range(len(rows)), [f"{label(row)}  (n = {row['n_conditions']})" for row in rows])
    for text, row in zip(left.get_yticklabels(), rows, strict=True):
        text.set_color(MUTED if row["role"] == "detail" else INK)
        text.set_fontweight("bold" if row["role"] == "primary" else "normal")
    left.set(ylim=(len(rows) - 0.4, -0.7), xlim=(-reach, reach), xlabel="gain in score (0 to 5)")
    right.set(xlim=(0, 1), xlabel="win rate of image pairs")
    right.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25 %", "50 %", "75 %", "100 %"])
    right.tick_params(axis="y", length=0)


def win_bars(part: dict[str, Any]) -> str:
    """Shares of image pairs won, tied and lost by the second arm."""
    rows = part["rows"]

    def plot(figure: Figure) -> None:
        ax = figure.subplots()
        names = [label(row) for row in rows]
        shares = np.array([[row["wins"], row["ties"], 1 - row["wins"] - row["ties"]] for row in rows]) * 100
        left = np.zeros(len(rows))
        colours = (arm_style(part["second"])[0], TIE, arm_style(part["first"])[0])
        for k, (text, colour) in enumerate(
            zip((f"{part['second']} higher", "tie", f"{part['first']} higher"), colours, strict=True)
        ):
            bars = ax.barh(range(len(rows)), shares[:, k], left=left, color=colour, height=0.66, label=text)
            for bar, share in zip(bars, shares[:, k], strict=True):
                if share >= 7:
                    ax.text(
                        bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height() / 2, f"{share:.0f}",
                        ha="center", va="center", fontsize=8.5, color=INK if k == 1 else "white",
                    )  # fmt: skip
            left += shares[:, k]
        ax.set_yticks(range(len(rows)), names)
        ax.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.6), xlabel="share of image pairs, %")
        ax.axvline(50, color=INK, linewidth=0.8, linestyle=":")
        ax.grid(visible=False)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=3)

    return draw(8.6, 1.15 + 0.36 * len(rows), plot)


def example_sets(rows: Sequence[tuple[str, Sequence[tuple[str, npt.NDArray[np.uint8]]]]]) -> str:
    """One set per row: (what was asked, (arm, image) of its four images, equal seeds side by side)."""

    def plot(figure: Figure) -> None:
        parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
        for part, (text, images) in zip(parts, rows, strict=True):
            part.suptitle(text if len(text) < 90 else text[:88] + "…", fontsize=9, x=0.008, ha="left")
            for k, (ax, (arm, image)) in enumerate(zip(part.subplots(1, len(images)), images, strict=True)):
                ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
                ax.set_title(
                    f"{arm}, {'first' if k < 2 else 'second'} seed", fontsize=8, fontweight="normal", color=MUTED
                )
                ax.set_axis_off()

    return draw(8.6, 2.55 * len(rows), plot)
