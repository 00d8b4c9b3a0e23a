"""A split that holds no record is said at the import, by `study verify`, and where a step needs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from radpref.data.config.downstream import TaskConfig
from radpref.data.core.errors import NotFound
from radpref.data.datasets.importing import import_records
from radpref.data.study.empty_splits import empty_line, empty_splits, require_split
from radpref.data.study.study import Study
from radpref.data.upkeep.verify import verify
from radpref.downstream.cells.tasks import load_task
from radpref.generation.training.request import warn_without_validation
from tests.support.data import table_study
from tests.support.datasets import chexpert_tree, mimic_tree, rsna_tree, study_of
from tests.support.errors import refuses

NO_VAL = "split_fractions = [0.5, 1e-9, 0.499999999]"


def test_a_set_of_few_patients_may_lack_a_split_and_is_told(tmp_path, imported, caplog):
    study, result = imported("rsna", rsna_tree(tmp_path / "raw"), NO_VAL)
    line = (
        "split 'val' holds no record (rated sets, fidelity and thresholds are made from it): import more patients, or"
        " change data.seed or data.split_fractions and import into a new study, since records keep their split"
    )
    assert result.warnings == [line]
    assert [record.message for record in caplog.records].count(f"warning: {line}") == 1
    assert line in verify(study).notes
    again = import_records(study, "rsna", tmp_path / "raw")  # nothing is left to import, the split is still empty
    assert again.warnings == [line]
    task = TaskConfig(name="pneumonia", kind="binary", labels=("pneumonia",))
    downstream = study.config.downstream.model_copy(update={"arms": ()})
    study.config = study.config.model_copy(update={"downstream": downstream})
    with pytest.raises(NotFound) as refused:
        load_task(study, task)
    assert str(refused.value) == line


def test_a_training_without_validation_images_says_so(tmp_path, imported, caplog):
    filled, _ = imported("mimic", mimic_tree(tmp_path / "mimic"))
    study, _ = imported("rsna", rsna_tree(tmp_path / "rsna"), NO_VAL)
    caplog.clear()
    warn_without_validation(filled)
    assert caplog.records == []
    warn_without_validation(study)
    (told,) = [record.message for record in caplog.records]
    assert told.startswith("no validation sheets and losses; split 'val' holds no record")
    assert "data.split_fractions" in told


def test_all_splits_filled_say_nothing(tmp_path, imported):
    study, result = imported("mimic", mimic_tree(tmp_path / "raw"))
    assert result.warnings == []
    assert not [note for note in verify(study).notes if note.startswith("split ")]
    require_split(study, "val")


def test_a_share_of_none_is_meant(tmp_path, imported):
    _, result = imported("rsna", rsna_tree(tmp_path / "raw"), "split_fractions = [0.5, 0.0, 0.5]")
    assert result.warnings == []


def test_the_official_test_set_of_chexpert_is_named(tmp_path):
    tree = chexpert_tree(tmp_path / "raw")
    study = study_of(tmp_path / "study", "")
    import_records(study, "chexpert", tree)
    with study.db.write() as connection:
        connection.execute("DELETE FROM labels WHERE record_id IN (SELECT record_id FROM records WHERE split = 'test')")
        connection.execute("DELETE FROM records WHERE split = 'test'")
    assert "put valid.csv and valid/ there" in empty_line(study, "test")
    study.db.close()


@pytest.mark.parametrize(
    ("parts", "mend"),
    [
        (["train"] * 4 + ["val"] * 4, "write test into column 'part' (data.columns.split)"),
        (None, "import more patients, or change data.split_fractions"),
    ],
)
def test_a_table_names_its_own_key(tmp_path: Path, parts, mend):
    replace = () if parts else (('split = "part"\n', ""), ("[data]\n", "[data]\nsplit_fractions = [0.5, 0.49, 0.01]\n"))
    study = table_study(tmp_path, n=8, replace=replace, **({"part": parts} if parts else {}))
    found = import_records(study).warnings
    assert len(found) == 1
    assert mend in found[0]
    study.db.close()


def test_before_the_import_there_is_no_warning_and_a_step_says_import(study: Study):
    assert empty_splits(study) == []
    with refuses(NotFound, "test", "data import"):
        require_split(study, "test")


def test_phantoms_name_their_number(tmp_path: Path):
    study = Study.create(tmp_path / "study", "[data]\nimage_size = 32\nn_train = 2\nn_val = 0\nn_test = 0\n")
    assert import_records(study).warnings == []  # they were not asked for
    with refuses(NotFound, "data.n_val", "data import"):
        require_split(study, "val")
    study.db.close()
