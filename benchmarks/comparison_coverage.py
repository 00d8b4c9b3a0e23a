"""Coverage of the reader comparison's intervals on studies simulated from a known model.

Run: python -m benchmarks.comparison_coverage [--studies 1000]. Prints one line per design: how often the 95 % interval
of the mixed model (t, Satterthwaite), the same with a normal quantile, and the crossed bootstrap hold the true gain.
Each rater scores two images of each arm and condition, 0 to 5 in whole points, as the reading room asks.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from radpref.downstream.inference.crossed import crossed_bootstrap, fit_crossed

Float = npt.NDArray[np.float64]
DESIGNS = [(raters, conditions, slope) for raters in (3, 4, 6) for conditions in (8, 24, 60) for slope in (0.0, 0.3)]


def study_differences(
    rng: np.random.Generator, n_raters: int, n_conditions: int, *, gain: float, slope: float, whole: bool = True
) -> Float:
    """Mean score of the second arm minus the first, raters x conditions, of one simulated study.

    Severity of raters SD 0.5, difficulty of conditions SD 0.8, gain of a condition SD 0.4, of a rater SD ``slope``,
    an image's own quality SD 0.6 (seen by all raters alike), a rater's noise SD 0.6. ``whole``: rounded and clipped.
    """
    base = rng.normal(2.2, 0.5, (n_raters, 1)) + rng.normal(0, 0.8, n_conditions)
    gains = gain + rng.normal(0, slope, (n_raters, 1)) + rng.normal(0, 0.4, n_conditions)
    image = rng.normal(0, 0.6, (2, 2, 1, n_conditions))  # arm, image
    scores = base + image + rng.normal(0, 0.6, (2, 2, n_raters, n_conditions))
    scores[1] += gains
    if whole:
        scores = np.clip(np.round(scores), 0, 5)
    means = scores.mean(axis=1)
    return np.asarray(means[1] - means[0])


def coverage(
    n_studies: int, n_raters: int, n_conditions: int, *, gain: float, slope: float, seed: int = 0, n_boot: int = 400,
    whole: bool = True,
) -> dict[str, float]:  # fmt: skip
    """Shares of studies whose interval holds the true gain: by t, by the normal quantile, by the bootstrap.

    With ``whole`` the true gain is the mean over very many raters and conditions, because rounding changes it a little.
    """
    rng = np.random.default_rng([seed, n_raters, n_conditions])
    truth = gain
    if whole and gain:
        truth = float(np.mean([study_differences(rng, 200, 200, gain=gain, slope=slope).mean() for _ in range(50)]))
    raters, conditions = (index.ravel() for index in np.indices((n_raters, n_conditions)))
    held = np.zeros(3)
    for _ in range(n_studies):
        y = study_differences(rng, n_raters, n_conditions, gain=gain, slope=slope, whole=whole).ravel()
        fit = fit_crossed(y, raters, conditions)
        if fit is None:
            raise RuntimeError("a simulated study without any spread")
        low, high = fit.interval()
        boot_low, boot_high = crossed_bootstrap(y, raters, conditions, rng, n_boot) if n_boot else (np.nan, np.nan)
        held += [low <= truth <= high, abs(fit.estimate - truth) <= 1.96 * fit.se, boot_low <= truth <= boot_high]
    return dict(zip(("t", "normal", "bootstrap"), (float(v) for v in held / n_studies), strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    n = parser.parse_args().studies
    print("raters conditions rater_slope_sd gain  t  normal  bootstrap")
    for n_raters, n_conditions, slope in DESIGNS:
        for gain in (0.0, 0.4):
            found = coverage(n, n_raters, n_conditions, gain=gain, slope=slope)
            print(n_raters, n_conditions, slope, gain, *(f"{value:.3f}" for value in found.values()), flush=True)


if __name__ == "__main__":
    main()
