"""The loop: parts, checkpointing, averages, resume, the loss scaler, observations, and what stops it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from radpref.data.core.errors import InvalidInput, RadprefError
from radpref.generation.stack.adapters import attach_lora, lora_parameters, merge_lora
from radpref.generation.stack.conditions import ConditionBatch
from radpref.generation.stack.models import GeneratorStack, tiny_stack
from radpref.generation.training import unet_training
from radpref.generation.training.averages import best_observation
from radpref.generation.training.checkpoints import CHECKPOINT
from radpref.generation.training.compute import Compute
from radpref.generation.training.latents import LatentCorpus, encode_corpus
from radpref.generation.training.loop import Budget, Observe, TrainingLoop
from radpref.generation.training.unet_training import TrainSettings, draw_batch, train
from tests.support.errors import refuses
from tests.support.training import FAST, MIXED, SAVED_EACH_STEP, interrupted_after, moved_networks, training_corpus

CONTROL_ALONE = replace(MIXED, unet_rate=0.0, text_rate=0.0, mode_mix=(0.0, 1.0, 0.0))


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> LatentCorpus:
    return encode_corpus(tiny_stack(0), training_corpus(), tmp_path_factory.mktemp("latents"))


def _parameters(stack: GeneratorStack) -> Tensor:
    return torch.cat([p.detach().flatten() for module in stack.modules().values() for p in module.parameters()])


def _loop(model: torch.nn.Module, folder: Path, n_steps: int = 4, **options: object) -> TrainingLoop:
    settings = replace(FAST, warmup_steps=0, **options)  # type: ignore[arg-type]
    return TrainingLoop(folder, [(list(model.parameters()), 1.0)], torch.Generator(), Budget(n_steps), settings)


def _line(weight: float = 1.0) -> torch.nn.Linear:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, weight)
    return model


def _interrupt(loop: TrainingLoop, model: torch.nn.Linear, n_steps: int | None, observe: Observe | None = None) -> None:
    """Run the loop; where `n_steps` is given, it is interrupted in the step after so many."""

    def parts(step: int, progress: float) -> list[tuple[Tensor, int]]:
        del progress
        if step == n_steps:
            raise KeyboardInterrupt
        return [(model.weight.sum(), 1)]

    with nullcontext() if n_steps is None else pytest.raises(KeyboardInterrupt):
        loop.run(parts, observe)


# ---- the same step, whatever it costs


@pytest.mark.parametrize("how", [{"accumulation": 4}, {"accumulation": 2, "checkpointing": True}])
def test_parts_and_checkpointing_give_the_same_steps(latents: LatentCorpus, tmp_path: Path, how: dict) -> None:
    """Gradients are compared: where they are nearly 0, Adam's first steps turn rounding into steps of full size."""
    found = []
    for name, settings in (("whole", MIXED), ("other", replace(MIXED, **how))):
        stack = tiny_stack(0)
        train(stack, latents, tmp_path / name, Budget(n_steps=2), settings, seed=3)
        stored = load_file(tmp_path / name / CHECKPOINT)
        found.append(torch.cat([stored[key].flatten() for key in sorted(stored) if key.endswith(".exp_avg")]))
        assert stack.unet.is_gradient_checkpointing is settings.checkpointing
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-3)
    assert float(found[0].abs().max()) > 1e-3
    losses = [(tmp_path / name / "metrics.jsonl").read_text().split('"loss": ')[1][:6] for name in ("whole", "other")]
    assert losses[0] == losses[1]


def test_a_batch_that_the_parts_do_not_divide_is_refused(latents: LatentCorpus, tmp_path: Path) -> None:
    with refuses(InvalidInput, "batch_size", 4):
        train(tiny_stack(0), latents, tmp_path, Budget(n_steps=1), replace(MIXED, accumulation=3))


def test_cached_texts_train_like_encoded_ones(latents: LatentCorpus, tmp_path: Path, monkeypatch) -> None:
    frozen = replace(MIXED, text_rate=0.0)
    expected = train(tiny_stack(0), latents, tmp_path / "a", Budget(n_steps=2), frozen, seed=3)
    cached = train(tiny_stack(0), latents, tmp_path / "b", Budget(n_steps=2), replace(frozen, cache_text=True), seed=3)
    torch.testing.assert_close(_parameters(cached), _parameters(expected), atol=1e-3, rtol=1e-2)
    assert (tmp_path / "b" / "texts.npy").exists()
    stack = tiny_stack(0)
    monkeypatch.setattr(stack.text_encoder, "forward", lambda **_: pytest.fail("encoded again"))
    train(stack, latents, tmp_path / "b", Budget(n_steps=2), replace(frozen, cache_text=True), seed=3)


# ---- what is trained


def test_the_controlnet_alone_is_trained_on_masks_alone(latents: LatentCorpus, tmp_path: Path) -> None:
    before, after = tiny_stack(0), tiny_stack(0)
    train(after, latents, tmp_path, Budget(n_steps=2), CONTROL_ALONE, seed=1)
    assert moved_networks(before, after) == {"controlnet"}


def test_a_lora_is_trained_alone_and_merges(latents: LatentCorpus, tmp_path: Path) -> None:
    stack, before = tiny_stack(0), tiny_stack(0)
    attach_lora(stack.unet, 4, seed=1)
    text = replace(MIXED, mode_mix=(1.0, 0.0, 0.0), text_rate=0.0, control_rate=0.0)
    train(stack, latents, tmp_path, Budget(n_steps=3), text, seed=1)
    n_trained = sum(name.startswith("parameter.") for name in load_file(tmp_path / CHECKPOINT))
    assert n_trained == len(lora_parameters(stack.unet))
    base = {name.replace(".base_layer", ""): p for name, p in stack.unet.named_parameters() if "lora_" not in name}
    assert all(torch.equal(p, base[name]) for name, p in before.unet.named_parameters())
    merge_lora(stack.unet)
    assert moved_networks(before, stack) == {"unet"}


def test_models_of_velocity_are_trained_on_velocity(latents: LatentCorpus, tmp_path: Path, monkeypatch) -> None:
    stack = tiny_stack(0)
    stack.scheduler.register_to_config(prediction_type="v_prediction")
    plain = TrainSettings(batch_size=4, min_snr_gamma=None, coarse_weight=0.0, precision="f32", loop=FAST)
    objective = unet_training.NoiseObjective(stack, latents, plain, Compute(), None)
    draw = draw_batch(latents, plain, torch.Generator().manual_seed(0))
    clean = torch.from_numpy(np.asarray(latents.latents[draw.rows])).float()
    alpha = stack.scheduler.alphas_cumprod[draw.timesteps].view(-1, 1, 1, 1)
    velocity = alpha.sqrt() * draw.noise - (1 - alpha).sqrt() * clean  # Salimans & Ho 2022

    def perfect(unet: object, control: object, noisy: Tensor, steps: Tensor, batch: ConditionBatch) -> Tensor:
        return velocity

    monkeypatch.setattr(unet_training, "predict_noise", perfect)
    assert float(objective.loss(draw, slice(0, 4))) == pytest.approx(0.0, abs=1e-9)
    stack.scheduler.register_to_config(prediction_type="epsilon")
    assert float(objective.loss(draw, slice(0, 4))) > 0.1


def test_dropped_texts_become_what_the_model_knows_as_none(latents: LatentCorpus) -> None:
    settings = replace(MIXED, batch_size=200, mode_mix=(0.5, 0.5, 0.0), text_drop=0.5)
    zero = draw_batch(latents, settings, torch.Generator().manual_seed(0))
    brought = replace(latents, texts=(*latents.texts, ""), empty_id=len(latents.texts))
    empty = draw_batch(brought, settings, torch.Generator().manual_seed(0))
    dropped = (empty.text_ids == brought.empty_id) & (empty.text_present > 0)
    assert 20 < int(dropped.sum()) < 80  # a quarter: half of the texts of the half that has any
    assert torch.equal(zero.text_present.bool(), empty.text_present.bool() & ~dropped)
    assert not empty.text_present[empty.keep.any(dim=1)].any()  # masks without text stay without


# ---- averages and resume


def test_without_an_average_the_last_weights_are_kept(tmp_path: Path) -> None:
    model = _line()
    loop = _loop(model, tmp_path, ema_decay=0.0)
    loop.run(lambda step, progress: [(model.weight.sum(), 1)])
    last = model.weight.clone()
    loop.ema.copy_to_model()
    assert torch.equal(model.weight, last)
    assert not any(name.startswith("ema.") for name in load_file(tmp_path / CHECKPOINT))
    averaged = _line()
    loop = _loop(averaged, tmp_path / "ema")
    loop.run(lambda step, progress: [(averaged.weight.sum(), 1)])
    assert torch.equal(averaged.weight, last)
    loop.ema.copy_to_model()
    assert averaged.weight.item() > last.item()  # weights fell all the time: the average lags behind


def test_interrupted_lora_training_in_parts_equals_uninterrupted(latents: LatentCorpus, tmp_path: Path) -> None:
    settings = replace(MIXED, accumulation=2, precision="bf16", loop=replace(SAVED_EACH_STEP, ema_decay=0.0))

    def run(folder: str) -> Tensor:
        stack = tiny_stack(0)
        attach_lora(stack.unet, 2, seed=1)
        return _parameters(train(stack, latents, tmp_path / folder, Budget(n_steps=2), settings, seed=3))

    with interrupted_after(1), pytest.raises(KeyboardInterrupt):
        run("parts")
    assert torch.equal(run("whole"), run("parts"))


def test_lines_of_steps_after_the_checkpoint_are_made_again_not_doubled(tmp_path: Path) -> None:
    model = _line()
    _interrupt(_loop(model, tmp_path, log_every=1, checkpoint_s=-1.0), model, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 0.5}\n{"step": 4, "lo')  # logged, then killed before the next checkpoint
    _loop(model, tmp_path, log_every=1).run(lambda step, progress: [(model.weight.sum(), 1)])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_a_checkpoint_of_other_shapes_is_refused(tmp_path: Path) -> None:
    _loop(torch.nn.Linear(2, 2), tmp_path).save()
    with refuses(InvalidInput, "checkpoint.safetensors"):
        _loop(torch.nn.Linear(3, 2), tmp_path)


def test_a_finished_stage_is_not_written_again(tmp_path: Path) -> None:
    model = _line()
    _loop(model, tmp_path).run(lambda step, progress: [(model.weight.sum(), 1)])
    stamp = (tmp_path / CHECKPOINT).stat().st_mtime_ns
    loop = _loop(model, tmp_path)
    loop.run(lambda step, progress: pytest.fail("trained again"))
    assert (tmp_path / CHECKPOINT).stat().st_mtime_ns == stamp


def test_several_processes_need_a_budget_in_steps(tmp_path: Path) -> None:
    model = _line()
    with refuses(InvalidInput, "minutes"):
        TrainingLoop(
            tmp_path,
            [(list(model.parameters()), 1.0)],
            torch.Generator(),
            Budget(minutes=1),
            FAST,
            Compute(world=2),
        )


# ---- the loss scaler of fp16, as torch has it for the CPU


class _Scaled(Compute):
    def scaler(self, precision: object) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)


def test_scaled_losses_step_like_unscaled_ones_overflows_are_skipped_and_the_scale_resumes(tmp_path: Path) -> None:
    def run(compute: Compute, folder: Path, factor: float = 1.0) -> tuple[TrainingLoop, float]:
        model = _line()
        groups = [(list(model.parameters()), 1.0)]
        loop = TrainingLoop(folder, groups, torch.Generator(), Budget(n_steps=3), replace(FAST, ema_decay=0), compute)
        loop.run(lambda step, progress: [(factor * model.weight.square().sum(), 1)])
        return loop, model.weight.item()

    scaled, weight = run(_Scaled(), tmp_path / "a")
    assert weight == pytest.approx(run(Compute(), tmp_path / "b")[1], rel=1e-6)
    assert scaled.scaler is not None
    assert scaled.scaler.get_scale() == 2048.0  # grown once after two good steps
    again, _ = run(_Scaled(), tmp_path / "a")
    assert again.scaler is not None
    assert again.scaler.get_scale() == 2048.0
    overflown, unmoved = run(_Scaled(), tmp_path / "c", factor=1e36)  # finite loss, infinite scaled gradient
    assert unmoved == 1.0
    assert overflown.scaler is not None
    assert overflown.scaler.get_scale() == 128.0


# ---- what is looked at, and what stops the run


def test_observations_come_at_their_steps_and_at_the_end_with_averaged_weights(tmp_path: Path) -> None:
    model = _line()
    seen: list[tuple[int, float]] = []

    def observe(step: int) -> dict[str, float]:
        seen.append((step, model.weight.item()))
        return {"validation_loss": 1.0}

    loop = _loop(model, tmp_path, n_steps=5, observe_every=2, log_every=5)
    loop.run(lambda step, progress: [(model.weight.sum(), 1)], observe=observe)
    assert [step for step, _ in seen] == [2, 4, 5]
    assert all(value > model.weight.item() for _, value in seen)  # the average lags behind
    assert float(loop.ema.shadow[0]) == seen[-1][1]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation_loss" in line] == [2, 4, 5]


@pytest.mark.parametrize("interrupted", [None, 3, 5])
def test_the_weights_of_the_lowest_observation_are_kept_also_after_an_interruption(
    tmp_path: Path, interrupted: int | None
) -> None:
    figures = {2: 0.5, 4: 0.3, 6: 0.4, 7: 0.6}
    seen: dict[int, float] = {}

    def run(stop_after: int | None) -> tuple[TrainingLoop, torch.nn.Linear]:
        model = _line()
        loop = _loop(model, tmp_path, n_steps=7, observe_every=2, keep_best="validation_loss", checkpoint_s=-1.0)

        def observe(step: int) -> dict[str, float]:
            seen[step] = model.weight.item()
            return {"validation_loss": figures[step]}

        _interrupt(loop, model, stop_after, observe)
        return loop, model

    if interrupted is not None:
        run(interrupted)
    loop, model = run(None)
    loop.keep()
    assert best_observation(tmp_path) == (0.3, 4)
    assert model.weight.item() == seen[4] != seen[7]


def test_without_a_deciding_figure_the_last_average_is_kept(tmp_path: Path) -> None:
    model = _line()
    loop = _loop(model, tmp_path, n_steps=3, observe_every=1)
    loop.run(lambda step, progress: [(model.weight.sum(), 1)], observe=lambda step: {"validation_loss": float(step)})
    loop.keep()
    assert model.weight.item() == float(loop.ema.shadow[0])
    assert best_observation(tmp_path) is None


def test_a_loss_that_is_no_number_is_never_saved(tmp_path: Path) -> None:
    model = _line()
    loop = _loop(model, tmp_path, n_steps=9, observe_every=2, log_every=100)
    with refuses(InvalidInput, "nan", 4):
        loop.run(lambda step, progress: [(model.weight.sum() * (1.0 if step < 3 else float("nan")), 1)])
    assert torch.isfinite(load_file(tmp_path / CHECKPOINT)["parameter.0"]).all()


def test_out_of_memory_is_one_line(tmp_path: Path) -> None:
    def parts(step: int, progress: float) -> list[tuple[Tensor, int]]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with refuses(RadprefError, "train.checkpointing"):
        _loop(_line(), tmp_path).run(parts)
