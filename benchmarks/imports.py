"""Importing published layouts: images a second by threads and processes, processor time beside a plain loop, memory.

    python -m benchmarks.imports --size full --json

Two trees are generated and imported: CheXpert-v1.0-small (JPEG of 390 x 320) and SIIM-ACR (DICOM of 1024 x 1024, JPEG
inside, with run lengths). The peer is the loop that one would write: open with Pillow or pydicom, resize, save as PNG;
it keeps no hash, no record and no sync to disk. Memory is counted by tracemalloc at two numbers of images: what one
more image adds must stay under a quarter of its pixels, so pixels are not kept. Images a second are wall time and mean
little on a shared machine; processor time counts all processes.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas

from benchmarks.rows import command_line, row, show
from radpref.data.core.progress import track
from radpref.data.study.study import Study

IMAGE_SIZE = 128
WAYS = {"1 thread": (1, False), "4 threads": (4, False), "2 processes": (2, True)}
"""Name -> (workers, processes)."""
KEPT_BYTES = IMAGE_SIZE**2 / 4
"""Most traced bytes that one more image of 8 bits may add."""


@dataclass(frozen=True)
class Size:
    """Images of the two trees and their sides (height, width), and the two numbers at which memory is counted."""

    jpeg: int
    jpeg_sides: tuple[int, int]
    dicom: int
    dicom_sides: tuple[int, int]
    memory: tuple[int, int]


SIZES = {
    "tiny": Size(24, (60, 50), 12, (96, 96), (100, 300)),
    "full": Size(2400, (320, 390), 400, (1024, 1024), (500, 2500)),
}


def drawn(seed: int, sides: tuple[int, int]) -> Any:
    """A smooth picture, another for every seed: a PIL image, mode L."""
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (24, 20), dtype=np.uint8)
    return Image.fromarray(coarse).resize((sides[1], sides[0]), Image.Resampling.BICUBIC)


def chexpert_tree(root: Path, n: int, sides: tuple[int, int]) -> Path:
    """CheXpert-v1.0-small with ``n`` frontal images, two a patient; one of ten is of the official validation set."""
    from radpref.data.datasets.chexpert_columns import FINDINGS

    tables: dict[str, list[dict[str, str]]] = {"train": [], "valid": []}
    for i in track(range(n), "writing JPEG files", n):
        part = "valid" if i % 20 < 2 else "train"
        place = f"{part}/patient{i // 2:05d}/study1/view{1 + i % 2}_frontal.jpg"
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        drawn(i, sides).save(root / place, quality=90)
        cells = dict.fromkeys(FINDINGS, "") | {"Edema": ("1.0", "0.0", "-1.0")[i % 3]}
        view = {"Sex": "Female", "Age": "68", "Frontal/Lateral": "Frontal", "AP/PA": "AP"}
        tables[part].append({"Path": f"CheXpert-v1.0-small/{place}", **view, **cells})
    for part, rows in tables.items():
        pandas.DataFrame(rows).to_csv(root / f"{part}.csv", index=False)
    return root


def siim_tree(root: Path, n: int, sides: tuple[int, int]) -> Path:
    """SIIM-ACR's second stage with ``n`` DICOM files, JPEG baseline inside; every fourth has a pneumothorax."""
    from radpref.data.datasets.outlines import SIDE
    from radpref.data.imaging.rle import encode_rle

    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[100:400, 200:350] = True
    text, rows = encode_rle(mask, "relative"), []
    for i in track(range(n), "writing DICOM files", n):
        uid = f"1.2.276.{i:06d}"
        write_dicom(root / "stage_2_train" / f"{uid}.dcm", drawn(i, sides), f"patient-{i}")
        rows.append({"ImageId": uid, " EncodedPixels": f" {text}" if i % 4 == 0 else " -1"})
    pandas.DataFrame(rows).to_csv(root / "stage_2_train.csv", index=False)
    return root


def write_dicom(path: Path, image: Any, patient: str) -> None:
    """A radiograph of 8 bits as JPEG baseline in a DICOM file."""
    import io

    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage, generate_uid

    coded = io.BytesIO()
    image.save(coded, "JPEG", quality=95)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[patient])
    dataset.Modality, dataset.PhotometricInterpretation, dataset.PatientID = "CR", "MONOCHROME2", patient
    dataset.Columns, dataset.Rows = image.size
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 8, 8, 7
    dataset.PixelRepresentation, dataset.PixelData = 0, encapsulate([coded.getvalue()])
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def imported(reader: str, tree: Path, root: Path, workers: int, processes: bool = False) -> int:
    """Import into a new study; the number of records.

    Raises:
        RuntimeError: not every image came in.
    """
    from radpref.data.datasets import workers as import_workers
    from radpref.data.datasets.importing import import_records

    toml = f'name = "speed"\n[data]\nimage_size = {IMAGE_SIZE}\nstructures = ["pneumothorax"]\n'
    study = Study.create(root, toml)
    try:
        # Processes or threads as asked, however many records there are.
        with patch.object(import_workers, "PROCESSES_FROM", 0 if processes else sys.maxsize):
            result = import_records(study, reader, tree, workers=workers)
    finally:
        study.db.close()
    if result.n_quarantined or result.n_imported != result.n_planned:
        raise RuntimeError(f"{reader}: {result.n_quarantined} images of the generated tree were refused")
    return result.n_imported


def plain_loop(reader: str, tree: Path, out: Path) -> int:
    """The peer: every image file opened, resized and saved as PNG, one after the other."""
    import pydicom
    from PIL import Image

    files = sorted(p for p in tree.rglob("*") if p.suffix in (".jpg", ".dcm"))
    out.mkdir()
    for i, path in enumerate(track(files, f"plain loop, {reader}", len(files))):
        image = Image.fromarray(pydicom.dcmread(path).pixel_array) if path.suffix == ".dcm" else Image.open(path)
        image.convert("L").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX).save(out / f"{i}.png")
    return len(files)


def timed(action: Callable[[], int]) -> tuple[float, float]:
    """Images a second by the clock, and milliseconds of processor for each, child processes included."""

    def processor() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in used)

    wall, cpu = time.perf_counter(), processor()
    n = action()
    return n / (time.perf_counter() - wall), 1000 * (processor() - cpu) / n


def speed_rows(reader: str, name: str, tree: Path, work: Path) -> list[dict[str, Any]]:
    """Each way once, in a separate study, then the peer."""
    rows: list[dict[str, Any]] = []
    alone = 0.0
    for way, (workers, processes) in WAYS.items():
        speed, ms = timed(partial(imported, reader, tree, work / "study", workers, processes))
        shutil.rmtree(work / "study")
        alone = alone or ms
        rows.append(row(f"{name}, {way}: images/s by the clock", speed, None))
        rows.append(row(f"{name}, {way}: processor ms an image", ms, None))
    _, ms = timed(partial(plain_loop, reader, tree, work / "plain"))
    shutil.rmtree(work / "plain")
    rows.append(row(f"{name}, 1 thread, plain loop the peer: processor ms an image", alone, None, peer=ms))
    return rows


def memory_rows(work: Path, counts: tuple[int, int]) -> list[dict[str, Any]]:
    """Peak traced memory of the import at two numbers of images, and what one more image adds."""
    peaks = []
    imported("chexpert", chexpert_tree(work / "warm", 20, (40, 40)), work / "study", 1)  # what is imported once
    shutil.rmtree(work / "study")
    for n in counts:
        tree = chexpert_tree(work / f"memory-{n}", n, (40, 40))
        tracemalloc.start()
        imported("chexpert", tree, work / "study", 1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        shutil.rmtree(work / "study")
    found = [row(f"peak traced memory, {n} images, MiB", p / 2**20, None) for n, p in zip(counts, peaks, strict=True)]
    added = (peaks[1] - peaks[0]) / (counts[1] - counts[0])
    return [*found, row("traced bytes that one more image adds", added, KEPT_BYTES)]


def run(size: Size) -> list[dict[str, Any]]:
    """All rows."""
    with tempfile.TemporaryDirectory(prefix="radpref-imports-") as folder:
        work = Path(folder)
        jpeg = chexpert_tree(work / "chexpert", size.jpeg, size.jpeg_sides)
        dicom = siim_tree(work / "siim", size.dicom, size.dicom_sides)
        return [
            *speed_rows("chexpert", f"CheXpert, JPEG {size.jpeg_sides[1]}x{size.jpeg_sides[0]}", jpeg, work),
            *speed_rows("siim", f"SIIM-ACR, DICOM {size.dicom_sides[1]}x{size.dicom_sides[0]}", dicom, work),
            *memory_rows(work, size.memory),
        ]


def main() -> None:
    """Entry: print the rows, with ``--json`` one JSON line last."""
    parser = command_line("imports", __doc__, SIZES)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = run(SIZES[options.size])
    show(rows, options.json)


if __name__ == "__main__":
    main()
