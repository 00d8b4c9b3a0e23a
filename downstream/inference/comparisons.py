"""The primary comparisons of a grid: pairs of arms, tests over seeds, adjustment over the family, verdicts.

Input: finished cells with their predictions. Output: one row per comparison, task, fraction and multiple.
The family is every primary comparison of study.toml at every task, fraction and multiple, fixed before the grid runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.study.pools import PLAIN_ARMS
from radpref.downstream.cells import metrics
from radpref.downstream.cells.cells import Cell, Predictions
from radpref.downstream.cells.metrics import METRIC_NAMES, PRIMARY_METRIC, Number
from radpref.downstream.inference.bootstrap import bootstrap_difference, sums_by_patient
from radpref.downstream.inference.t_tests import Difference, Verdict, bonferroni, compare, holm, verdict

if TYPE_CHECKING:
    from radpref.data.config.downstream import DownstreamConfig

Loader = Callable[[Cell], Predictions]


@dataclass(frozen=True)
class Contrast:
    """One member of the family: arm ``a`` against arm ``b`` at one place of the grid."""

    comparison: str  # "a>b", as study.toml has it
    a: str
    b: str
    task: str
    fraction: float
    multiple: int


@dataclass(frozen=True, kw_only=True)
class PairedComparison(Difference, Contrast):
    """A contrast with its test, adjusted over the family, and its verdict."""

    seeds: tuple[int, ...]
    metric: str
    metric_name: str
    ci_bootstrap: tuple[Number, Number]  # over seeds and test patients
    values_a: tuple[float, ...]
    values_b: tuple[float, ...]
    n_test_patients: int
    family_size: int
    p_bonferroni: float
    p_holm: float
    p_holm_worse: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class UntestedComparison(Contrast):
    """A contrast that could not be tested; it keeps its place in the family with P = 1."""

    seeds: tuple[int, ...]
    n: int
    reason: str
    family_size: int
    verdict: Verdict = "too small to conclude"


Comparison = PairedComparison | UntestedComparison


def parse_comparison(text: str) -> tuple[str, str]:
    """ "a>b" -> (a, b).

    Raises:
        InvalidInput: another form, or an arm against itself.
    """
    parts = [part.strip() for part in text.split(">")]
    if len(parts) != 2 or not all(parts) or parts[0] == parts[1]:
        raise InvalidInput(f"downstream.primary has '{text}'; write two different arms as \"aligned>baseline\"")
    return parts[0], parts[1]


def planned_family(settings: DownstreamConfig, tasks: Sequence[str]) -> tuple[Contrast, ...]:
    """Every primary comparison that the grid can answer, in a fixed order: the family.

    Raises:
        InvalidInput: a comparison names an arm that the grid does not train.
    """
    known = {"real", *settings.arms}
    family: list[Contrast] = []
    for text in settings.primary:
        a, b = parse_comparison(text)
        missing = {a, b} - known
        if missing:
            choices = ", ".join(sorted(known))
            raise InvalidInput(f"downstream.primary has '{text}' but no arm '{min(missing)}'; arms are {choices}")
        counts = (0,) if a in PLAIN_ARMS and b in PLAIN_ARMS else settings.multiples
        places = itertools.product(tasks, settings.fractions, counts)
        family += [Contrast(f"{a}>{b}", a, b, *place) for place in places]
    return tuple(family)


def compare_family(
    cells: Sequence[Cell],
    family: Sequence[Contrast],
    alpha: float,
    load: Loader,
    rng: np.random.Generator,
    n_boot: int = 1000,
) -> tuple[Comparison, ...]:
    """Test every member of the family, adjust (Bonferroni and Holm, size = the planned family), give verdicts."""
    arms = [_paired_cells(cells, contrast) for contrast in family]
    found = [_difference(*pair, alpha, len(family)) for pair in arms]
    better, worse = (
        [1.0 if isinstance(one, str) else getattr(one, name) for one in found] for name in ("p", "p_worse")
    )
    rows: list[Comparison] = []
    for contrast, (a, b), tested, *p in zip(
        family, arms, found, bonferroni(better), holm(better), holm(worse), strict=True
    ):
        own = {**vars(contrast), "seeds": tuple(cell.spec.seed for cell in a), "family_size": len(family)}
        if isinstance(tested, str):
            rows.append(UntestedComparison(**own, n=len(a), reason=tested))
            continue
        kind, (p_bonferroni, p_holm, p_holm_worse) = a[0].spec.kind, map(float, p)
        left, right = ([patient_sums(load(cell), kind) for cell in side] for side in (a, b))
        rows.append(
            PairedComparison(
                **own, **vars(tested), metric=PRIMARY_METRIC[kind], metric_name=METRIC_NAMES[PRIMARY_METRIC[kind]],
                ci_bootstrap=bootstrap_difference(left, right, patient_score(kind), rng, n_boot),
                values_a=_values(a), values_b=_values(b), n_test_patients=len(left[0]),
                p_bonferroni=p_bonferroni, p_holm=p_holm, p_holm_worse=p_holm_worse,
                verdict=verdict(tested.n, p_holm, p_holm_worse, tested.detectable_difference, alpha),
            )
        )  # fmt: skip
    return tuple(rows)


def _paired_cells(cells: Sequence[Cell], contrast: Contrast) -> tuple[list[Cell], list[Cell]]:
    """The cells of both arms, seed by seed, of the seeds that both have."""
    by_seed: dict[str, dict[int, Cell]] = {contrast.a: {}, contrast.b: {}}
    for cell in cells:
        spec, multiple = cell.spec, 0 if cell.spec.arm in PLAIN_ARMS else contrast.multiple
        if (spec.task, spec.fraction, spec.multiple) == (contrast.task, contrast.fraction, multiple):
            by_seed.setdefault(spec.arm, {})[spec.seed] = cell
    a, b = by_seed[contrast.a], by_seed[contrast.b]
    seeds = sorted(set(a) & set(b))
    return [a[seed] for seed in seeds], [b[seed] for seed in seeds]


def _values(cells: Sequence[Cell]) -> tuple[float, ...]:
    return tuple(cell.metrics.values[PRIMARY_METRIC[cell.spec.kind]] for cell in cells)


def _difference(a: Sequence[Cell], b: Sequence[Cell], alpha: float, family_size: int) -> Difference | str:
    """The test over seeds, or why there is none."""
    try:
        return compare(_values(a), _values(b), alpha, family_size) if a else "no finished cells"
    except InvalidInput as error:
        return str(error)


def patient_sums(predictions: Predictions, kind: str) -> npt.NDArray[np.float64]:
    """Per patient, the sums from which the primary metric is computed: (P, L, 3) counts or (P, 2) Dice sums."""
    names, index = np.unique(predictions["patients"], return_inverse=True)
    if kind == "segmentation":
        sums = metrics.dice_sums(predictions["areas"])["dice_positives"]
    else:
        probabilities = predictions["probabilities"].astype(np.float64)
        sums = metrics.f1_counts(predictions["labels"], probabilities, predictions["thresholds"])
    return sums_by_patient(sums, index.astype(np.int64).reshape(-1), len(names))


def patient_score(kind: str) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """The primary metric from summed sums: (B, L, 3) -> (B,) mean F1, or (B, 2) -> (B,) Dice."""
    if kind == "segmentation":
        return metrics.ratio
    return lambda counts: metrics.mean_over_classes(metrics.f1_from_counts(counts))
