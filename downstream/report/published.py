"""The figures of the study that defines the method, and why they must be read with care.

Source: the study's results section (real only against best augmented); its hypotheses H1 to H3 and its statistics.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published comparison: metric without and with synthetic images, and at which multiple."""

    dataset: str
    kind: str  # task kind it belongs beside
    metric: str
    fraction: str
    real_only: float
    augmented: float
    at: str

    @property
    def difference(self) -> float:
        """Augmented minus real only."""
        return self.augmented - self.real_only


PUBLISHED: tuple[Published, ...] = (
    Published("RSNA", "binary", "F1", "1 %", 0.0104, 0.1541, "25x"),
    Published("RSNA", "binary", "F1", "10 %", 0.0950, 0.2760, "10x"),
    Published("RSNA", "binary", "F1", "100 %", 0.326, 0.344, "2x"),
    Published("CheXpert", "multilabel", "mean F1", "1 %", 0.209, 0.289, "2x"),
    Published("CheXpert", "multilabel", "mean F1", "10 %", 0.255, 0.323, "2x"),
    Published("CheXpert", "multilabel", "mean F1", "100 %", 0.310, 0.354, "2x"),
    Published("CANDID-PTX", "segmentation", "Dice", "1 %", 0.0484, 0.0601, "25x"),
    Published("CANDID-PTX", "segmentation", "Dice", "10 %", 0.0569, 0.196, "10x"),
    Published("CANDID-PTX", "segmentation", "Dice", "100 %", 0.320, 0.334, "2x"),
    Published("SIIM", "segmentation", "Dice", "1 %", 0.2072, 0.2550, "25x"),
    Published("SIIM", "segmentation", "Dice", "10 %", 0.237, 0.251, "10x"),
    Published("SIIM", "segmentation", "Dice", "100 %", 0.374, 0.382, "2x"),
    Published("CheXpert, proxy fine-tuned", "multilabel", "mean F1", "1 %", 0.209, 0.290, "not given"),
    Published("CheXpert, proxy filtered only", "multilabel", "mean F1", "1 %", 0.209, 0.258, "not given"),
    Published("RSNA, not aligned", "binary", "F1", "10 %", 0.110, 0.146, "not given"),
    Published("RSNA, radiologist DPO", "binary", "F1", "10 %", 0.110, 0.118, "not given"),
)

CAVEATS: tuple[str, ...] = (
    "Alignment on radiologist feedback did not help downstream in the study: F1 0.118 aligned against 0.146 not "
    "aligned (RSNA, 10 %).",
    "Its P values match uncorrected t-tests on n = 2 trials. Under Bonferroni over the whole grid they would not hold; "
    "the power of such a test at n = 2 per arm and 48 comparisons is about 5 % even for an effect of 5 standard "
    "deviations.",
    "RSNA's 10 % real-only baseline is 0.095 in one place and 0.110 in another.",
    "The abstract's largest gains (F1 +0.1505, Dice +0.1458) match no difference in its text: RSNA 10 % gives +0.181, "
    "CANDID-PTX 10 % gives +0.139. Unfiltered CheXpert at 1 % already reached 0.289, so proxy fine-tuning added 0.001.",
    "Splits were by image, not by patient; the held-out CANDID-PTX reports that fed captions belong to the images used "
    "downstream.",
    "Test sizes: RSNA 21,885 + 4,801 = 26,686 while the set has 26,684 patients; CheXpert's 191,229 training images "
    "equal 191,027 training frontals + 202, about the number of frontals in the validation set used for test.",
    "Its public scripts score each set by one rater only, so agreement cannot be measured, and weight the two DPO "
    "terms by score, which breaks the pairwise contrast.",
    "Other data, other networks, other sizes: the columns are side by side for orientation, not for comparison.",
)
