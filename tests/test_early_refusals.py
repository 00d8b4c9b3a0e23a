"""What study.toml, database and disk can tell is refused before torch is loaded: it takes seconds to load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from radpref.data.study.study import Study
from tests.support import ROOT
from tests.support.errors import refuses

CASES = """
empty   | generate check no/such/model                         | no generator at
none    | generate check nothing                               | no generator at
none    | generate check trained                               | 'trained' is the model of a study
none    | generate check                                       | no study at
lost    | generate check                                       | no generator at
empty   | generate train                                       | split 'train' holds no record
tiny    | generate train --device banana                       | device 'banana' is unknown
none    | generate train --embedded --device banana            | device 'banana' is unknown
silent  | generate train                                       | has a caption or a mask
lost    | generate train                                       | no generator at
tiny    | generate train                                       | data.image_size = 64, but the generator makes 128
fresh   | generate train                                       | vae_steps = 0 leaves a random autoencoder
empty   | generate networks                                    | split 'train' holds no record
tiny    | generate sets --arms a,b,c                           | give one arm, or two different ones
tiny    | generate sets --mix 50/40/0                          | must be three percentages that sum to 100
tiny    | generate sets --arms baseline,nobody                 | no arm 'nobody'
lost    | generate sets                                        | no generator at
empty   | generate sets                                        | split 'val' holds no record
silent  | generate sets                                        | has captions for T2I sets
bare    | generate sets                                        | cannot draw M2I and TM2I sets: ask for texts only
bare    | generate pool --arm baseline                         | cannot draw the pool of task 'pneumothorax'
tiny    | generate pool --arm nobody                           | no arm 'nobody'
tiny    | generate pool --task nothing                         | unknown task in nothing
tiny    | generate pool --arm real_balanced                    | have no synthetic images
tiny    | generate pool --engine steam                         | --engine steam
tiny    | generate pool --device tpu                           | device 'tpu' is unknown
tiny    | generate pool --n 4 --multiple 2                     | give one of them
empty   | generate pool --arm baseline                         | no training record
tiny    | generate fidelity --against nowhere                  | choose val, train or test
tiny    | generate fidelity --network mine                     | choose one of auto
tiny    | generate fidelity --arm nobody                       | no arm 'nobody'
tiny    | generate fidelity --images no/such/folder            | no folder
empty   | generate fidelity                                    | split 'train' holds no record
silent  | generate fidelity                                    | to sample from
tiny    | generate share out --name x --structures lungs --credits README.md | no finished run of kind 'train'
tiny    | align pairs                                          | no submitted scores
tiny    | align train                                          | no preference pairs
tiny    | align train --pairs-run mine                         | no pairs run 'mine'
tiny    | align train --steps 0                                | n_steps is 0
tiny    | align train --device tpu                             | device 'tpu' is unknown
tiny    | align train --arm baseline                           | arm name 'baseline' is not usable
tiny    | align proxy --arm mine                               | the proxy makes
tiny    | align proxy --steps 0                                | n_steps is 0
lost    | align proxy                                          | no generator at
tiny    | align evaluate                                       | no trained arm
tiny    | align evaluate --arm nobody                          | no arm 'nobody'
tiny    | align evaluate --arm baseline --judge nobody         | no measuring network 'nobody'
tiny    | align evaluate --arm baseline --device tpu           | device 'tpu' is unknown
tiny    | annotate simulate                                    | no finished sets
"""
PROGRAM = """
import contextlib, io, json, sys
from radpref import cli
found = []
for words in json.load(sys.stdin):
    sys.argv = ["radpref", *words]
    told, code = io.StringIO(), None
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code
    found.append([code, told.getvalue(), sorted({"torch", "diffusers", "transformers"} & set(sys.modules))])
print(json.dumps(found))
"""


def changed(study: Study, toml: str) -> None:
    file = study.root / "study.toml"
    file.write_text(file.read_text() + toml)


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory, _tiny_template: Path) -> list[tuple[str, str, list[object]]]:
    """Every case, run one after the other in a process of its own: (line, expected words, [code, told, loaded])."""
    import shutil

    root = tmp_path_factory.mktemp("studies")
    for name in ("tiny", "silent", "lost", "fresh", "bare"):
        shutil.copytree(_tiny_template, root / name)
    Study.create(root / "empty", "[data]\nimage_size = 64\n").db.close()
    changed(Study(root / "lost"), '[generator]\nmodel = "gone"\n[train]\nstart = "gone"\n')
    changed(Study(root / "fresh"), '[train]\nstart = "fresh"\nvae_steps = 0\n')
    (root / "bare" / "stack").mkdir()
    changed(Study(root / "bare"), '[generator]\nmodel = "stack"\n')
    silent = Study(root / "silent")
    with silent.db.write() as connection:
        connection.execute("UPDATE records SET caption = NULL")
        connection.execute("DELETE FROM record_masks")
    silent.db.close()
    cases = [[part.strip() for part in line.split("|")] for line in CASES.strip().splitlines()]
    given = [[*words.split(), "--study", str(root / study)] for study, words, _ in cases]
    here = ROOT
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=here, input=json.dumps(given), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    left = [
        Study(root / name).db.value("SELECT count(*) FROM runs WHERE status = 'running'") for name in ("tiny", "lost")
    ]
    assert left == [0, 0]  # nor does a refused command leave a run
    return [(f"{c[0]}: {c[1]}", c[2], answer) for c, answer in zip(cases, json.loads(done.stdout), strict=True)]


def test_every_refusal_is_one_line_and_exit_code_2(refusals):
    wrong = [
        (line, told)
        for line, words, (code, told, _) in refusals
        if code != 2 or words not in told or told.count("\n") != 1
    ]
    assert wrong == []


def test_none_of_them_has_loaded_torch(refusals):
    assert [(line, loaded) for line, _, (_, _, loaded) in refusals if loaded] == []


def test_a_device_is_looked_for_before_the_run_is_opened(tiny_study, monkeypatch):
    """`cuda` is a word, but no device of this machine: nothing is left behind."""
    import torch

    from radpref.alignment.training import preference_arms as arms
    from radpref.data.core.errors import InvalidInput

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(arms, "training_request", lambda study, arm, **options: SimpleNamespace(study=study, **options))
    with refuses(InvalidInput, "cuda", "--device"):
        arms.run_align(tiny_study, device="cuda")
    assert tiny_study.db.value("SELECT count(*) FROM runs WHERE kind = 'align'") == 0
