"""Benchmarks of imports, copies, memory and captions at their smallest size: equality and counted work, never time."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import captions, copies, embedded, imports, memory
from radpref.data.study.study import Study
from radpref.generation.measuring.measuring_network import load_measure
from tests.support.errors import refuses

KEYS = {"metric", "ours", "peer", "ratio", "target", "met"}


def by_name(rows: list[dict[str, Any]]) -> dict[str, Any]:
    assert all(set(row) >= KEYS for row in rows)
    named = {row["metric"]: row for row in rows}
    assert len(named) == len(rows)
    return named


# --- imports


def stored(root: Path) -> list[tuple[Any, ...]]:
    study = Study(root)
    rows = study.db.rows("SELECT record_id, patient_id, split, image_sha FROM records ORDER BY record_id")
    study.db.close()
    return [tuple(row.values()) for row in map(dict, rows)]


def test_every_way_of_importing_stores_the_same(tmp_path: Path) -> None:
    found, size = [], imports.SIZES["tiny"]
    tree = imports.siim_tree(tmp_path / "siim", size.dicom, size.dicom_sides)
    for name, (workers, processes) in imports.WAYS.items():
        assert imports.imported("siim", tree, tmp_path / name, workers, processes) == size.dicom
        found.append(stored(tmp_path / name))
    assert len(found[0]) == size.dicom
    assert found[0] == found[1] == found[2]
    assert imports.plain_loop("siim", tree, tmp_path / "plain") == size.dicom


def test_an_import_keeps_no_pixels(tmp_path: Path) -> None:
    few, many, added = imports.memory_rows(tmp_path, imports.SIZES["tiny"].memory)
    assert added["met"], added
    assert few["ours"] <= many["ours"]
    assert added["target"] < imports.IMAGE_SIZE**2  # keeping them would miss the target


def test_a_refused_image_stops_the_benchmark_of_imports(tmp_path: Path) -> None:
    tree = imports.chexpert_tree(tmp_path / "broken", 4, (40, 40))
    next(tree.rglob("*.jpg")).write_bytes(b"no image")
    with refuses(RuntimeError, "chexpert", 1):
        imports.imported("chexpert", tree, tmp_path / "study", 1)


# --- copies

SMALL = replace(copies.SIZES["tiny"], side=40, runs=1, pool=132, training=30, held_out=(80, 30), judged=20, copies=(6,))


@pytest.fixture(scope="module")
def planted() -> list[dict[str, Any]]:
    return copies.planted_rows(SMALL)


def test_the_rule_finds_plain_copies_and_raises_no_alarm(planted: list[dict[str, Any]]) -> None:
    rows = by_name(planted)
    for name in ("noise", "gain and noise", "mirrored"):
        assert rows[f"copies, {name}: found image by image, 80 held-out"]["ours"] == 1
        assert rows[f"6 copies, {name}, 30 held-out: 1 runs of 20 images called suspicious"]["ours"] == 1
    quiet = rows["no copies, 80 held-out: 1 runs of 20 images called suspicious"]
    assert (quiet["ours"], quiet["met"]) == (0, True)


def test_copies_are_planted_alike_every_time(planted: list[dict[str, Any]]) -> None:
    assert copies.planted_rows(SMALL) == planted


def test_every_disguise_changes_the_image_and_keeps_its_form() -> None:
    images = np.random.default_rng(0).integers(60, 200, (3, 48, 48), dtype=np.uint8)
    for name, change in copies.DISGUISES.items():
        made = change(images, np.random.default_rng(1))
        assert (made.shape, made.dtype) == (images.shape, np.uint8), name
        assert (made != images).mean() > 0.5, name


def test_the_search_for_copies_needs_no_more_memory_for_more_training_images() -> None:
    rows = copies.cost_rows(*copies.SIZES["tiny"].cost)
    assert rows[-1]["met"], rows
    assert rows[1]["ours"] > 1  # MiB: the block and its shifts are in it


def test_a_study_is_judged_and_not_written_to(tiny_study: Study) -> None:
    before = tiny_study.db.rows("SELECT name FROM networks"), sorted(tiny_study.root.rglob("*"))
    rows = by_name(copies.study_rows(tiny_study.root))
    folder = next(name for name in rows if name.startswith("training images, noise: the same radiograph"))
    assert rows[folder]["ours"] == int(folder.rsplit(" ", 1)[1])
    assert rows[folder]["verdict"] == "suspicious"
    assert (tiny_study.db.rows("SELECT name FROM networks"), sorted(tiny_study.root.rglob("*"))) == before


def test_the_rule_of_the_benchmark_is_that_of_the_page() -> None:
    net = load_measure("fidelity")
    images = np.random.default_rng(0).integers(0, 256, (60, 40, 40), dtype=np.uint8)
    rule = copies.Rule(copies.Looks.of(images[:40], net), copies.Looks.of(images[40:], net))
    assert rule.neighbours(copies.Looks.of(images[3:5], net))[0].index.tolist() == [3, 4]
    assert rule.verdict(rule.neighbours(copies.Looks.of(images[:5], net)), 20).n_twins == 5


# --- memory


def test_parts_and_checkpointing_keep_less_for_the_backward_pass(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        kept = {way: memory.train_steps("tiny", way, tmp_path / way)["kept_mib"] for way in memory.SIZES["tiny"].ways}
    finally:
        torch.set_num_threads(threads)
    assert kept["4 parts"] < kept["plain"] / 2
    assert kept["checkpointing"] < kept["plain"] / 2


def test_kept_tensors_are_counted_once_and_leave() -> None:
    weight = torch.ones(64, 64, requires_grad=True)
    held = memory.Held({weight.untyped_storage().data_ptr()})
    with held.counting():
        x = torch.ones(64, 64) @ weight
        y = x * x + x.exp()
    size = 64 * 64 * 4
    assert held.peak == held.now == 3 * size  # the input, x (twice asked for) and its exponential
    y.sum().backward()
    del x, y
    assert held.now == 0
    assert held.peak == 3 * size


def test_weights_are_counted_at_the_size_that_the_table_names() -> None:
    rows = by_name(memory.weight_rows())
    assert rows["sd, UNet, full: parameters trained, million"]["ours"] == pytest.approx(866, abs=1)
    full = rows["sd, UNet, full: weights, gradients, moments, average, GB"]["ours"]
    assert full == pytest.approx(20 * 0.866, abs=0.05)
    assert rows["sd, LoRA: weights, gradients, moments, average, GB"]["ours"] < full / 4


# --- the embedded default


def test_the_weights_that_ship_keep_to_their_limits() -> None:
    rows = embedded.weight_rows()
    assert [row["met"] for row in rows] == [True, True]
    assert all(row["ours"] > 1 for row in rows)


def test_the_autoencoder_is_measured_on_phantoms_that_nothing_was_trained_on() -> None:
    rows = embedded.autoencoder_rows(4)
    assert rows == embedded.autoencoder_rows(4)
    assert [row["metric"].rsplit(" ", 1)[1] for row in rows] == ["psnr_db", "gradient_psnr_db", "gradient_energy_kept"]
    assert rows[0]["ours"] > 34  # 36.6 over the 256 of the model card


# --- captions


def report(headings: list[str], **sections: str) -> bytes:
    texts = "".join(f'<AbstractText Label="{name}">{text}</AbstractText>' for name, text in sections.items())
    major = "".join(f"<major>{heading}</major>" for heading in headings)
    return f"<eCitation><Abstract>{texts}</Abstract><MeSH>{major}</MeSH></eCitation>".encode()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_captions_of_reports_are_counted_against_their_headings(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "reports.tgz",
        {
            "r/1.xml": report(["normal"], FINDINGS="Clear lungs.", IMPRESSION="No acute disease."),
            "r/2.xml": report(["Pleural Effusion/right/small"], IMPRESSION="Small right pleural effusion."),
            "r/3.xml": report(["Calcinosis/aorta"], IMPRESSION="No acute disease."),
            "r/4.xml": report(["normal"], IMPRESSION="XXXX."),
            "r/5.xml": report(["No Indexing"]),
            "r/readme.txt": b"no report",
        },
    )
    counts = [row["ours"] for row in captions.run(path, None)]
    assert counts == [4, 3, 0, 2, 1, 2, 1]
    assert captions.run(path, 2)[0]["ours"] == 2


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    broken = tmp_path / "broken.tgz"
    broken.write_bytes(b"no archive")
    empty = archive(tmp_path / "empty.tgz", {"r/1.xml": report(["normal"])})
    for path in (tmp_path / "none.tgz", broken, empty):
        monkeypatch.setattr(sys, "argv", ["captions", str(path)])
        with pytest.raises(SystemExit) as stopped:
            captions.main()
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert (stopped.value.code, str(path) in said) == (2, True), said


@pytest.mark.parametrize("benchmark", [captions, copies, imports, memory])
def test_help_teaches(benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--help"])
    with pytest.raises(SystemExit):
        benchmark.main()
    said = capsys.readouterr().out
    assert f"python -m {benchmark.__name__}" in said
    assert benchmark.__doc__.splitlines()[0] in said


def test_the_last_line_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    path = archive(tmp_path / "reports.tgz", {"1.xml": report(["normal"], IMPRESSION="No acute disease.")})
    monkeypatch.setattr(sys, "argv", ["captions", str(path), "--json"])
    captions.main()
    assert by_name(json.loads(capsys.readouterr().out.splitlines()[-1])["rows"])["reports with a text"]["ours"] == 1
