"""Published sets: what is missing is one line, captions, examples, the command, tables as they were published."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tomllib
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from radpref.data.config.study_config import parse_config
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.datasets.chexpert_columns import finding_caption
from radpref.data.datasets.importing import import_records
from radpref.data.datasets.outlines import fits
from radpref.data.datasets.registry import READERS
from radpref.data.study.conditions import asked_attributes
from radpref.data.study.study import Study
from radpref.data.upkeep.verify import verify
from tests.support import ROOT
from tests.support.datasets import (
    candid_tree,
    chexpert_tree,
    counts,
    edit_csv,
    found,
    mimic_tree,
    plan,
    record_ids,
    rsna_tree,
    siim_tree,
    write_dicom,
)
from tests.support.errors import refuses

# --- what is missing is named in one line


TREES = {"chexpert": chexpert_tree, "candid": candid_tree, "siim": siim_tree, "rsna": rsna_tree, "mimic": mimic_tree}
TABLES = {
    "chexpert": ("CheXpert-v1.0-small/valid.csv", "Path"),
    "candid": ("Pneumothorax_reports.csv", "filename"),
    "siim": ("train-rle.csv", " EncodedPixels"),
    "rsna": ("stage_2_train_labels.csv", "Target"),
    "mimic": ("mimic-cxr-2.0.0-split.csv.gz", "split"),
}


@pytest.mark.parametrize("reader", TREES)
def test_a_missing_folder_table_or_column_is_one_line(tmp_path, reader):
    tree = TREES[reader](tmp_path / "raw")
    name, column = TABLES[reader]
    table = tree / name
    with refuses(InvalidInput, reader, "data.path"):
        plan(reader, None)
    with refuses(NotFound, reader, "nowhere"):
        plan(reader, tmp_path / "nowhere")
    with refuses(InvalidInput, reader, table.name):
        plan(reader, table)
    edit_csv(table, lambda rows: [{key: cell for key, cell in row.items() if key != column} for row in rows])
    with refuses(InvalidInput, table.name, column.strip()):
        plan(reader, tree)
    table.write_bytes(b"\x1f\x8b\x08cut" if table.suffix == ".gz" else b'a,b\n"cut,1\n')
    with pytest.raises(InvalidInput):
        plan(reader, tree)
    table.unlink()
    with refuses(NotFound, table.name):
        plan(reader, tree)


@pytest.mark.parametrize("reader", TREES)
def test_tables_without_images_are_refused_before_all_is_quarantined(tmp_path, reader):
    tree = TREES[reader](tmp_path / "raw")
    for place in [*tree.rglob("*.dcm"), *tree.rglob("*.jpg"), *tree.rglob("1.2.840*")]:
        place.unlink()
    with refuses(NotFound, tree):
        plan(reader, tree, rle="relative")


@pytest.mark.parametrize("reader", TREES)
def test_every_reader_is_registered_and_named_in_the_configuration(tmp_path, reader):
    assert reader in READERS
    assert parse_config({"data": {"reader": reader}}).data.reader == reader
    ids = record_ids(plan(reader, TREES[reader](tmp_path / "raw"), rle="relative"))
    assert len(set(ids)) == len(ids) > 5
    assert all(name.startswith(f"{reader}/") for name in ids)


@pytest.mark.parametrize("reader", TREES)
def test_the_plan_made_again_names_and_loads_equal_records(tmp_path, reader):
    """Every worker process makes its own plan."""
    tree = TREES[reader](tmp_path / "raw")
    first, again = plan(reader, tree, rle="relative"), plan(reader, tree, rle="relative")
    assert record_ids(first) == record_ids(again)
    assert first.records.load(0).image.tobytes() == again.records.load(0).image.tobytes()


# --- captions of labels


@pytest.mark.parametrize(
    ("labels", "caption"),
    [
        ({"pneumonia": 1.0, "normal": 0.0}, "Pneumonia"),
        ({"pleural_effusion": 1.0, "cardiomegaly": 1.0, "normal": None}, "Pleural effusion"),
        ({"cardiomegaly": 1.0}, "Cardiomegaly"),
        ({"edema": 1.0}, "Pulmonary edema"),
        ({"normal": 1.0, "edema": 0.0}, "Normal"),
        ({"normal": 1.0, "support_devices": 1.0}, "Normal"),
        ({"normal": 0.0, "support_devices": 1.0}, "Support devices"),
        ({"pneumothorax": 0.0}, None),
        ({"pneumonia": 0.0, "normal": None}, None),
        ({"pneumothorax": 0.0, "rib_fractures": 1.0, "chest_tubes": 0.0}, "Fracture"),
        ({"pneumothorax": 0.0, "rib_fractures": 0.0, "chest_tubes": 1.0}, "Chest tube"),
    ],
)
def test_captions_of_labels_ask_for_what_they_name(labels, caption):
    assert finding_caption(labels) == caption
    if caption not in (None, "Normal"):
        assert asked_attributes(caption, labels)
        assert all(labels[name] == 1 for name in asked_attributes(caption, labels))


# --- examples


EXAMPLES = ROOT / "docs" / "examples"
SETS = {"chexpert": "chexpert", "candid-ptx": "candid", "siim": "siim", "rsna": "rsna", "mimic": "mimic"}


@pytest.mark.parametrize("name", SETS)
def test_the_example_of_each_set_imports_its_set_with_labels_and_masks_for_its_tasks(tmp_path, name):
    text = (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8")
    study = Study.create(tmp_path / "study", text)
    assert study.config.data.reader == SETS[name]
    tree = TREES[SETS[name]](tmp_path / "raw")
    assert import_records(study, None, tree).n_imported >= 8
    held = counts(study)
    for task in study.config.downstream.tasks:
        if task.kind == "segmentation":
            assert held["masks"][task.structure]
            assert task.structure in held["negative"]
        else:
            known = study.db.rows("SELECT DISTINCT label FROM labels")
            assert {row["label"] for row in known} >= set(task.labels)
    assert verify(study).ok
    study.db.close()


def test_every_example_that_is_shipped_is_a_valid_study():
    examples = sorted(EXAMPLES.glob("*.toml"))
    assert len(examples) >= 6
    for path in examples:
        parse_config(tomllib.loads(path.read_text(encoding="utf-8")), str(path))


# --- the command, and tables as they were published


def test_the_command_imports_a_set_and_the_study_verifies(tmp_path):
    import radpref.cli

    root = tmp_path / "study"
    Study.create(root, 'name = "command"\n[data]\nimage_size = 64\n').db.close()
    tree, runner = siim_tree(tmp_path / "raw"), CliRunner()
    done = runner.invoke(radpref.cli.app, ["data", "import", "siim", str(tree), "--study", str(root), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["reader"], result["n_imported"], result["n_quarantined"]) == ("siim", 8, 0)
    assert {line["what"]: line["expected"] for line in result["found"]}["images"] == 12_047
    again = runner.invoke(radpref.cli.app, ["data", "import", "siim", str(tree), "--study", str(root), "--json"])
    assert json.loads(again.stdout)["n_existing"] == 8
    assert runner.invoke(radpref.cli.app, ["study", "verify", "--study", str(root)]).exit_code == 0


@pytest.fixture(scope="module")
def tables():
    """Folder of the tables that the wheel of torchxrayvision carries; nothing of it is copied into this project."""
    found = importlib.util.find_spec("torchxrayvision")
    if found is None or found.origin is None:
        pytest.skip("torchxrayvision is not installed")
    return Path(found.origin).parent / "data"


def test_published_siim_table_holds_what_it_is_documented_to_hold(tmp_path, tables):
    shutil.copy(tables / "siim-pneumothorax-train-rle.csv.gz", tmp_path / "train-rle.csv.gz")
    first = "1.2.276.0.7230010.3.1.4.8323329.13666.1517875247.117800"
    write_dicom(tmp_path / f"{first}.dcm", 1)
    planned = plan("siim", tmp_path)
    for line in planned.found[:3]:
        assert line.found == line.expected
    record = planned.records.load(record_ids(planned).index(f"siim/{first}"))
    assert record.masks["pneumothorax"].sum() > 20
    texts = pd.read_csv(tmp_path / "train-rle.csv.gz")[" EncodedPixels"].str.strip()
    sample = list(texts[texts != "-1"].iloc[::60])
    assert fits(sample, "relative", 1) == len(sample) > 50
    assert fits(sample, "absolute", 1) == 0


def test_published_rsna_and_chexpert_tables_hold_what_they_are_documented_to_hold(tmp_path, tables):
    with zipfile.ZipFile(tables / "kaggle_stage_2_train_labels.csv.zip") as archive:
        archive.extractall(tmp_path / "rsna")
    name = next((tmp_path / "rsna").glob("*.csv"))
    first = "00436515-870c-4b36-a041-de91049b9ab4"
    write_dicom(tmp_path / "rsna" / f"{first}.dcm", 1, size=(1024, 1024))
    planned = plan("rsna", name.parent, structures=["lesion"])
    assert [(line.found, line.expected) for line in planned.found[:3]] == [
        (30_227, 30_227), (26_684, 26_684), (6_012, 6_012),
    ]  # fmt: skip
    assert planned.records.load(record_ids(planned).index(f"rsna/{first}")).masks["lesion"].any()
    boxes = pd.read_csv(name).dropna()
    assert (boxes.x + boxes.width).max() <= 1024
    assert (boxes.y + boxes.height).max() <= 1024

    tree = chexpert_tree(tmp_path / "chexpert", nested=False)
    (tree / "train.csv").unlink()
    shutil.copy(tables / "chexpert_train.csv.gz", tree / "train.csv.gz")
    lines = found("chexpert", tree, uncertain="mgca", labels=["edema"])
    for what in ("rows of train.csv", "patients of train.csv", "frontal rows of train.csv"):
        assert lines[what].found == lines[what].expected
    assert "11818 uncertain -> 1" in lines["positive: edema"].note
