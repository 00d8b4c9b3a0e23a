"""How often the rule for copies (docs/adr/0015) cries wolf, and how often it misses copies that were planted.

    OMP_NUM_THREADS=1 python -m benchmarks.copies --size full --json
    OMP_NUM_THREADS=1 python -m benchmarks.copies --study studies/real --json

Without `--study` digital phantoms are the patients: in every run some are the training set, some are held out, others
stand in the generator's place, and training images are planted among them in one disguise after the other. The whole
rule of `radpref generate fidelity` is applied, to pixels and to features (of the shipped `fidelity` network). Then the
search alone on many training images: processor seconds, and peak traced memory, which must not grow with them.
With `--study` the rule judges folders made of that study's own images: splits train and test, by its validation images
and its own network; nothing is written there. Seeds are fixed: equal versions of torch and numpy give equal counts.
"""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.rows import command_line, row, show
from radpref.data.core.errors import RadprefError
from radpref.data.core.progress import bar, track

if TYPE_CHECKING:
    from radpref.generation.fidelity.figures import CopyVerdict
    from radpref.generation.fidelity.memorisation import Neighbours
    from radpref.generation.measuring.measuring_network import MeasureNet

    Pair = tuple[Neighbours, Neighbours]

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Size:
    """Side of a phantom, patients in all, and in every run: training, held-out, judged, copies among those; runs."""

    side: int
    pool: int
    training: int
    held_out: tuple[int, ...]
    judged: int
    copies: tuple[int, ...]
    runs: int
    cost: tuple[int, tuple[int, ...]]
    """Images judged, and the numbers of training images that they are compared with."""


SIZES = {
    "tiny": Size(48, 240, 80, (80, 30), 60, (6,), 2, (8, (512, 2048))),
    "full": Size(96, 1600, 600, (200, 80, 30), 400, (12, 24), 30, (150, (10_000, 40_000))),
}
SUSPICIOUS = "suspicious"
FALSE_ALARMS = 0.05
"""Largest share of runs without copies that may be called suspicious."""
GROWTH = 1.02
"""Largest peak memory with many training images, as a multiple of that with few."""
HARD, N_PLANTED = "shifted and blurred", 20
"""What is planted among a study's test images."""
BLOCK = 64
"""Training images of one block, as `radpref generate fidelity` keeps them."""


def _noisy(images: npt.NDArray[Any], rng: np.random.Generator, sigma: float = 6.0) -> Images:
    return np.clip(np.round(images + rng.normal(0, sigma, images.shape)), 0, 255).astype(np.uint8)


def _shifted(images: Images) -> Images:
    """4 % down and right; the edge repeats, as a radiograph goes on there."""
    d = max(1, round(0.04 * images.shape[-1]))
    return np.pad(images, ((0, 0), (d, 0), (d, 0)), mode="edge")[:, :-d, :-d]


def _cropped(images: Images, share: float) -> Images:
    """A share of each side cut off and the rest enlarged to the old size."""
    from PIL import Image

    side, d = images.shape[-1], share * images.shape[-1]
    box, bicubic = (d, d, side - d, side - d), Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side), bicubic, box)) for image in images])


def _masked(images: Images) -> Images:
    """A black box of a quarter of the side over one corner, as over a burned-in name."""
    found, d = images.copy(), images.shape[-1] // 4
    found[:, :d, :d] = 0
    return found


def _blurred(images: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter

    sigma = 0.012 * images.shape[-1]
    return np.asarray(gaussian_filter(images.astype(np.float64), (0, sigma, sigma)))


DISGUISES: dict[str, Callable[[Images, np.random.Generator], Images]] = {
    "noise": lambda x, rng: _noisy(x, rng),
    "gain and noise": lambda x, rng: _noisy(0.75 * x + 30, rng),
    "mirrored": lambda x, rng: _noisy(x[:, :, ::-1], rng),
    "masked": lambda x, rng: _noisy(_masked(x), rng),
    "shifted and blurred": lambda x, rng: _noisy(_blurred(_shifted(x)), rng),
    "cropped by 1 %": lambda x, rng: _noisy(_cropped(x, 0.01), rng),
    "cropped by 3 %": lambda x, rng: _noisy(_cropped(x, 0.03), rng),
}
"""What is done to a training image before it is planted; all get some noise."""


@dataclass(frozen=True)
class Looks:
    """Images as the rule sees them: thumbnails (n, 32, 32) uint8 and features (n, D)."""

    thumbnails: Images
    features: npt.NDArray[np.float32]

    @staticmethod
    def of(images: Images, net: MeasureNet) -> Looks:
        """Of images uint8 (n, H, W)."""
        from radpref.generation.fidelity.feature_store import thumbnails

        return Looks(thumbnails(images), net.features(images))

    def take(self, rows: Any) -> Looks:
        """Some of the images."""
        return Looks(self.thumbnails[rows], self.features[rows])


class Rule:
    """The rule with its yardstick: one training set, and the neighbours of held-out patients in both spaces."""

    def __init__(self, training: Looks, held_out: Looks) -> None:
        from radpref.generation.fidelity.memorisation import feature_vectors, thumbnail_vectors

        self.average = thumbnail_vectors(training.thumbnails, shifted=False)[:, 0].mean(0)
        self.table = thumbnail_vectors(training.thumbnails, self.average, shifted=False)[:, 0]
        self.features = feature_vectors(training.features)[:, 0]
        self.held_out = self.neighbours(held_out)

    def neighbours(self, looks: Looks) -> Pair:
        """Nearest training images in pixels and in features."""
        from radpref.generation.fidelity.memorisation import feature_vectors, find_neighbours, thumbnail_vectors

        pixels = find_neighbours(
            looks.thumbnails, lambda x: thumbnail_vectors(x, self.average, shifted=True), lambda: iter([self.table])
        )
        return pixels, find_neighbours(looks.features, feature_vectors, lambda: iter([self.features]))

    def marks(self, found: Pair, n: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Suspects and twins among images, judged by the first ``n`` held-out patients."""
        from radpref.generation.fidelity.memorisation import TWIN_DISTANCE, suspects

        held_out = [space.take(np.arange(n)) for space in self.held_out]
        suspect = suspects(found[0], held_out[0]) | suspects(found[1], held_out[1])
        return suspect, np.asarray(found[0].distance < TWIN_DISTANCE)

    def verdict(self, found: Pair, n: int) -> CopyVerdict:
        """The rule's decision, images independent of each other."""
        from radpref.generation.fidelity.memorisation import verdict

        suspect, twins = self.marks(found, n)
        return verdict(suspect, twins, n, np.random.default_rng(0))


def planted_rows(size: Size) -> list[dict[str, Any]]:
    """Shares of runs called suspicious, without copies and with some in each disguise; shares of copies found."""
    from radpref.generation.measuring.measuring_data import phantom_data
    from radpref.generation.measuring.measuring_network import load_measure

    net = load_measure("fidelity")
    images = phantom_data(size.pool, 9, 0, size.side).images
    looks = Looks.of(images, net)
    alarms: Counter[tuple[str | None, int, int]] = Counter()  # disguise, copies, held-out
    caught: Counter[str] = Counter()
    for run in track(range(size.runs), "runs", size.runs):
        rng = np.random.default_rng([17, run])
        ends = np.cumsum([size.training, max(size.held_out), size.judged])
        training, held_out, others, _ = np.split(rng.permutation(size.pool), ends)
        rule = Rule(looks.take(training), looks.take(held_out))
        honest = rule.neighbours(looks.take(others))
        for n in size.held_out:
            alarms[None, 0, n] += rule.verdict(honest, n).verdict == SUSPICIOUS
        for name, change in DISGUISES.items():
            planted = rule.neighbours(Looks.of(change(images[training[: max(size.copies)]], rng), net))
            caught[name] += int(np.logical_or(*rule.marks(planted, max(size.held_out))).sum())
            for n in size.held_out:
                for k in size.copies:
                    mixed = _joined(honest, size.judged - k, planted, k)
                    alarms[name, k, n] += rule.verdict(mixed, n).verdict == SUSPICIOUS
    of_runs = f"{size.runs} runs of {size.judged} images called suspicious"
    rows = [row(f"no copies, {n} held-out: {of_runs}", alarms[None, 0, n] / size.runs, FALSE_ALARMS)
            for n in size.held_out]  # fmt: skip
    for name in DISGUISES:
        share = caught[name] / size.runs / max(size.copies)
        rows.append(row(f"copies, {name}: found image by image, {max(size.held_out)} held-out", share, None))
        for k in size.copies:
            for n in size.held_out:
                share = alarms[name, k, n] / size.runs
                rows.append(row(f"{k} copies, {name}, {n} held-out: {of_runs}", share, None))
    return rows


def _joined(honest: Pair, n: int, planted: Pair, k: int) -> Pair:
    """The first ``n`` honest images and the first ``k`` planted ones."""
    from radpref.generation.fidelity.memorisation import Neighbours

    def both(a: Neighbours, b: Neighbours) -> Neighbours:
        columns = zip(vars(a).values(), vars(b).values(), strict=True)
        return Neighbours(*(np.concatenate([x[:n], y[:k]]) for x, y in columns))

    return both(honest[0], planted[0]), both(honest[1], planted[1])


def cost_rows(n_images: int, n_training: Sequence[int]) -> list[dict[str, Any]]:
    """Processor seconds and peak traced memory of the pixel search, and that memory does not grow."""
    from radpref.generation.fidelity.memorisation import QUERY_BLOCK, find_neighbours, thumbnail_vectors

    queries = np.random.default_rng(0).integers(0, 256, (n_images, 32, 32), dtype=np.uint8)
    passes, rows, peaks = -(-n_images // QUERY_BLOCK), [], []
    for n in n_training:
        with bar(f"{n} training images", n * passes) as advance:
            blocks = partial(_blocks, n, advance)
            tracemalloc.start()
            started = time.process_time()
            find_neighbours(queries, partial(thumbnail_vectors, shifted=True), blocks)
            seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
        rows.append(row(f"{n_images} images against {n} training images, processor s", seconds, None))
        rows.append(row(f"{n_images} images against {n} training images, peak traced memory, MiB", peak, None))
        peaks.append(peak)
    return [*rows, row("peak memory, most / fewest training images", peaks[-1] / peaks[0], GROWTH)]


def _blocks(n: int, advance: Callable[[int], None]) -> Iterator[npt.NDArray[np.float32]]:
    """Unit vectors of ``n`` random thumbnails, block by block, as they come from disk."""
    from radpref.generation.fidelity.memorisation import thumbnail_vectors

    for start in range(0, n, BLOCK):
        made = np.random.default_rng([1, start]).integers(0, 256, (BLOCK, 32, 32), dtype=np.uint8)
        yield thumbnail_vectors(made, shifted=False)[:, 0]
        advance(BLOCK)


def study_rows(root: Path) -> list[dict[str, Any]]:
    """The rule on folders made of a study's own images; nothing is written.

    Raises:
        NotFound: no study, or a split without images.
    """
    from radpref.data.study.study import Study
    from radpref.generation.fidelity.image_source import record_source
    from radpref.generation.measuring.measuring_network import load_measure
    from radpref.generation.measuring.network_files import network_path

    study = Study(root)
    net = load_measure(network_path(study, "fidelity"))
    sources = [record_source(study, split) for split in ("train", "val", "test")]
    training, held_out, test = (source.batch(range(source.n)) for source in sources)
    study.db.close()
    n, rng = min(len(test), len(training)), np.random.default_rng(17)
    rule = Rule(Looks.of(training, net), Looks.of(held_out, net))
    folders = {"test images": test}
    folders |= {f"test images, {name}": DISGUISES[name](test, rng) for name in (HARD,)}
    folders |= {f"training images, {name}": change(training[:n], rng) for name, change in DISGUISES.items()}
    planted = DISGUISES[HARD](training[:N_PLANTED], rng)
    folders[f"test images and {len(planted)} training images, {HARD}"] = np.concatenate([test, planted])
    rows = []
    for name, images in track(folders.items(), "folders", len(folders)):
        found = rule.verdict(rule.neighbours(Looks.of(images, net)), len(held_out))
        for what, count in (("suspects", found.n_suspects), ("the same radiograph", found.n_twins)):
            rows.append({**row(f"{name}: {what}, of {len(images)}", count, None), "verdict": found.verdict})
    return rows


def run(size: str, study: Path | None = None) -> list[dict[str, Any]]:
    """All rows: of the study where there is one, else of phantoms and of cost."""
    return study_rows(study) if study else [*planted_rows(SIZES[size]), *cost_rows(*SIZES[size].cost)]


def main() -> None:
    """Entry: print the rows, with ``--json`` one JSON line last."""
    parser = command_line("copies", __doc__, SIZES)
    parser.add_argument("--study", type=Path, help="judge folders made of this study's images instead")
    options = parser.parse_args()
    try:
        rows = run(options.size, options.study)
    except RadprefError as error:
        parser.error(str(error))
    show(rows, options.json)


if __name__ == "__main__":
    main()
