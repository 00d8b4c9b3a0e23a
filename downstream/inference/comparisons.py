"""The primary comparisons of a grid: pairs of arms, tests over seeds, adjustment over the family, verdicts.

Input: finished cells with their predictions. Output: one row per comparison, task, fraction and multiple.
The family is every primary comparison of study.toml at every task, fraction and multiple, fixed before the grid runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.study.pools import PLAIN_ARMS
from radpref.downstream.cells import metrics
from radpref.downstream.cells.cells import Cell, Predictions
from radpref.downstream.cells.metrics import METRIC_NAMES, PRIMARY_METRIC, Number
from radpref.downstream.inference.bootstrap import bootstrap_difference, sums_by_patient
from radpref.downstream.inference.t_tests import Difference, Verdict, bonferroni, compare, holm, verdict

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


def planned_family(
    primary: Sequence[str],
    arms: Sequence[str],
    tasks: Sequence[str],
    fractions: Sequence[float],
    multiples: Sequence[int],
) -> tuple[Contrast, ...]:
    """Every primary comparison that the grid can answer, in a fixed order: the family.

    Raises:
        InvalidInput: a comparison names an arm that the grid does not train.
    """
    known = {"real", *arms}
    family: list[Contrast] = []
    for text in primary:
        a, b = parse_comparison(text)
        missing = {a, b} - known
        if missing:
            choices = ", ".join(sorted(known))
            raise InvalidInput(f"downstream.primary has '{text}' but no arm '{min(missing)}'; arms are {choices}")
        counts = (0,) if a in PLAIN_ARMS and b in PLAIN_ARMS else multiples
        places = itertools.product(tasks, fractions, counts)
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
    pairs = [_Pairs.of(cells, contrast) for contrast in family]
    found = [pair.difference(alpha, len(family)) for pair in pairs]
    better = [1.0 if isinstance(one, str) else one.p for one in found]
    worse = [1.0 if isinstance(one, str) else one.p_worse for one in found]
    rows: list[Comparison] = []
    for pair, tested, *p in zip(pairs, found, bonferroni(better), holm(better), holm(worse), strict=True):
        p_bonferroni, p_holm, p_holm_worse = map(float, p)
        own = {**vars(pair.contrast), "seeds": pair.seeds, "family_size": len(family)}
        if isinstance(tested, str):
            rows.append(UntestedComparison(**own, n=len(pair.seeds), reason=tested))
            continue
        left, right = ([patient_sums(load(cell), pair.kind) for cell in cells] for cells in (pair.a, pair.b))
        rows.append(
            PairedComparison(
                **own, **vars(tested), metric=pair.metric, metric_name=METRIC_NAMES[pair.metric],
                ci_bootstrap=bootstrap_difference(left, right, patient_score(pair.kind), rng, n_boot),
                values_a=pair.values(pair.a), values_b=pair.values(pair.b), n_test_patients=len(left[0]),
                p_bonferroni=p_bonferroni, p_holm=p_holm, p_holm_worse=p_holm_worse,
                verdict=verdict(tested.n, p_holm, p_holm_worse, tested.detectable_difference, alpha),
            )
        )  # fmt: skip
    return tuple(rows)


@dataclass(frozen=True)
class _Pairs:
    """The cells of both arms of a contrast, seed by seed."""

    contrast: Contrast
    seeds: tuple[int, ...]
    a: tuple[Cell, ...]
    b: tuple[Cell, ...]

    @classmethod
    def of(cls, cells: Sequence[Cell], contrast: Contrast) -> _Pairs:
        a, b = (_by_seed(cells, contrast, arm) for arm in (contrast.a, contrast.b))
        seeds = tuple(sorted(set(a) & set(b)))
        return cls(contrast, seeds, tuple(a[seed] for seed in seeds), tuple(b[seed] for seed in seeds))

    @property
    def kind(self) -> str:
        return self.a[0].spec.kind

    @property
    def metric(self) -> str:
        return PRIMARY_METRIC[self.kind]

    def values(self, cells: Sequence[Cell]) -> tuple[float, ...]:
        return tuple(cell.metrics.values[self.metric] for cell in cells)

    def difference(self, alpha: float, family_size: int) -> Difference | str:
        """The test over seeds, or why there is none."""
        if not self.seeds:
            return "no finished cells"
        try:
            return compare(self.values(self.a), self.values(self.b), alpha, family_size)
        except InvalidInput as error:
            return str(error)


def _by_seed(cells: Sequence[Cell], contrast: Contrast, arm: str) -> dict[int, Cell]:
    """The cells of one arm at the contrast's place of the grid."""
    place = (arm, contrast.task, contrast.fraction, 0 if arm in PLAIN_ARMS else contrast.multiple)
    specs = ((cell.spec, cell) for cell in cells)
    return {spec.seed: cell for spec, cell in specs if (spec.arm, spec.task, spec.fraction, spec.multiple) == place}


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
