"""A brought v-prediction model with an RGB ControlNet through all of the code: check, sample, align, pool."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from radpref.alignment.preferences.pairs import find_pairs_run, run_pairs
from radpref.alignment.preferences.preference_sets import encode_sets, read_sets
from radpref.alignment.training import held_out, watch
from radpref.alignment.training import preference_arms as arms
from radpref.alignment.training.losses import to_epsilon
from radpref.alignment.training.policy import make_policy
from radpref.data.config.generation import GeneratorConfig
from radpref.data.config.study_config import load_config
from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.study.runs import latest_run
from radpref.data.study.study import Study
from radpref.generation.cli import app
from radpref.generation.pools.pool import run_pool
from radpref.generation.sampling.model_check import run_check
from radpref.generation.sampling.sets import run_sets
from radpref.generation.stack.adapters import arm_identity, load_arm
from radpref.generation.stack.conditions import hint_colours
from tests.support import ROOT
from tests.support import alignment as support
from tests.support.brought import save_brought
from tests.support.errors import refuses

EXAMPLES = ROOT / "docs" / "examples"
TOML = (
    support.TOML.replace('model = "generator"', 'model = "brought"\nhint = "rgb"\npalette = { heart = "#00ff00" }')
    + """
[downstream]
fractions = [1.0]
multiples = [1]
arms = ["baseline", "aligned"]

[[downstream.tasks]]
name = "effusion"
kind = "binary"
labels = ["pleural_effusion"]

[[downstream.tasks]]
name = "outline"
kind = "segmentation"
structure = "lungs"
"""
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of a brought model whose sets are rated by two simulated raters."""
    made = support.make_study(tmp_path_factory.mktemp("brought"), TOML)
    save_brought(made.root / "brought", "sd2", hint=3)
    support.add_records(made, 12)
    support.add_records(made, 4, "train")
    support.add_sets(made, ("T2I", "M2I", "TM2I", "TM2I", "T2I", "M2I"))
    support.add_scores(made, "sim-a", lambda _set, slot, _criterion: slot + 1, kind="simulated")
    run_pairs(made)
    return made


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "N_PROMPTS", 1)
    monkeypatch.setattr(watch, "IMAGES_PER_PROMPT", 2)
    monkeypatch.setattr(held_out, "HELD_OUT_DRAWS", 1)


def test_sets_of_all_three_modes_are_sampled(study: Study) -> None:
    result = run_sets(study, n=4)
    assert result["modes"] == {"T2I": 2, "M2I": 1, "TM2I": 1}
    images = study.db.rows("SELECT image_sha FROM set_images JOIN image_sets USING (set_id) WHERE run_id = ?",
                           [result["run_id"]])  # fmt: skip
    assert len({row["image_sha"] for row in images}) == 16
    assert study.store.image(str(images[0]["image_sha"])).shape == (32, 32)


def test_preference_errors_are_those_of_the_noise_though_the_model_predicts_v(study: Study) -> None:
    stack = load_arm(study)
    assert stack.prediction_type == "v_prediction"
    sets = encode_sets(study, stack, read_sets(study, find_pairs_run(study).run_id, stack.structures))["train"]
    policy = make_policy(stack, rank=2, seed=0, train_controlnet=True)
    batch = sets.conditions.select([0])
    latents, steps = sets.latents[0, :1], torch.tensor([400])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noisy, alpha = policy.add_noise(latents, noise, steps), stack.scheduler.alphas_cumprod[400]
    measured = policy.reference_noise_pred(noisy, steps, batch)
    from radpref.generation.stack.conditions import predict_noise

    with torch.no_grad():
        v = predict_noise(stack.unet, policy.reference_controlnet, noisy, steps, batch)
    implied = alpha.sqrt() * v + (1 - alpha).sqrt() * noisy
    torch.testing.assert_close(measured, implied)
    perfect = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    torch.testing.assert_close(to_epsilon(perfect, noisy, alpha[None], "v_prediction"), noise, atol=1e-5, rtol=1e-4)


def test_alignment_and_pools_run_on_it_as_on_our_own(study: Study) -> None:
    result = arms.run_align(study, n_steps=1)
    assert result["train_controlnet"]
    lines = latest_run(study, "align").metrics()  # type: ignore[union-attr]
    assert [line["step"] for line in lines] == [1]
    assert lines[0]["loss"] == pytest.approx(np.log(2), abs=0.05)
    aligned = load_arm(study, "aligned")
    assert aligned.controlnet is not None
    assert hint_colours(aligned.controlnet) == [[0, 0, 255], [0, 255, 0]]  # the trained copy remembers its colours
    counts = run_pool(study)["images"]
    assert set(counts) == {"effusion/baseline", "effusion/aligned", "outline/baseline", "outline/aligned"}
    assert all(count == 4 for count in counts.values())
    assert study.db.value("SELECT count(*) FROM pool_images") == 16


def test_check_names_what_was_found_and_draws_every_mode(study: Study, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", "--study", str(study.root), "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["prediction_type"], found["zero_terminal_snr"]) == ("v_prediction", True)
    assert (found["image_size"], found["latents"], found["unconditional"]) == (32, "4x8x8", "empty_prompt")
    assert (found["hint"], found["colours"]) == ("rgb", {"lungs": "#0000ff", "heart": "#00ff00"})
    assert set(found["parameters"]) == {"vae", "unet", "text_encoder", "controlnet"}
    assert set(found["test_images"]) == {"T2I", "M2I", "TM2I"}
    for mode in found["test_images"]:
        image = np.asarray(Image.open(tmp_path / f"{mode}.png"))
        assert image.shape == (32, 32)
        assert image.std() == pytest.approx(found["test_images"][mode]["deviation"], rel=1e-3)


def test_check_needs_no_study_where_a_model_is_named(tmp_path: Path) -> None:
    folder = save_brought(tmp_path / "sd1")
    found = run_check(tmp_path, str(folder))
    assert found["hint"] == "none (no ControlNet: T2I only)"
    assert set(found["test_images"]) == {"T2I"}
    assert "notes" not in found
    with refuses(NotFound, "study.toml", "study new"):
        run_check(tmp_path)
    with refuses(NotFound, "nobody/Nothing"):
        run_check(tmp_path, "nobody/Nothing")
    with refuses(InvalidInput, "--study", "trained"):
        run_check(tmp_path, "trained")


def test_a_hub_model_is_found_in_the_local_cache_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    home = tmp_path / "hub" / "models--someone--Model"
    save_brought(home / "snapshots" / ("a" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    made = Study.create(tmp_path / "study", 'name = "s"\n[generator]\nmodel = "someone/Model"\n')
    assert load_arm(made).image_size == 32
    assert len(arm_identity(made, "baseline")) == 64


def test_check_notes_what_is_probably_not_meant(tmp_path: Path) -> None:
    made = Study.create(tmp_path / "study", 'name = "s"\n[generator]\nmodel = "model"\n')
    save_brought(made.root / "model")
    notes = " ".join(run_check(made.root)["notes"])
    assert "data.image_size is 128" in notes
    assert "sets.mix = [100, 0, 0]" in notes


def test_check_refuses_values_that_are_not_finite(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_brought(tmp_path / "sd1")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["conv_out.bias"].fill_(float("nan"))
    save_file(state, file, {"format": "pt"})
    with refuses(InvalidInput, "T2I", "sd1"):
        run_check(tmp_path, str(folder))


def test_what_study_toml_adds_counts_in_the_identity_and_runs_of_old_studies_are_found_again(
    study: Study, tmp_path: Path
) -> None:
    before = arm_identity(study, "baseline")
    text = (study.root / "study.toml").read_text()
    try:
        (study.root / "study.toml").write_text(text.replace("#00ff00", "#00fe00"))
        assert arm_identity(Study(study.root), "baseline") != before
    finally:
        (study.root / "study.toml").write_text(text)
    assert arm_identity(Study(study.root), "baseline") == before
    stored = study.config.generator.model_dump(mode="json")
    old = ("model", "n_steps", "guidance_scale", "batch_size", "precision", "seed", "hint", "palette")
    older = {key: stored[key] for key in old}  # what is not at its default
    assert GeneratorConfig.completed(older) == stored
    assert GeneratorConfig.completed({**older, "hint": "channels"}) != stored


def test_the_example_of_roentgen_v2_is_a_study_toml() -> None:
    config = load_config(EXAMPLES / "roentgen-v2.toml")
    assert config.generator.model == "stanfordmimi/RoentGen-v2"
    assert (config.generator.n_steps, config.generator.guidance_scale) == (75, 3.0)
    assert config.data.image_size == 512
    assert config.align.beta == 5000
