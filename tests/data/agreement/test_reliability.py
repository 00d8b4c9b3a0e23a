"""Agreement against published worked examples and independent packages."""

import itertools
import warnings

import krippendorff
import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import cohen_kappa_score

from radpref.data.agreement.reliability import (
    MIN_REPEATS,
    agreement,
    agreement_report,
    icc,
    intra_rater,
    kendall_tau,
    ordinal_alpha,
    preference_agreement,
    weighted_kappa,
)
from radpref.data.core.errors import InvalidInput
from tests.support.errors import refuses
from tests.support.quality import dump

# Shrout & Fleiss 1979, table 2: 6 targets, 4 judges.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]).T
_ = np.nan
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability": 4 observers, 12 units; ordinal alpha .815.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
        [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
    ]
)

# Two radiologists on 85 xeromammograms (Boyd et al. 1982), the worked example of Stata's manual of kap: wgt(w2) .6714.
MAMMOGRAMS = np.array([[21, 12, 0, 0], [4, 17, 1, 0], [3, 9, 15, 2], [0, 0, 0, 1]])


def ratings(seed, n_raters=4, n_items=60, missing=0.0, noise=1.0):
    rng = np.random.default_rng(seed)
    true = rng.uniform(-0.5, 5.5, n_items)
    matrix = np.clip(np.round(true + rng.normal(0, noise, (n_raters, n_items))), 0, 5)
    matrix[rng.random(matrix.shape) < missing] = np.nan
    return matrix


def test_icc_of_shrout_and_fleiss():
    found = icc(SHROUT_FLEISS)
    assert round(found["icc_2_1"], 2) == 0.29
    assert round(found["icc_2_k"], 2) == 0.62
    assert (found["n_items"], found["n_raters"]) == (6, 4)


def test_alpha_of_krippendorff():
    assert round(ordinal_alpha(KRIPPENDORFF), 3) == 0.815


@pytest.mark.parametrize("seed", range(4))
def test_icc_equals_pingouin(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pingouin

        matrix = ratings(seed, n_raters=2 + seed)
        long = pd.DataFrame(matrix).stack().rename_axis(["rater", "item"]).rename("score").reset_index()
        table = pingouin.intraclass_corr(long, targets="item", raters="rater", ratings="score").set_index("Type")["ICC"]
    single, average = (
        next(table[name] for name in pair if name in table) for pair in (("ICC2", "ICC(A,1)"), ("ICC2k", "ICC(A,k)"))
    )
    found = icc(matrix)
    assert found["icc_2_1"] == pytest.approx(single, abs=1e-9)
    assert found["icc_2_k"] == pytest.approx(average, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_alpha_equals_the_krippendorff_package(seed):
    matrix = ratings(seed, n_raters=2 + seed % 3, missing=0.25)
    assert ordinal_alpha(matrix) == pytest.approx(krippendorff.alpha(matrix, level_of_measurement="ordinal"), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_kappa_equals_scikit_learn(seed):
    matrix = ratings(seed, n_raters=3)
    pairs = itertools.combinations(matrix.astype(int), 2)
    expected = np.mean([cohen_kappa_score(a, b, weights="quadratic", labels=range(6)) for a, b in pairs])
    assert weighted_kappa(matrix) == pytest.approx(expected, abs=1e-9)


def test_quadratic_kappa_of_two_radiologists():
    first, second = (np.repeat(index.ravel(), MAMMOGRAMS.ravel()) for index in np.indices(MAMMOGRAMS.shape))
    assert len(first) == 85
    assert round(weighted_kappa([first, second]), 4) == 0.6714


def test_missing_scores_against_the_packages():
    matrix = ratings(7, n_raters=3, n_items=80, missing=0.3)
    kappas = []
    for a, b in itertools.combinations(matrix, 2):
        both = ~np.isnan(a) & ~np.isnan(b)
        kappas.append(cohen_kappa_score(a[both].astype(int), b[both].astype(int), weights="quadratic"))
    assert weighted_kappa(matrix) == pytest.approx(np.mean(kappas), abs=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pingouin

        complete = matrix[:, ~np.isnan(matrix).any(axis=0)]
        long = pd.DataFrame(complete).stack().rename_axis(["rater", "item"]).rename("score").reset_index()
        table = pingouin.intraclass_corr(long, targets="item", raters="rater", ratings="score").set_index("Type")["ICC"]
    assert icc(matrix)["n_items"] == complete.shape[1] < 80
    assert icc(matrix)["icc_2_1"] == pytest.approx(table["ICC2" if "ICC2" in table else "ICC(A,1)"], abs=1e-9)


@pytest.mark.parametrize("missing", [0.0, 0.25])
def test_tau_equals_scipy(missing):
    matrix = ratings(3, n_raters=3, n_items=120, missing=missing)
    matrix[0, :4] = 2  # a set in which this rater ties everything has no tau
    groups = [i // 4 for i in range(120)]
    means = []
    for a, b in itertools.combinations(matrix, 2):
        taus = []
        for group in range(30):
            left, right = a[4 * group : 4 * group + 4], b[4 * group : 4 * group + 4]
            both = ~np.isnan(left) & ~np.isnan(right)
            taus.append(kendalltau(left[both], right[both]).statistic if both.sum() > 1 else np.nan)
        means.append(np.nanmean(taus))
    assert kendall_tau(matrix, groups) == pytest.approx(np.mean(means), abs=1e-9)


def test_tau_by_hand():
    # Of 6 pairs of images rater 1 ties none and rater 2 one; 4 are ordered alike, 1 not: 3 / sqrt(6 * 5).
    assert kendall_tau([[0, 1, 2, 3], [0, 2, 1, 2]], ["s"] * 4) == pytest.approx(3 / np.sqrt(30))
    assert kendall_tau([[12, 2, 1, 12, 2], [1, 4, 7, 1, 0]], ["s"] * 5) == pytest.approx(-0.4714045)  # SciPy's example
    assert np.isnan(kendall_tau([[3, 3, 3, 3], [0, 1, 2, 3]], ["s"] * 4))
    with refuses(InvalidInput, 1, 2):
        kendall_tau([[1, 2]], ["a"])


def test_one_rater_twice_by_hand():
    first, again = [0, 1, 2, 3, 4, 5, 5, 0], [0, 1, 2, 3, 4, 3, 4, 0]
    found = intra_rater(first, again, ["a"] * 4 + ["b"] * 4, ["a"] * 4 + ["b"] * 4, n_boot=50)
    assert found["exact"].value == 6 / 8
    assert found["within_one"].value == 7 / 8
    kappa = cohen_kappa_score(first, again, weights="quadratic", labels=range(6))
    assert found["kappa_quadratic"].value == pytest.approx(kappa, abs=1e-6)
    assert found["icc_2_1"].value == pytest.approx(icc([first, again])["icc_2_1"], abs=1e-6)
    assert found["exact"].low == 0.5
    assert found["exact"].high == 1.0


def naive_preferences(matrix, groups):
    n = same = untied = untied_same = 0
    chance = 0.0
    for a, b in itertools.combinations(matrix, 2):
        ties_a = ties_b = m = 0
        for i, j in itertools.combinations(range(len(groups)), 2):
            if groups[i] != groups[j] or np.isnan([a[i], a[j], b[i], b[j]]).any():
                continue
            sa, sb = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
            m, same = m + 1, same + (sa == sb)
            ties_a, ties_b = ties_a + (sa == 0), ties_b + (sb == 0)
            if sa and sb:
                untied, untied_same = untied + 1, untied_same + (sa == sb)
        n += m
        if m:
            chance += m * (ties_a / m * ties_b / m + (1 - ties_a / m) * (1 - ties_b / m) / 2)
    return same / n, chance / n, untied_same / untied, 1 - untied / n


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_preferences_equal_a_naive_count(missing):
    matrix = ratings(1, n_raters=3, n_items=40, missing=missing)
    groups = [i // 4 for i in range(40)]
    found = preference_agreement(matrix, groups)
    assert tuple(found.values()) == pytest.approx(naive_preferences(matrix, groups))


def test_preferences_by_hand():
    # Rater 1 orders a > b > c; rater 2 ties a and b, both over c: of 3 pairs 2 agree, 1 is tied by one rater.
    found = preference_agreement([[5, 3, 1], [4, 4, 0]], ["s", "s", "s"])
    assert found["preference_agreement"] == pytest.approx(2 / 3)
    assert found["preference_chance"] == pytest.approx((1 - 1 / 3) / 2)
    assert found["preference_agreement_untied"] == 1.0
    assert found["preference_tied_share"] == pytest.approx(1 / 3)


def test_chance_level_is_what_independent_raters_reach():
    rng = np.random.default_rng(0)
    found = preference_agreement(rng.integers(0, 6, (3, 8000)).astype(float), [i // 4 for i in range(8000)])
    assert found["preference_agreement"] == pytest.approx(found["preference_chance"], abs=0.01)
    assert found["preference_agreement_untied"] == pytest.approx(0.5, abs=0.01)


def test_perfect_and_degenerate():
    perfect = np.tile([0.0, 1, 2, 3], (2, 1))
    assert icc(perfect)["icc_2_1"] == ordinal_alpha(perfect) == weighted_kappa(perfect) == 1.0
    constant = np.full((3, 5), 4.0)
    assert np.isnan([icc(constant)["icc_2_1"], ordinal_alpha(constant), weighted_kappa(constant)]).all()
    empty = np.full((2, 4), np.nan)
    assert np.isnan([icc(empty)["icc_2_1"], ordinal_alpha(empty), weighted_kappa(empty)]).all()
    alone = np.array([[1.0, 2, 3]])
    assert np.isnan([icc(alone)["icc_2_1"], ordinal_alpha(alone), weighted_kappa(alone)]).all()
    with refuses(InvalidInput, (3,)):
        icc([1, 2, 3])
    with refuses(InvalidInput, 1, 2):
        preference_agreement([[1, 2]], ["a"])


def test_bootstrap_is_over_sets_and_seeded():
    matrix = ratings(2, n_items=80)
    sets = [i // 4 for i in range(80)]
    found = agreement(matrix, sets, sets, n_boot=300, seed=5)
    assert found == agreement(matrix, sets, sets, n_boot=300, seed=5)
    assert found != agreement(matrix, sets, sets, n_boot=300, seed=6)
    for entry in found.values():
        assert entry.low <= entry.value <= entry.high
    # Against a bootstrap that repeats the columns of the drawn sets.
    rng, alphas = np.random.default_rng(0), []
    for _draw in range(300):
        columns = np.concatenate([np.arange(4 * s, 4 * s + 4) for s in rng.integers(0, 20, 20)])
        alphas.append(ordinal_alpha(matrix[:, columns]))
    low, high = np.percentile(alphas, [2.5, 97.5])
    assert found["alpha_ordinal"].low == pytest.approx(low, abs=0.04)
    assert found["alpha_ordinal"].high == pytest.approx(high, abs=0.04)


def score_rows(n_raters=3, n_sets=6, kind="simulated", criteria=("text",), first_rater=1, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for set_number, criterion, slot in itertools.product(range(n_sets), criteria, range(4)):
        true = rng.uniform(0, 5)
        for rater in range(first_rater, first_rater + n_raters):
            value = int(np.clip(round(true + rng.normal(0, 0.7)), 0, 5))
            rows.append(
                (len(rows) + 1, rater, f"r{rater}", kind, f"s{set_number}", "TM2I", "c", slot, criterion, value)
            )
    columns = [
        "event_id",
        "rater_id",
        "username",
        "rater_kind",
        "set_id",
        "mode",
        "condition_id",
        "slot",
        "criterion",
        "value",
    ]
    return pd.DataFrame(rows, columns=columns)


def test_report_per_criterion_and_overall():
    table = score_rows(criteria=("text", "mask"))
    report = agreement_report(table, n_boot=50)
    dump(report)
    part = report.by_kind["simulated"]
    assert (report.kinds, part.n_raters, part.n_sets, part.n_scores) == (["simulated"], 3, 6, 144)
    assert list(part.criteria) == ["mask", "text", "overall"]
    assert part.criteria["overall"].n_items == 48
    text = table[table["criterion"] == "text"].pivot(index="rater_id", columns=["set_id", "slot"], values="value")
    assert part.criteria["text"].measures["icc_2_1"].value == pytest.approx(icc(text.to_numpy())["icc_2_1"], abs=1e-6)


def test_report_keeps_people_and_simulated_raters_apart():
    report = agreement_report(pd.concat([score_rows(), score_rows(2, kind="human", first_rater=9)]), n_boot=20)
    assert report.kinds == ["human", "simulated"]
    assert report.by_kind["human"].raters == ["r10", "r9"]
    assert report.by_kind["simulated"].n_raters == 3


def test_report_per_mode_finding_and_repeat():
    table = score_rows(n_sets=24, criteria=("text", "mask"), kind="human")
    table["mode"] = np.where(table["set_id"].isin([f"s{n}" for n in range(20)]), "TM2I", "T2I")
    table["condition_id"] = table["set_id"].map(lambda name: f"c{int(name[1:]) % 2}")
    findings = {"c0": ["effusion"], "c1": ["effusion", "normal"], "c2": ["never asked"]}
    one = table[(table["rater_id"] == 1) & table["set_id"].isin([f"s{n}" for n in range(MIN_REPEATS)])]
    repeats = one.assign(first=one["value"], again=one["value"], hours=np.arange(len(one)) // 8 * 10.0)
    few = one[one["set_id"] == "s0"].assign(username="r2", first=1, again=2, hours=1.0)
    report = agreement_report(table, n_boot=20, findings=findings, repeats=pd.concat([repeats, few]))
    dump(report)
    part = report.by_kind["human"]
    assert set(part.modes) == {"T2I", "TM2I"}
    assert part.modes["TM2I"]["mask"].n_sets_shared == 20
    assert part.modes["T2I"]["text"].not_computable == "n too small: 4 sets scored by two raters, needs 10"
    mask = table[(table["criterion"] == "mask") & (table["mode"] == "TM2I")]
    wide = mask.pivot(index="rater_id", columns=["set_id", "slot"], values="value").to_numpy()
    assert part.modes["TM2I"]["mask"].measures["alpha_ordinal"].value == pytest.approx(
        krippendorff.alpha(wide, level_of_measurement="ordinal"), abs=1e-6
    )
    assert list(part.findings) == ["effusion", "normal"]
    assert [part.findings[name].n_sets for name in ("effusion", "normal")] == [24, 12]
    assert part.intra_rater["r1"].measures["exact"].value == 1.0
    assert part.intra_rater["r1"].hours_between == 20.0
    assert part.intra_rater["r2"].not_computable == "n too small: 1 repeated sets, needs 5"
    people_only = agreement_report(score_rows(), n_boot=5, repeats=repeats).by_kind["simulated"]
    assert people_only.intra_rater == {}, "a person's repeats are never a simulated rater's"


def test_report_says_what_is_not_computable():
    one = agreement_report(score_rows(1), n_boot=10).by_kind["simulated"].criteria["text"]
    assert "one rater" in one.not_computable
    table = score_rows(2)
    apart = table[(table["rater_id"] == 1) == table["set_id"].isin(["s0", "s1", "s2"])]
    entry = agreement_report(apart, n_boot=10).by_kind["simulated"].criteria["text"]
    assert "no image has scores of two raters" in entry.not_computable
    assert agreement_report(score_rows(0)).by_kind == {}


def test_one_set_has_no_interval():
    measures = agreement_report(score_rows(n_sets=1), n_boot=10).by_kind["simulated"].criteria["text"].measures
    assert measures["alpha_ordinal"].value is not None
    assert measures["alpha_ordinal"].low is None


def test_missing_scores_use_complete_items_for_the_icc():
    table = score_rows(3)
    report = agreement_report(table.drop(index=table.index[0]), n_boot=10)
    text = report.by_kind["simulated"].criteria["text"]
    assert (text.n_items, text.n_items_shared, text.n_items_complete) == (24, 24, 23)
