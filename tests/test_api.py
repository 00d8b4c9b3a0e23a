"""The names for notebooks: the documented example runs, errors are the project's, and importing loads nothing heavy."""

import re
import subprocess
import sys
import tarfile

import numpy as np
import pytest

import radpref
from radpref.data.core.errors import InvalidInput, NotFound
from tests.support import ROOT
from tests.support.errors import refuses

OLD_STUDY = ROOT / "tests" / "fixtures" / "study-of-2026-11.tar.xz"


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A study that was scored, aligned and evaluated: its trainings are done and are not repeated."""
    folder = tmp_path_factory.mktemp("scored")
    with tarfile.open(OLD_STUDY) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def test_the_documented_example_runs(scored, capsys):
    page = (ROOT / "docs" / "notebook.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    found = {}
    exec(code.replace("studies/demo", str(scored)), found)
    assert found["baseline"].shape == found["aligned"].shape
    assert found["baseline"].dtype == np.uint8
    assert (found["baseline"] != found["aligned"]).any()
    assert found["baseline"].std() > 5  # an image, not a constant
    assert set(found["scores"]["value"]) <= set(range(6))
    assert set(found["table"]["arm"]) == {"baseline", "aligned", "finetuned"}
    assert "score" in capsys.readouterr().out


def test_the_tables_hold_what_the_record_holds(scored):
    study = radpref.open_study(scored)
    assert len(radpref.scores(study)) == study.db.value("SELECT count(*) FROM current_scores")
    assert radpref.scores(study, "human").empty
    table = radpref.pairs(study)
    assert table["p"].between(0, 1).all()
    assert (table["slot_i"] < table["slot_j"]).all()
    assert "arm" not in {*table.columns, *radpref.scores(study).columns, *radpref.conditions(study).columns}
    with refuses(NotFound, "none-such"):
        radpref.pairs(study, "none-such")


def test_every_public_name_is_documented_and_explained():
    page = (ROOT / "docs" / "notebook.md").read_text(encoding="utf-8")
    assert [name for name in radpref.__all__ if f"radpref.{name}(" not in page] == []
    assert [name for name in radpref.__all__ if not getattr(radpref, name).__doc__] == []


def test_a_mask_of_the_wrong_kind_is_refused(scored):
    study = radpref.open_study(scored)
    with refuses(InvalidInput, "spleen"):
        radpref.sample(study, masks={"spleen": np.ones((128, 128), dtype=bool)})
    with refuses(InvalidInput, "lungs", (7, 9)):
        radpref.sample(study, masks={"lungs": np.ones((7, 9), dtype=bool)})
    with pytest.raises(InvalidInput):
        radpref.sample(study)


def test_a_mask_is_followed(scored):
    study = radpref.open_study(scored)
    left, right = np.zeros((2, 128, 128), dtype=bool)
    left[30:100, 15:55], right[30:100, 75:115] = True, True
    images = [radpref.sample(study, masks={"lungs": mask}, n=1)[0] for mask in (left, right)]
    assert (images[0] != images[1]).any()


def test_importing_the_library_loads_neither_the_command_line_nor_torch():
    code = (
        "import sys, radpref, radpref.data.study.study\n"
        "print(sorted({'radpref.cli', 'typer', 'torch', 'scipy', 'gradio', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
