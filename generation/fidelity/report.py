"""The fidelity page of a study: how like real images samples are, how varied, how obedient, and whether copied.

Samples of each arm (or a folder of any generator's images) -> ``runs/<run_id>/fidelity/index.html``, ``fidelity.json``
and, for the study's own people only, ``pictures.html`` with real images. The reference is the validation split, which
no generator trained on; beside it are the training images, as an ideal generator would score. Figures come from
`likeness`, `memorisation` and `condition_figures`; the page from `page`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from radpref.data.core.errors import InvalidInput
from radpref.data.core.files import write_atomic
from radpref.data.core.progress import bar
from radpref.data.core.statistics import MeanEstimate
from radpref.data.study.conditions import asked_attributes
from radpref.data.study.runs import Run, once
from radpref.generation.fidelity import likeness, memorisation
from radpref.generation.fidelity.condition_figures import condition_figures
from radpref.generation.fidelity.feature_store import FeatureTable, feature_table
from radpref.generation.fidelity.figures import (
    Distances,
    FidelityReport,
    HeldOutPatients,
    Memorisation,
    NetworkName,
    RealFigures,
    SourceFigures,
)
from radpref.generation.fidelity.image_source import ImageSource, arm_source, folder_source, record_source
from radpref.generation.fidelity.networks import FeatureNetwork, load_feature_network
from radpref.generation.fidelity.request import SAMPLES_PER_PROMPT, FidelityRequest
from radpref.generation.measuring.measuring_network import MeasureNet
from radpref.generation.measuring.roles import load_network

if TYPE_CHECKING:
    from radpref.data.study.study import Study

MAX_GROUPS = 200
"""Prompts of which MS-SSIM is measured."""
N_SPREAD = 2000
"""Training images whose features give the unit of each dimension."""
N_AVERAGE = 1000
"""Training images whose mean is the average radiograph."""
FIGURES_VERSION = 3
"""Part of a run's configuration: figures of another making are not taken for these."""


def run_fidelity(study: Study, request: FidelityRequest | None = None) -> FidelityReport:
    """Measure the arms or the folder that `request` names, and write the page; a finished report is read back.

    Errors as `FidelityRequest.check`.
    """
    request = request or FidelityRequest()
    request.check(study)
    net = load_network(study, "fidelity", "fidelity")
    features = load_feature_network(study, net, request.network)
    if request.images is None:
        sources = [arm_source(study, arm, request) for arm in request.arm_names(study)]
    else:
        sources = [folder_source(request.images, study.config.data.image_size, request.n)]
    splits = {split: record_source(study, split) for split in request.splits}
    config = {
        "version": FIGURES_VERSION,
        "images": {source.name: source.key for source in sources},
        "real": {split: source.key for split, source in splits.items()},
        "against": request.against,
        "prompts": None if request.images else request.prompts,
        "networks": {"features": features.sha256, "structures": net.sha256},
        "pictures": request.pictures,
        "seed": request.seed,
    }

    def work(run: Run) -> dict[str, Any]:
        from radpref.generation.fidelity.page import write_page

        reference = _Reference(study, net, features, splits, request)
        real = reference.real()
        measured = {source.name: reference.measure(source) for source in sources}
        images = {name: figures for name, (figures, _) in measured.items()}
        report = FidelityReport(run.run_id, None if request.images else request.prompts, real, images, _page(run))
        shown = [(source, measured[source.name][1]) for source in sources]
        write_page(study, report, shown, splits["train"], pictures=request.pictures)
        write_atomic(report.page.with_name("fidelity.json"), json.dumps(report.stored(), indent=1) + "\n")
        return report.figures()

    inputs = {"features": features.sha256, "structures": net.sha256}
    run = once(study, "fidelity", config, work, inputs, intact=lambda run: _page(run).is_file())
    return FidelityReport.read(_page(run), already_done=run.already_done)


def _page(run: Run) -> Path:
    return run.folder / "fidelity" / "index.html"


class _Reference:
    """The real images that all sources are compared with, measured once."""

    def __init__(
        self,
        study: Study,
        net: MeasureNet,
        network: FeatureNetwork,
        splits: dict[str, ImageSource],
        request: FidelityRequest,
    ) -> None:
        self.study, self.net, self.network, self.seed = study, net, network, request.seed
        self.splits, self.against = splits, request.against
        self.ideal = "val" if self.against == "train" else "train"
        self.tables = {split: feature_table(study, source, network) for split, source in splits.items()}
        spread = np.unique(np.linspace(0, splits["train"].n - 1, min(splits["train"].n, N_SPREAD)).round().astype(int))
        self.scaled = likeness.standardised(self.tables["train"].some_features(spread))
        self.reference = self.tables[self.against].features()
        self.average = self._average()
        held_out = self._neighbours(splits["val"], self.tables["val"])
        twins = held_out["pixels"].distance < memorisation.TWIN_DISTANCE
        self.n_val_twins = int(twins.sum())
        kept = np.flatnonzero(~twins)
        if len(kept) < 2:
            raise InvalidInput(
                f"{self.n_val_twins} of {len(twins)} validation images are training images too: import them again"
            )
        self.held_out = {space: found.take(kept) for space, found in held_out.items()}
        patients = splits["val"].groups or ()
        self.held_out_patients = [patients[i] for i in kept]

    def _rng(self, *parts: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 505, *parts])

    def _average(self) -> npt.NDArray[np.float32]:
        """Mean unit vector of training thumbnails, spread over the split."""
        table = self.tables["train"]
        step = max(1, table.n // N_AVERAGE)
        parts = [block[::step] for block in table.blocks("thumbnails")]
        vectors = memorisation.thumbnail_vectors(np.concatenate(parts), shifted=False)
        return np.asarray(vectors[:, 0].mean(0), np.float32)

    def _neighbours(self, source: ImageSource, table: FeatureTable) -> dict[str, memorisation.Neighbours]:
        train = self.tables["train"]

        def thumbs() -> Iterator[npt.NDArray[np.float32]]:
            for block in train.blocks("thumbnails"):
                yield memorisation.thumbnail_vectors(block, self.average, shifted=False)[:, 0]

        def features() -> Iterator[npt.NDArray[np.float32]]:
            for block in train.blocks("features"):
                yield memorisation.feature_vectors(block)[:, 0]

        with bar(f"nearest training image: {source.name}", 2) as advance:
            pixels = memorisation.find_neighbours(
                table.thumbnails(),
                lambda rows: memorisation.thumbnail_vectors(rows, self.average, shifted=True),
                thumbs,
            )
            advance(1)
            near = memorisation.find_neighbours(table.features(), memorisation.feature_vectors, features)
            advance(1)
        return {"pixels": pixels, "features": near}

    def _distances(
        self,
        a: npt.NDArray[Any],
        b: npt.NDArray[Any],
        rng: np.random.Generator,
        groups: Sequence[Sequence[Any] | None] = (None, None),
    ) -> Distances:
        """Distances of raw features `a` from those of real images `b`."""
        x, y = self.scaled(a), self.scaled(b)
        fid = (a, b) if self.network.published else (x, y)
        with bar("distances", likeness.N_RESAMPLES + 2) as advance:
            frechet = likeness.frechet_with_interval(*fid, rng, groups=groups, advance=advance)
            extrapolated = likeness.frechet_extrapolated(*fid, rng)
            advance(1)
            kid = likeness.kid(x, y, rng)
            advance(1)
        return Distances(len(a), frechet, extrapolated, kid)

    def real(self) -> RealFigures:
        """The part of the report that no generator changes."""
        source = self.splits[self.against]
        half = self._rng(1).permutation(len(self.reference))
        first, second = half[: len(half) // 2], half[len(half) // 2 :]
        halves = None
        if min(len(first), len(second)) >= 4:
            halves = self._distances(self.reference[first], self.reference[second], self._rng(2))
        return RealFigures(
            network=self.network.card(),
            structures_network=NetworkName(self.net.name, self.net.sha256),
            against=self.against,
            ideal=self.ideal,
            n_real=source.n,
            n_train=self.splits["train"].n,
            n_val=self.splits["val"].n,
            halves=halves,
            diversity=_diversity(self.study, source, _alike(source), self._rng(4)),
            conditions=condition_figures(self.study, source, self.net, self._rng(5)),
            held_out=HeldOutPatients(
                len(self.held_out_patients),
                self.n_val_twins,
                memorisation.copy_level(len(self.held_out_patients)),
                {space: found.distance.tolist() for space, found in self.held_out.items()},
            ),
        )

    def measure(self, source: ImageSource) -> tuple[SourceFigures, dict[str, memorisation.Neighbours]]:
        """All figures of one source, and its nearest training images."""
        table = feature_table(self.study, source, self.network)
        patients = self.splits[self.against].groups
        # An ideal generator: as many real images that are not the reference.
        rows = self._rng(6).permutation(self.tables[self.ideal].n)[: source.n]
        ideal = self.tables[self.ideal].some_features(rows)
        ideal_patients = [(self.splits[self.ideal].groups or ())[i] for i in rows]
        neighbours = self._neighbours(source, table)
        rng = self._rng(7)  # drawn from in this order: the figures of finished reports depend on it
        distances = self._distances(table.features(), self.reference, rng, (source.groups, patients))
        real = self._distances(ideal, self.reference, rng, (ideal_patients, patients))
        figures = SourceFigures(
            **vars(distances),
            n_prompts=len(set(source.groups)) if source.groups else None,
            drawn=source.drawn,
            measured=self.study.config.data.image_size,
            real=real,
            diversity=_diversity(self.study, source, _prompt_groups(source), rng),
            conditions=condition_figures(self.study, source, self.net, rng),
            memorisation=self._memorisation(source, neighbours, rng),
        )
        return figures, neighbours

    def _memorisation(
        self, source: ImageSource, neighbours: dict[str, memorisation.Neighbours], rng: np.random.Generator
    ) -> Memorisation:
        groups = (source.groups, self.held_out_patients)
        spaces = {
            space: memorisation.space_figures(found, self.held_out[space], rng, groups)
            for space, found in neighbours.items()
        }
        suspect = np.zeros(source.n, bool)
        for space, found in neighbours.items():
            suspect |= memorisation.suspects(found, self.held_out[space])
        twins = neighbours["pixels"].distance < memorisation.TWIN_DISTANCE
        decision = memorisation.verdict(suspect, twins, len(self.held_out_patients), rng, source.groups)
        distance = {space: found.distance.tolist() for space, found in neighbours.items()}
        return Memorisation(**vars(decision), spaces=spaces, distance=distance)


def _prompt_groups(source: ImageSource) -> list[list[int]]:
    """Rows of up to `MAX_GROUPS` prompts, four images each; pairs at random where nobody knows the prompts."""
    members = likeness.rows_by_group(source.groups or [i // 2 for i in range(source.n)])
    return [rows[:SAMPLES_PER_PROMPT] for rows in members if len(rows) > 1][:MAX_GROUPS]


def _alike(source: ImageSource) -> list[list[int]]:
    """Real images in groups of four whose captions ask for the same findings."""
    asked = (asked_attributes(record["caption"] or "", record["labels"]) for record in source.records or ())
    groups = [
        rows[start : start + SAMPLES_PER_PROMPT]
        for rows in likeness.rows_by_group(map(frozenset, asked))
        for start in range(0, len(rows) - 1, SAMPLES_PER_PROMPT)
    ]
    return [rows for rows in groups if len(rows) > 1][:MAX_GROUPS]


def _diversity(
    study: Study, source: ImageSource, groups: list[list[int]], rng: np.random.Generator
) -> MeanEstimate | None:
    if not groups or study.config.data.image_size < 24:  # less than MS-SSIM's window needs
        return None
    values = []
    with bar(f"MS-SSIM of {source.name}", len(groups)) as advance:
        for rows in groups:
            values.append(likeness.group_ms_ssim(source.batch(rows)))
            advance(1)
    return likeness.mean_interval(values, rng)
