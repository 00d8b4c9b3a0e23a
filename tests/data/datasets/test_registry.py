import json
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from radpref.data.config.data import DataConfig, PhantomConfig, ReaderName
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.datasets.importing import import_records
from radpref.data.datasets.labels import parse_rule
from radpref.data.datasets.registry import READERS, get_reader
from radpref.data.datasets.table import clean_caption
from radpref.data.imaging.framing import fit_image, fit_mask
from radpref.data.phantom.spec import CHEXPERT_LABELS, FINDINGS
from radpref.data.study.study import Study
from tests.support.data import gray, label_table, table_study
from tests.support.datasets import load_all
from tests.support.errors import refuses

# --- phantom


def test_phantom_records(tiny_study):
    db = tiny_study.db
    assert db.rows("SELECT split, count(*) AS n FROM records GROUP BY 1") == [
        {"split": "test", "n": 12}, {"split": "train", "n": 24}, {"split": "val", "n": 12},
    ]  # fmt: skip
    assert db.value("SELECT count(DISTINCT patient_id) FROM records") == 48
    assert db.value("SELECT count(*) FROM records WHERE dataset <> 'phantom' OR caption IS NULL OR report IS NULL") == 0
    assert db.rows("SELECT DISTINCT width, height, bit_depth, origin FROM images") == [
        {"width": 64, "height": 64, "bit_depth": 16, "origin": "real"}
    ]
    assert db.value("SELECT count(*) FROM masks WHERE n_pixels = 0") == 0
    assert {row["structure"] for row in db.rows("SELECT DISTINCT structure FROM record_masks")} >= {
        "lungs",
        "heart",
        "lesion",
    }


def test_phantom_labels_and_sides(tiny_study):
    table = label_table(tiny_study.db)
    sided = [name for name in FINDINGS if name not in ("cardiomegaly", "edema")]
    expected = {*FINDINGS, "normal", *(f"{name}/{side}" for name in sided for side in ("left", "right"))}
    assert set(table.columns) == expected
    assert table.notna().all().all()
    for name in sided:
        assert (table[f"{name}/left"] + table[f"{name}/right"] == table[name]).all()
    assert ((table[list(FINDINGS)].sum(axis=1) == 0) == (table["normal"] == 1)).all()
    assert set(CHEXPERT_LABELS) <= set(label_table(tiny_study.db, "val").columns)
    assert len(label_table(tiny_study.db, "val")) == 12


def test_phantom_is_deterministic_and_seeds_differ(tiny_study):
    config = tiny_study.config.data
    first, again = (get_reader("phantom")(config, None).records.load(5) for _ in range(2))
    assert (first.image == again.image).all()
    other = get_reader("phantom")(config.model_copy(update={"seed": 4}), None).records.load(5)
    assert other.patient_id != first.patient_id
    assert other.record_id != first.record_id


def test_phantom_draws_the_asked_findings_under_the_asked_caption():
    drawn = PhantomConfig(findings=("pneumonia",), normal_fraction=0.5, caption="{finding} adult PA chest radiograph")
    config = DataConfig(n_train=12, n_val=0, n_test=0, image_size=32, structures=("lungs",), phantom=drawn)
    records = load_all(get_reader("phantom")(config, None))
    for record in records:
        name = "pneumonia" if record.labels["pneumonia"] else "normal"
        assert record.labels[name] == 1
        assert record.caption == f"{name} adult PA chest radiograph"
        assert sum(value == 1 for label, value in record.labels.items() if "/" not in label) == 1
    assert 0 < sum(record.labels["normal"] == 1 for record in records) < len(records)


@pytest.mark.parametrize(
    ("drawn", "named"),
    [
        (PhantomConfig(findings=("fracture",)), ("data.phantom.findings", "fracture")),
        (PhantomConfig(caption="an X-ray"), ("data.phantom.caption", "{finding}")),
    ],
)
def test_phantom_says_what_it_cannot_draw(drawn, named):
    with refuses(InvalidInput, *named):
        get_reader("phantom")(DataConfig(phantom=drawn), None)


def test_phantom_splits_share_no_patient_seed_across_studies():
    seen = set()
    for seed in (0, 1, 999):
        plan = get_reader("phantom")(DataConfig(n_train=2, n_val=2, n_test=2, image_size=32, seed=seed), None)
        seen |= {record.patient_id for record in load_all(plan)}
    assert len(seen) == 18
    assert all(2**32 <= int(name.removeprefix("phantom-")) < 2**33 for name in seen)


def test_phantom_refuses_path_and_unknown_structures(tmp_path):
    with refuses(InvalidInput, tmp_path, "table"):
        get_reader("phantom")(DataConfig(), tmp_path)
    with refuses(InvalidInput, "ribs", "data.structures"):
        get_reader("phantom")(DataConfig(structures=("ribs",)), None)


def test_registry_and_configuration_know_the_same_readers():
    assert get_args(ReaderName) == tuple(READERS)
    assert all(callable(get_reader(name)) for name in READERS)


def test_records_are_numbered_through_the_splits():
    records = get_reader("phantom")(DataConfig(n_train=200_000, n_val=3, n_test=2), None).records
    assert len(records) == 200_005
    ids = [records.record_id(i) for i in (0, 199_999, 200_000, 200_003, 200_004)]
    assert [name.split("-")[2:] for name in ids] == [
        ["train", "000000"], ["train", "199999"], ["val", "000000"], ["test", "000000"], ["test", "000001"],
    ]  # fmt: skip


def test_unknown_reader_lists_choices():
    with refuses(NotFound, "chexpertt", "phantom", "table"):
        get_reader("chexpertt")


# --- table


def test_table_import(tmp_path):
    study = table_study(tmp_path)
    result = import_records(study)
    assert (result.n_imported, result.n_quarantined) == (8, 0)
    row = study.db.row("SELECT * FROM records WHERE record_id = 'tree/images/5.png'")
    assert (row["patient_id"], row["split"], row["dataset"]) == ("p2", "val", "tree")
    assert (row["caption"], row["report"]) == ("Chest radiograph, case 5", "Chest radiograph. Case 5.")
    assert json.loads(row["extra"]) == {"ill": "1", "kind": "pneumonia", "population": "child"}
    labels = label_table(study.db).loc["tree/images/5.png"]
    assert labels.to_dict() == {"ill": 1.0, "normal": 0.0, "child": 1.0}
    image = study.store.image(row["image_sha"])
    assert image.shape == (64, 64)
    assert image[:, :6].max() == 0  # 80 x 64 is 64 x 51 here: padded at the sides, not stretched
    assert image[:, 7:57].std() > 5
    mask_sha = study.db.value("SELECT mask_sha FROM record_masks WHERE record_id = 'tree/images/5.png'")
    mask = study.store.mask(mask_sha)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (8, 31, 14, 29)
    study.db.close()


def test_table_without_splits_is_patient_disjoint(tmp_path):
    study = table_study(tmp_path, replace=(('split = "part"\n', ""),))
    import_records(study)
    assert study.db.value("SELECT max(n) FROM (SELECT count(DISTINCT split) n FROM records GROUP BY patient_id)") == 1
    study.db.close()


def test_a_report_alone_is_a_caption_only_if_it_is_short(tmp_path):
    reports = ["IMPRESSION: Small right pleural effusion, unchanged."] * 4 + ["Pneumonia"] * 4
    study = table_study(tmp_path, (('text = "words"', 'report = "words"'),), words=reports)
    import_records(study)
    rows = study.db.rows("SELECT caption, report FROM records ORDER BY record_id")
    assert [row["report"] for row in rows] == reports
    assert [row["caption"] for row in rows] == [None] * 4 + ["Pneumonia"] * 4
    study.db.close()


def test_table_where_template_and_report(tmp_path):
    study = table_study(tmp_path, replace=(
        (
            'text = "words"',
            'text = "{population} chest radiograph, {kind}"\nreport = "words"\nwhere.population = "child"',
        ),
    ))  # fmt: skip
    assert import_records(study).n_imported == 4
    row = study.db.row("SELECT * FROM records ORDER BY record_id")
    assert (row["caption"], row["report"]) == ("child chest radiograph, normal", "Chest radiograph. Case 4.")
    study.db.close()


def test_parquet_equals_csv(tmp_path):
    import pandas as pd

    study = table_study(tmp_path)
    frame = pd.read_csv(tmp_path / "tree" / "table.csv")
    frame.to_parquet(tmp_path / "tree" / "table.parquet")
    assert import_records(study, path=tmp_path / "tree" / "table.parquet").n_imported == 8
    assert import_records(study).n_existing == 8
    study.db.close()


def test_sixteen_bit_images_keep_their_depth(tmp_path):
    study = table_study(tmp_path)
    Image.fromarray(gray(7, 80, np.uint16)[:, :64]).save(tmp_path / "tree" / "images" / "0.png")
    import_records(study)
    sha = study.db.value("SELECT image_sha FROM records WHERE record_id = 'tree/images/0.png'")
    assert study.store.image(sha).dtype == np.uint16
    study.db.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pediatric AP chest radiograph. Bacterial pneumonia.", "Pediatric AP chest radiograph, bacterial pneumonia"),
        ("  a\n b ", "a b"),
        ("Chest. AP view.", "Chest, AP view"),
        (" . ", ""),
        ("Opacity of 1.5 cm.", "Opacity of 1.5 cm"),
    ],
)
def test_clean_caption(text, expected):
    assert clean_caption(text) == expected


def test_fit_is_area_mean_and_undistorted():
    image = np.zeros((40, 20), np.uint8)
    image[:, ::2] = 200
    small = fit_image(image, 20)
    assert small.shape == (20, 20)
    assert (small[:, 5:15] == 100).all()
    assert small[:, :5].max() == small[:, 15:].max() == 0
    disc = np.hypot(*np.mgrid[-50:50, -50:50]) < 30
    fitted = fit_mask(np.pad(disc, ((0, 0), (30, 30))), 64)
    rows, columns = fitted.any(axis=1).sum(), fitted.any(axis=0).sum()
    assert abs(int(rows) - int(columns)) <= 1
    assert fit_image(gray(1, 32, np.uint16), 64).dtype == np.uint16


@pytest.mark.parametrize("bad", ["", "A", "a=", "a=b:", "=b", "Edema=Edema", "a b"])
def test_bad_label_rules(bad):
    with refuses(InvalidInput, repr(bad)):
        parse_rule(bad)


def test_label_rules():
    row = {"x": "1", "y": "Edema|Pneumonia", "z": "", "u": "-1.0", "bad": "maybe"}
    assert parse_rule("x").read(row) == 1.0
    assert parse_rule("pneumonia=y:pneumonia").read(row) == 1.0
    assert parse_rule("mass=y:Mass").read(row) == 0.0
    assert parse_rule("mass=z:Mass").read(row) is None
    assert parse_rule("u").read(row) is None
    assert parse_rule("u").read(row, "1") == 1.0
    assert parse_rule("effusion/left=u").read(row, "0") == 0.0
    with refuses(InvalidInput, "maybe", "bad"):
        parse_rule("bad").read(row)


# --- several data sets


def _two_tables(tmp_path, second_ids):
    """A study of two tables, in folders of one name, with two patients each."""
    for folder, patients in (("a/set", ("p1", "p2")), ("b/set", ("p3", "p4"))):
        (tmp_path / folder).mkdir(parents=True)
        lines = ["id,image,patient,split"]
        for i, patient in enumerate(patients):
            level = 30 * (len(list(tmp_path.glob("*/set/*.png"))) + 1)
            ramp = np.tile(np.linspace(0, level, 32), (32, 1)).astype(np.uint8)
            Image.fromarray(ramp).save(tmp_path / folder / f"{i}.png")
            ids = second_ids if folder == "b/set" else ("a0", "a1")
            lines.append(f"{ids[i]},{i}.png,{patient},train")
        (tmp_path / folder / "t.csv").write_text("\n".join(lines))
    toml = (
        'name = "two"\n'
        f'[data]\nreader = "table"\nimage_size = 32\npath = ["../a/set/t.csv", "{tmp_path}/b/set/t.csv"]\n'
        '[data.columns]\nimage = "image"\npatient = "patient"\nsplit = "split"\nrecord = "id"\n'
    )
    return Study.create(tmp_path / "study", toml)


def test_several_data_sets_are_imported_one_after_the_other(tmp_path):
    opened = _two_tables(tmp_path, ("b0", "b1"))
    result = import_records(opened)
    assert (result.n_planned, result.n_imported, result.splits.train.n_patients) == (4, 4, 4)
    assert opened.db.value("SELECT count(*) FROM runs WHERE kind = 'import'") == 2
    again = import_records(opened)
    assert (again.n_existing, again.n_imported) == (4, 0)


def test_two_data_sets_that_name_a_record_alike_do_not_hide_each_other(tmp_path):
    opened = _two_tables(tmp_path, ("a0", "b1"))
    with refuses(InvalidInput, "set/a0", "data.columns.record"):
        import_records(opened)
