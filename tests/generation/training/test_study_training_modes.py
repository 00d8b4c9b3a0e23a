"""Whole trainings of a study: LoRA with a new ControlNet, plain diffusers reads the result, several processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from radpref.data.config.generation import TrainConfig
from radpref.data.core.errors import InvalidInput
from radpref.data.datasets.importing import import_records
from radpref.data.imaging.sheets import GAP
from radpref.data.study.conditions import record_conditions
from radpref.data.study.runs import finished_run, start_run
from radpref.data.study.study import Study
from radpref.generation.sampling.sets import run_sets
from radpref.generation.stack.conditions import hint_colours
from radpref.generation.stack.loading import load_stack
from radpref.generation.stack.models import save_stack, tiny_stack
from radpref.generation.stack.options import study_options
from radpref.generation.stack.places import find_model
from radpref.generation.training import loop
from radpref.generation.training.loop import TrainingLoop
from radpref.generation.training.request import check_training
from radpref.generation.training.study_corpus import read_images
from radpref.generation.training.study_training import run_config, run_train
from tests.support import ROOT
from tests.support.brought import save_brought
from tests.support.errors import refuses
from tests.support.training import study_corpus

MODEL = '[generator]\nmodel = "trained"\nn_steps = 2\n'
LORA_AND_NEW_CONTROLNET = """
[train]
start = "start"
vae_steps = 0
unet_steps = 3
control_steps = 3
batch_size = 4
variants = 1
unet = "lora"
lora_rank = 2
text_encoder = "frozen"
control = "new"
precision = "f32"
accumulation = 2
sheet_every = 2
sheet_images = 3
"""
SHARED = """
[train]
start = "start"
vae_steps = 1
unet_steps = 3
control_steps = 3
batch_size = 2
variants = 1
mix = [60, 0, 40]
precision = "f32"
warmup_steps = 0
log_every = 1
checkpoint_minutes = 1e-6
sheet_every = 2
sheet_images = 1
"""


STRUCTURES = ("lungs", "heart", "lesion", "pneumothorax")


def _study(tiny_study: Study, toml: str, structures: tuple[str, ...]) -> Study:
    with (tiny_study.root / "study.toml").open("a", encoding="utf-8") as file:
        file.write(MODEL + toml)
    save_stack(tiny_stack(0, size=64, structures=structures), tiny_study.root / "start")
    return Study(tiny_study.root)


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_lora_and_a_new_controlnet_are_trained_kept_and_read_by_plain_diffusers(tiny_study: Study) -> None:
    from diffusers import ControlNetModel, UNet2DConditionModel

    opened = _study(tiny_study, LORA_AND_NEW_CONTROLNET, structures=("lungs", "ribs"))
    result = run_train(opened, device="cpu")
    folder, run = Path(result["model"]), opened.root / "runs" / result["run_id"]
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    controlnet = ControlNetModel.from_pretrained(folder / "controlnet")
    assert controlnet.config.conditioning_channels == 4  # the start had two
    assert load_stack(folder).structures == ("lungs", "heart", "lesion", "pneumothorax")
    down, mid = controlnet(
        torch.zeros(1, 4, 16, 16),
        torch.tensor([7]),
        encoder_hidden_states=torch.zeros(1, 32, 32),
        controlnet_cond=torch.ones(1, 4, 64, 64),
        return_dict=False,
    )
    assert bool(mid.any())  # it learned something: a new one answers 0
    predicted = unet(
        torch.zeros(1, 4, 16, 16),
        torch.tensor([7]),
        encoder_hidden_states=torch.zeros(1, 32, 32),
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    assert predicted.shape == (1, 4, 16, 16)
    start = load_stack(opened.root / "start")
    adapter = load_file(folder / "unet_lora" / "pytorch_lora_weights.safetensors")
    assert adapter
    assert all(min(value.shape[:2]) == 2 for value in adapter.values())  # rank 2
    moved = {n for n, p in start.unet.named_parameters() if not torch.equal(p.half(), unet.state_dict()[n].half())}
    assert moved
    assert not any(name.endswith(("bias", "norm1.weight")) for name in moved)  # a LoRA has weights alone
    text = load_stack(folder).text_encoder.state_dict()
    assert all(torch.equal(p.half(), text[n].half()) for n, p in start.text_encoder.state_dict().items())
    assert (run / "masks" / "texts.npy").exists()  # a frozen text encoder reads each text once
    sheets = sorted(path.name for path in (run / "sheets").iterdir())
    assert sheets == ["masks-000002.png", "masks-000003.png", "text-000002.png", "text-000003.png"]
    with Image.open(run / "sheets" / "masks-000003.png") as sheet:
        assert sheet.size[0] == 3 * (128 + 128) + 5 * GAP  # three conditions beside each other: mask and image
    assert [line["step"] for line in _lines(run / "text") if "validation_loss" in line] == [2, 3]
    card = (folder / "README.md").read_text()
    for part in ("| text to image | 3 |", result["start_sha256"], "| unet | lora |", "| processes | 1 |", "f32"):
        assert part in card
    assert find_model(opened, "trained")["model_id"] == result["run_id"]
    assert run_sets(opened, n=2, mix=(50, 50, 0))["n_sets"] == 2
    opened.db.close()


def test_the_weights_of_the_lowest_validation_loss_are_kept_and_named(tiny_study: Study) -> None:
    toml = SHARED.replace("vae_steps = 1", "vae_steps = 0\nvae_batch_size = 8").replace("every = 2", "every = 1")
    opened = _study(
        tiny_study,
        toml + 'keep = "best"\nlearning_rate = 0.05\n',
        structures=("lungs", "heart", "lesion", "pneumothorax"),
    )
    result = run_train(opened, device="cpu")
    for stage in ("text", "masks"):
        losses = {
            line["step"]: line["validation_loss"]
            for line in _lines(opened.root / "runs" / result["run_id"] / stage)
            if "validation_loss" in line
        }
        assert set(losses) == {1, 2, 3}
        kept = result["stages"][stage]
        assert kept["kept_step"] == min(losses, key=losses.__getitem__)
        assert kept["kept_validation_loss"] == min(losses.values())
        assert f"(kept: {kept['kept_step']})" in (Path(result["model"]) / "README.md").read_text()
    opened.db.close()


def test_keeping_the_best_needs_validation_images(tiny_study: Study) -> None:
    opened = _study(
        tiny_study, '[train]\nstart = "start"\nkeep = "best"\n', structures=("lungs", "heart", "lesion", "pneumothorax")
    )
    with opened.db.write() as connection:
        connection.execute("UPDATE records SET split = 'test' WHERE split = 'val'")
    with refuses(InvalidInput, "caption", "last"):
        run_train(opened, device="cpu")
    with refuses(ValueError, "sheet_every", 0):
        TrainConfig(keep="best", sheet_every=0)
    opened.db.close()


@pytest.mark.parametrize(
    ("lacking", "toml", "named"),
    [
        ("captions", "", ("text", "caption")),
        ("captions", "unet_steps = 0\n", None),
        ("captions", 'unet = "frozen"\ntext_encoder = "frozen"\n', None),
        ("masks", "", ("mask", "none")),
        ("masks", 'control = "none"\n', None),
        ("masks", "control_steps = 0\n", None),
    ],
)
def test_the_best_of_a_stage_is_told_by_images_of_its_kind(tiny_study: Study, lacking, toml, named) -> None:
    with tiny_study.db.write() as connection:
        if lacking == "captions":
            connection.execute("UPDATE records SET caption = NULL WHERE split = 'val'")
        else:
            connection.execute(
                "DELETE FROM record_masks WHERE record_id IN (SELECT record_id FROM records WHERE split = 'val')"
            )
    file = tiny_study.root / "study.toml"
    file.write_text(f'{file.read_text()}\n[train]\nstart = "fresh"\nkeep = "best"\n{toml}')
    opened = Study(tiny_study.root)
    if named is None:
        check_training(opened)
    else:
        with refuses(InvalidInput, *named):
            check_training(opened)
    opened.db.close()


def test_masks_that_the_start_does_not_know_are_refused_before_a_run_is_made(tiny_study: Study) -> None:
    opened = _study(tiny_study, '[train]\nstart = "start"\n', structures=("lungs", "ribs"))
    with refuses(InvalidInput, ["heart", "lesion", "pneumothorax"], "train.control", "new"):
        run_train(opened, device="cpu")
    assert opened.db.value("SELECT count(*) FROM runs WHERE kind = 'train'") == 0
    opened.db.close()


def test_images_lie_on_disk_and_are_read_once(tiny_study: Study, tmp_path: Path, monkeypatch) -> None:
    structures = ("heart", "lungs")
    expected = study_corpus(tiny_study, structures, tmp_path / "other")
    corpus = study_corpus(tiny_study, structures, tmp_path)
    assert isinstance(corpus.images, np.memmap)
    assert isinstance(corpus.packed_masks, np.memmap)
    assert np.array_equal(corpus.images, expected.images)
    assert np.array_equal(corpus.images, read_images(tiny_study, record_conditions(tiny_study, "train")))
    assert np.array_equal(corpus.packed_masks, expected.packed_masks)
    assert corpus.fingerprint() == expected.fingerprint()
    monkeypatch.setattr(tiny_study.store, "image", lambda sha: pytest.fail("read again"))
    study_corpus(tiny_study, structures, tmp_path)
    with pytest.raises(BaseException, match="read again"):
        study_corpus(tiny_study, ("lungs",), tmp_path)  # other masks: not the arrays that are there


def test_runs_of_older_versions_are_recognised(tiny_study: Study) -> None:
    """The first versions recorded these keys alone, the next ones what differed from its default besides."""
    config = run_config(tiny_study, large=False, n_images=24)
    first = ("start", "vae_steps", "unet_steps", "control_steps", "batch_size", "learning_rate", "prompt_drop", "seed")
    old = {key: config[key] for key in (*first, "n_images", "structures")}
    assert (old["learning_rate"], old["start"], old["n_images"]) == (5e-4, "embedded", 24)
    with start_run(tiny_study, "train", old) as run:
        pass
    assert finished_run(tiny_study, "train", config).run_id == run.run_id
    assert finished_run(tiny_study, "train", {**config, "unet": "lora"}) is None


# ---- two processes


def _interrupt(opened: Study, monkeypatch: pytest.MonkeyPatch, n_steps: int) -> None:
    """Train in this process until `n_steps` steps are kept, then stop."""
    real, calls = TrainingLoop._one_step, list[int]()

    def stopping(self: TrainingLoop, *arguments: Any) -> int:
        if len(calls) == n_steps:
            raise KeyboardInterrupt
        calls.append(self.step)
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainingLoop, "_one_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_train(opened, device="cpu")


@pytest.mark.slow
def test_two_processes_train_what_one_trains_also_after_one_was_interrupted(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three text steps on is done by two processes, with one image each; so is the whole mask stage."""
    alone = _study(tiny_study, SHARED, structures=STRUCTURES)
    shutil.copytree(alone.root, tmp_path / "shared")
    expected = run_train(alone, device="cpu")
    shared = Study(tmp_path / "shared")
    _interrupt(shared, monkeypatch, n_steps=2)  # one of the autoencoder, one of the text
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "radpref", "generate", "train", "--device", "cpu", "--threads", "1", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--study", str(shared.root)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)  # one object: the other process says nothing
    assert (expected["processes"], result["processes"]) == (1, 2)
    for stage in ("text", "masks"):
        one = _lines(alone.root / "runs" / expected["run_id"] / stage)
        two = _lines(shared.root / "runs" / result["run_id"] / stage)
        for key in ("loss", "validation_loss"):
            losses = [[line[key] for line in lines if key in line] for lines in (one, two)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-4)
            assert len(losses[0]) == (3 if key == "loss" else 2)
        weights = [
            load_file(study.root / "runs" / run["run_id"] / stage / "checkpoint.safetensors")
            for study, run in ((alone, expected), (shared, result))
        ]
        assert set(weights[0]) == set(weights[1])  # also of networks that a process' own image did not use
        for name, value in weights[0].items():
            if name.endswith(".exp_avg"):
                torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-3)
            elif name.startswith("parameter."):
                torch.testing.assert_close(weights[1][name], value, atol=2e-4, rtol=1e-3)
    for study in (alone, shared):
        assert study.db.value("SELECT count(*) FROM models") == 1
        assert study.db.value("SELECT count(*) FROM runs WHERE kind = 'train' AND status = 'done'") == 1
        study.db.close()


# ---- brought models

BROUGHT = """
[generator]
model = "trained"
n_steps = 2

[train]
start = "brought"
vae_steps = 0
unet_steps = 2
control_steps = 2
batch_size = 4
variants = 1
unet = "lora"
lora_rank = 2
text_encoder = "frozen"
loss = "plain"
precision = "f32"
sheet_images = 2
"""


def _brought_study(root: Path, toml: str, **brought: Any) -> Study:
    data = '[data]\nimage_size = 32\nn_train = 6\nn_val = 3\nn_test = 0\nstructures = ["lungs", "heart"]\n'
    opened = Study.create(root, data + toml)
    import_records(opened)
    save_brought(opened.root / "brought", **brought)
    return opened


def test_a_brought_model_of_velocity_gets_a_lora_and_a_controlnet_of_its_own(tmp_path: Path) -> None:
    """Stable-Diffusion-2-like, v-prediction to zero signal; its ControlNet of five channels is not looked at."""
    opened = _brought_study(tmp_path / "study", BROUGHT + 'control = "new"\n', family="sd2", hint=5)
    result = run_train(opened, device="cpu")
    stack = load_stack(Path(result["model"]))
    assert (stack.prediction_type, stack.unconditional) == ("v_prediction", "empty_prompt")
    assert stack.structures == ("lungs", "heart")
    assert stack.controlnet is not None
    assert stack.controlnet.config.conditioning_channels == 2
    for stage in ("text", "masks"):
        last = _lines(opened.root / "runs" / result["run_id"] / stage)[-1]
        assert np.isfinite(last["validation_loss"])
    assert run_sets(opened, n=2, mix=(50, 50, 0))["n_sets"] == 2
    opened.db.close()


def test_a_brought_controlnet_that_does_not_fit_is_refused_with_the_way_out(tmp_path: Path) -> None:
    opened = _brought_study(tmp_path / "study", BROUGHT, hint=5)
    with refuses(InvalidInput, 5, "train.control", "new"):
        run_train(opened, device="cpu")
    opened.db.close()


def test_a_brought_controlnet_that_reads_colours_is_trained_further(tmp_path: Path) -> None:
    opened = _brought_study(tmp_path / "study", BROUGHT + "control_alone = true\n", hint=3)
    result = run_train(opened, device="cpu")
    before = load_stack(opened.root / "brought", options=study_options(opened)).controlnet
    after = load_stack(Path(result["model"])).controlnet
    assert before is not None
    assert after is not None
    assert len(hint_colours(after) or []) == 2
    moved = [n for n, p in before.named_parameters() if not torch.equal(p.half(), after.state_dict()[n].half())]
    assert moved
    opened.db.close()
