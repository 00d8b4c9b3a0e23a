"""LoRA and ControlNet of an arm: no effect at first, exact reference, round trip, merging, the models table."""

import copy
import logging
import shutil

import pytest
import torch

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.generation.stack import adapters
from radpref.generation.stack.conditions import Condition, encode_conditions, predict_noise
from radpref.generation.stack.models import save_stack, tiny_stack
from tests.support.errors import refuses


def _inputs(stack, n=3):
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(n, *stack.latent_shape, generator=generator)
    mask = torch.zeros(len(stack.structures), 32, 32, dtype=torch.bool).numpy()
    mask[0, 4:20, 4:20] = True
    batch = encode_conditions(stack, [Condition("normal"), Condition(None, mask), Condition("normal", mask)][:n])
    return latents, torch.tensor([10, 400, 900])[:n], batch


def _predict(stack):
    latents, steps, batch = _inputs(stack)
    with torch.no_grad():
        return predict_noise(stack.unet, stack.controlnet, latents, steps, batch)


def _disturb(stack, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.lora_parameters(stack.unet).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def test_fresh_lora_has_no_effect_and_is_reproducible():
    stack, other = tiny_stack(0), tiny_stack(0)
    before = _predict(stack)
    state = torch.get_rng_state()
    first, second = (adapters.attach_lora(s.unet, 4, seed=3) for s in (stack, other))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    assert torch.equal(_predict(stack), before)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    trainable = [name for name, p in stack.unet.named_parameters() if p.requires_grad]
    assert sorted(trainable) == list(first)
    with refuses(Conflict, "preference"):
        adapters.attach_lora(stack.unet, 4, seed=3)


def test_lora_covers_attention_feed_forward_projection_convolution_and_time():
    stack = tiny_stack(0)
    names = " ".join(adapters.attach_lora(stack.unet, 2, seed=0))
    for part in ("to_q", "to_out.0", "net.0.proj", "net.2", "proj_in", "proj_out", "conv1", "conv2", "time_emb_proj"):
        assert f".{part}." in names, part


def test_adapters_off_is_the_reference_exactly():
    stack = tiny_stack(0)
    before = _predict(stack)
    adapters.attach_lora(stack.unet, 4, seed=0)
    _disturb(stack)
    changed = _predict(stack)
    assert not torch.allclose(changed, before)
    with adapters.adapters_off(stack.unet):
        assert torch.equal(_predict(stack), before)
    assert torch.equal(_predict(stack), changed)


def test_trainable_copy_leaves_the_reference_alone():
    stack = tiny_stack(0)
    duplicate = adapters.trainable_copy(stack.controlnet)
    with torch.no_grad():
        next(duplicate.parameters()).add_(1)
    assert not torch.equal(next(duplicate.parameters()), next(stack.controlnet.parameters()))
    assert all(p.requires_grad for p in duplicate.parameters())


def test_round_trip(tmp_path):
    stack = tiny_stack(0)
    adapters.attach_lora(stack.unet, 4, seed=0)
    _disturb(stack)
    with torch.no_grad():
        for parameter in stack.controlnet.parameters():
            parameter.add_(0.01)
    expected = _predict(stack)
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # diffusers' logger does not propagate
    logging.getLogger("diffusers").addHandler(handler)
    try:
        sha = adapters.save_adapters(stack, tmp_path / "m", with_controlnet=True, card="# card\n")
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert said == []
    assert len(sha) == 64
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"README.md", "unet_lora", "controlnet"}
    assert not list((tmp_path / "m").rglob("*.bin"))
    loaded = adapters.load_adapters(tiny_stack(0), tmp_path / "m")
    assert torch.allclose(_predict(loaded), expected, atol=1e-4)
    assert not adapters.lora_parameters(loaded.unet)
    assert not any(p.requires_grad for p in loaded.unet.parameters())


def test_missing_or_foreign_adapters_are_one_line_errors(tmp_path):
    with refuses(NotFound, "align train"):
        adapters.load_adapters(tiny_stack(0), tmp_path)
    stack = tiny_stack(0)
    adapters.attach_lora(stack.unet, 4, seed=0)
    adapters.save_adapters(stack, tmp_path / "m", with_controlnet=False, card="")
    (tmp_path / "m" / "unet_lora" / adapters.LORA_FILE).write_bytes(b"\x08\0\0\0\0\0\0\0{}junk..")
    with pytest.raises((InvalidInput, NotFound)):
        adapters.load_adapters(tiny_stack(0), tmp_path / "m")


def test_arms_of_a_study(tmp_path):
    from radpref.data.study.runs import start_run
    from radpref.data.study.study import Study

    study = Study.create(tmp_path / "s", '[generator]\nmodel = "generator"\n')
    save_stack(tiny_stack(0), study.root / "generator")
    base = _predict(adapters.load_arm(study))
    with refuses(NotFound, "aligned", "baseline"):
        adapters.load_arm(study, "aligned")
    stack = tiny_stack(0)
    adapters.attach_lora(stack.unet, 4, seed=0)
    _disturb(stack)
    with start_run(study, "align", {}) as run:
        sha = adapters.save_adapters(stack, run.model_folder, with_controlnet=False, card="# card\n")
        adapters.register_model(study, run.run_id, "aligned", sha, {"n_steps": 1})
        adapters.register_model(study, run.run_id, "aligned", sha, {"n_steps": 1})
    assert torch.equal(_predict(adapters.load_arm(study, "baseline")), base)
    arm = _predict(adapters.load_arm(study, "aligned"))
    assert not torch.allclose(arm, base)
    assert torch.equal(_predict(adapters.load_arm(study, run.run_id)), arm)
    assert adapters.arm_identity(study, "aligned") == f"{adapters.arm_identity(study, 'baseline')}+{sha}"
    with refuses(InvalidInput, "baseline"):
        adapters.register_model(study, run.run_id, "baseline", sha, {})


def test_deepcopied_stack_is_untouched_by_adapters():
    stack = tiny_stack(0)
    twin = copy.deepcopy(stack)
    adapters.attach_lora(twin.unet, 2, seed=0)
    assert not adapters.lora_parameters(stack.unet)


def test_an_arm_of_another_generator_is_refused_and_named(tmp_path):
    from radpref.data.study.runs import start_run
    from radpref.data.study.study import Study

    study = Study.create(tmp_path / "s", '[generator]\nmodel = "generator"\n')
    save_stack(tiny_stack(0), study.root / "generator")
    base = adapters.arm_identity(study, "baseline")
    stack = tiny_stack(0)
    adapters.attach_lora(stack.unet, 4, seed=0)
    with start_run(study, "align", {"arm": "aligned", "base": base}) as run:
        sha = adapters.save_adapters(stack, run.model_folder, with_controlnet=False, card="")
        adapters.register_model(study, run.run_id, "aligned", sha, {})
    assert adapters.arm_identity(study, "aligned") == f"{base}+{sha}"
    adapters.load_arm(study, "aligned")
    shutil.rmtree(study.root / "generator")
    save_stack(tiny_stack(1), study.root / "generator")  # the same shapes: its adapters would merge without complaint
    present = adapters.arm_identity(study, "baseline")
    for use in (adapters.load_arm, adapters.arm_identity):
        for name in ("aligned", run.run_id):
            with pytest.raises(InvalidInput) as refused:
                use(study, name)
            text = str(refused.value)
            assert "\n" not in text
            assert all(part in text for part in (name, base[:12], present[:12], "radpref align train"))
    adapters.load_arm(study)  # the baseline itself is what it is now
