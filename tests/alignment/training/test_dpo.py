"""The trainers on a tiny random stack: gradients, routing, reference, learning, resume bit for bit, finished arms."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from radpref.alignment.preferences.pairs import find_pairs_run, run_pairs
from radpref.alignment.preferences.preference_sets import encode_sets, read_sets
from radpref.alignment.training import dpo, finetune, held_out, losses, watch
from radpref.alignment.training import preference_arms as arms
from radpref.alignment.training import train_arm as arm_training
from radpref.alignment.training.draws import scheduled
from radpref.alignment.training.policy import make_policy
from radpref.data.core.errors import InvalidInput, NotFound, RadprefError
from radpref.data.study.runs import latest_run
from radpref.generation.stack.adapters import load_arm
from radpref.generation.training.checkpoints import CHECKPOINT
from tests.support import alignment as support
from tests.support.errors import refuses

MODES = ("T2I", "M2I", "TM2I", "TM2I", "T2I", "M2I")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(arms, "N_PROMPTS", 1)
    monkeypatch.setattr(watch, "IMAGES_PER_PROMPT", 2)
    monkeypatch.setattr(held_out, "HELD_OUT_DRAWS", 2)


@pytest.fixture(scope="module")
def rated(tmp_path_factory):
    study = support.rated_study(tmp_path_factory.mktemp("rated"), MODES)
    run_pairs(study)
    return study


@pytest.fixture
def material(rated):
    return _material(rated)


def _material(study):
    stack = load_arm(study)
    sets = encode_sets(study, stack, read_sets(study, find_pairs_run(study).run_id, stack.structures))["train"]
    return make_policy(stack, rank=2, seed=0, train_controlnet=True), sets


def _draw(sets, n, seed=0, t=None):
    drawn = dpo.draw(torch.Generator().manual_seed(seed), n, sets.latents, 1000)
    return drawn if t is None else dataclasses.replace(drawn, timesteps=torch.full((n,), t))


def _shake(policy, seed=3, scale=0.02):
    """Move policy away from the reference, so that gradients of LoRA's A and of the ControlNet are not 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in [*policy.lora.values(), *policy.control.values()]:
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def _mode(sets, mode):
    return sets.modes.index(mode)


def test_sets_hold_what_was_stored(rated, material):
    _, sets = material
    assert len(sets) == 5
    n = len(sets)
    assert sets.latents.shape == (n, 4, 4, 8, 8)
    for index, mode in enumerate(sets.modes):
        assert bool(sets.conditions.text_present[index]) == (mode != "M2I")
        assert bool(sets.conditions.mask_present[index]) == (mode != "T2I")
        assert bool(sets.weights["text"][index].all()) == (mode != "M2I")
        assert bool(sets.weights["mask"][index].all()) == (mode != "T2I")
    text = _mode(sets, "T2I")
    assert sets.scores["text"][text].tolist() == [1.0, 2.0, 3.0, 3.5]
    assert torch.isnan(sets.scores["mask"][text]).all()
    assert sets.p["text"][text].tolist() == [0, 0, 0, 0, 0, 0.25]


def test_at_first_policy_equals_reference_and_loss_is_log_2(material):
    policy, sets = material
    chosen = list(range(len(sets)))
    drawn = _draw(sets, len(sets))
    terms = dpo.terms_of(sets, chosen)
    noisy = dpo.noisy_sets(policy, sets, torch.tensor(chosen), drawn)
    reference = dpo.set_errors(noisy, policy.reference_noise_pred)
    routed = torch.tensor([c == "mask" for c in terms.criteria]).repeat_interleave(4)
    errors = dpo.set_errors(
        noisy.select(torch.tensor(terms.places)), lambda *given: policy.noise_pred(*given, to_controlnet=routed)
    )
    assert torch.allclose(errors, reference[list(terms.places)], atol=1e-6)
    loss, figures = dpo.dpo_loss(policy, sets, chosen, drawn, _align())
    assert loss.item() == pytest.approx(np.log(2), abs=1e-3)
    assert set(figures) == {"train_accuracy", "winner_shift", "loser_shift"}


def _align(**changes):
    from radpref.data.config.alignment import AlignConfig

    return AlignConfig(beta=50.0, sets_per_step=2, lora_rank=2).model_copy(update=changes)


def test_tm2i_stands_in_the_batch_twice(material):
    _, sets = material
    index = _mode(sets, "TM2I")
    assert dpo.terms_of(sets, [index]) == dpo.Terms((0, 0), ("text", "mask"))
    assert dpo.terms_of(sets, [_mode(sets, "M2I"), _mode(sets, "T2I")]).criteria == ("mask", "text")


def _gradients(policy, loss):
    everything = {**policy.lora, **policy.control}
    found = torch.autograd.grad(loss, list(everything.values()), allow_unused=True)
    return dict(zip(everything, found, strict=True))


@pytest.mark.parametrize(("mode", "reaches"), [("T2I", False), ("M2I", True), ("TM2I", True)])
def test_text_trains_the_lora_and_masks_the_controlnet_too(material, mode, reaches):
    policy, sets = material
    _shake(policy)
    chosen = [_mode(sets, mode)]
    loss, _ = dpo.dpo_loss(policy, sets, chosen, _draw(sets, 1, t=500), _align())
    gradients = _gradients(policy, loss)
    assert any(gradients[name] is not None and bool(gradients[name].any()) for name in policy.lora)
    touched = any(gradients[name] is not None and bool(gradients[name].any()) for name in policy.control)
    assert touched == reaches


def test_on_tm2i_only_the_mask_preference_reaches_the_controlnet(material):
    """Turn the text preference round: the LoRA's gradient changes, the ControlNet's does not."""
    policy, sets = material
    _shake(policy)
    chosen = [_mode(sets, "TM2I")]
    turned = dataclasses.replace(sets, p={**sets.p, "text": 1 - sets.p["text"]})
    one, other = (
        _gradients(policy, dpo.dpo_loss(policy, s, chosen, _draw(sets, 1, t=500), _align())[0]) for s in (sets, turned)
    )
    names = [name for name in policy.control if one[name] is not None]
    assert names
    assert all(torch.equal(one[name], other[name]) for name in names)
    assert any(not torch.equal(one[name], other[name]) for name in policy.lora if one[name] is not None)


def test_set_wise_gradients_equal_pair_wise_ones_through_the_whole_stack(material):
    """Four forwards for six pairs give what six two-image forwards at the same (t, noise) give."""
    policy, sets = material
    _shake(policy)
    chosen = [_mode(sets, "M2I")]
    drawn = _draw(sets, 1, t=300)
    together = _gradients(policy, dpo.dpo_loss(policy, sets, chosen, drawn, _align())[0])

    latents, p = sets.latents[chosen[0]], sets.p["mask"][chosen[0]]
    batch = sets.conditions.select([chosen[0], chosen[0]])
    total = torch.zeros(())
    for k, pair in enumerate(zip(*losses.pair_indices(4), strict=True)):
        two, noise, t = latents[list(pair)], drawn.noise.expand(2, -1, -1, -1), drawn.timesteps.expand(2)
        noisy = policy.add_noise(two, noise, t)
        reference = (policy.reference_noise_pred(noisy, t, batch) - noise).square().mean((1, 2, 3))
        errors = (policy.noise_pred(noisy, t, batch, None) - noise).square().mean((1, 2, 3))
        z = -25.0 * ((errors[0] - reference[0]) - (errors[1] - reference[1]))
        total = total - p[k] * torch.log(torch.sigmoid(z)) - (1 - p[k]) * torch.log(torch.sigmoid(-z))
    apart = _gradients(policy, total / 6)
    for name, gradient in together.items():
        if gradient is not None:
            assert torch.allclose(gradient, apart[name], atol=2e-6, rtol=1e-3), name


def test_loss_of_a_mixed_batch_is_the_mean_of_its_sets(material):
    policy, sets = material
    _shake(policy)
    chosen = [_mode(sets, mode) for mode in ("T2I", "TM2I", "M2I")]
    drawn = _draw(sets, 3)
    together, _ = dpo.dpo_loss(policy, sets, chosen, drawn, _align())
    alone = [
        dpo.dpo_loss(policy, sets, [c], drawn.select(torch.tensor([k])), _align())[0] for k, c in enumerate(chosen)
    ]
    assert together.item() == pytest.approx(sum(one.item() for one in alone) / 3, rel=1e-4)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_every_loss_learns_the_order(material, loss):
    policy, sets = material
    settings = _align(loss=loss, beta=500.0)
    optimizer = torch.optim.AdamW([*policy.lora.values(), *policy.control.values()], lr=5e-3)
    drawn = _draw(sets, 1, t=400)
    index = [_mode(sets, "T2I")]
    values = []
    for _ in range(10):
        value, figures = dpo.dpo_loss(policy, sets, index, drawn, settings)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0]
    if loss != "score-weighted":  # which weighs the winner's error more, and may lower all of them
        assert figures["train_accuracy"] > 0.8
        assert figures["loser_shift"] > figures["winner_shift"]


def test_held_out_starts_at_one_half_and_repeats(material):
    policy, sets = material
    measure = held_out.HeldOut(policy, sets, 50.0, 0)
    first = measure.measure()
    assert first["held_out_accuracy"] == pytest.approx(0.5, abs=0.5)
    assert first["held_out_loss"] == pytest.approx(np.log(2), abs=1e-3)
    _shake(policy)
    assert measure.measure() == held_out.HeldOut(policy, sets, 50.0, 0).measure() != first


def test_schedule_covers_every_set_once_an_epoch():
    seen = [i for step in range(5) for i in scheduled(step, 10, 2, 7)]
    assert sorted(seen) == list(range(10))
    assert scheduled(5, 10, 2, 7) != scheduled(0, 10, 2, 7)
    assert scheduled(3, 10, 2, 7) == scheduled(3, 10, 2, 7)
    assert len(scheduled(0, 3, 4, 0)) == 4  # fewer sets than a step takes: the next epoch begins


def _state(study, run_id):
    folder = study.root / "models" / run_id
    return {p.name: load_file(p) for p in sorted(folder.rglob("*.safetensors"))}


def _figures(study, run_id):
    lines = [json.loads(line) for line in (study.root / "runs" / run_id / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_s", "elapsed_s")} for line in lines]


def test_resume_equals_an_uninterrupted_run_bit_for_bit(tmp_path, monkeypatch):
    real_settings = arm_training._loop_settings
    monkeypatch.setattr(
        arm_training, "_loop_settings", lambda *given: dataclasses.replace(real_settings(*given), log_every=1)
    )
    monkeypatch.setattr(arm_training.ArmObserver, "held_out_every", 2)  # and a checkpoint with it
    study = support.rated_study(tmp_path)
    run_pairs(study)
    real = dpo.DpoStep.__call__

    def breaks(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return real(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(dpo.DpoStep, "__call__", breaks)
        with pytest.raises(KeyboardInterrupt):
            arms.run_align(study, n_steps=7)
    (interrupted,) = study.db.rows("SELECT * FROM runs WHERE kind = 'align'")
    assert interrupted["status"] == "running"
    assert len(_figures(study, interrupted["run_id"])) == 5
    resumed = arms.run_align(study, n_steps=7)
    assert resumed["run_id"] == interrupted["run_id"]
    with study.db.write() as connection:  # make the next call start afresh
        connection.execute("UPDATE runs SET config = '{}' WHERE run_id = ?", (resumed["run_id"],))
    whole = arms.run_align(study, n_steps=7)
    assert whole["run_id"] != resumed["run_id"]
    one, other = _state(study, resumed["run_id"]), _state(study, whole["run_id"])
    assert one.keys() == other.keys()
    assert len(one) == 2  # LoRA and ControlNet
    for name in one:
        assert all(torch.equal(one[name][key], other[name][key]) for key in one[name]), name
    assert _figures(study, resumed["run_id"]) == _figures(study, whole["run_id"])
    assert [line["step"] for line in _figures(study, whole["run_id"])] == list(range(1, 8))


def test_an_arm_is_trained_registered_and_found_again(tmp_path):
    study = support.rated_study(tmp_path)
    pairs = run_pairs(study)
    result = arms.run_align(study)
    assert result["arm"] == "aligned"
    assert result["raters"] == "simulated"
    assert result["n_steps"] == 3
    assert result["train_controlnet"]
    assert 0 <= result["held_out_accuracy"] <= 1
    assert result["diversity"] == pytest.approx(1, abs=0.5)
    run = latest_run(study, "align")
    lines = run.metrics()
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"loss", "train_accuracy", "winner_shift", "loser_shift", "grad_norm", "seconds"} <= set(lines[0])
    assert [p.name for p in (run.folder / "watch").iterdir()] == ["step-000003.png"]
    card = (run.model_folder / "README.md").read_text()
    assert "SIMULATED raters" in card
    assert "not for diagnosis" in card
    assert not [p for p in study.root.rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth")]
    assert (run.folder / CHECKPOINT).exists()
    assert arms.run_align(study)["already_done"]
    assert run.config["pairs_run"] == pairs["run_id"]

    tuned = arms.run_finetune(study)
    assert tuned["arm"] == "finetuned"
    assert tuned["n_steps"] == result["n_steps"]
    assert tuned["n_parameters"] == result["n_parameters"]
    for arm in ("aligned", "finetuned"):
        assert load_arm(study, arm).image_size == 32
    assert {row["arm"] for row in support.rows(study, "models")} == {"aligned", "finetuned"}


def test_without_pairs_or_with_a_bad_name(tmp_path):
    study = support.make_study(tmp_path)
    with refuses(NotFound, "align pairs"):
        arms.run_align(study)
    with refuses(InvalidInput, "baseline"):
        arms.run_align(study, arm="baseline")
    with refuses(InvalidInput, "n_steps", 0):
        arms.run_align(study, n_steps=0)


def test_text_only_ratings_leave_the_controlnet_alone(tmp_path):
    study = support.rated_study(tmp_path, ("T2I", "T2I", "T2I"))
    run_pairs(study)
    result = arms.run_align(study, n_steps=1)
    assert not result["train_controlnet"]
    assert not (study.root / "models" / result["run_id"] / "controlnet").exists()


def test_a_loss_that_is_no_number_stops_with_one_line(rated, monkeypatch):
    real = dpo.DpoStep.__call__

    def poisoned(self, step):
        part = real(self, step)
        return part._replace(loss=part.loss * float("nan"))

    monkeypatch.setattr(dpo.DpoStep, "__call__", poisoned)
    with refuses(RadprefError, "align.learning_rate", "nan"):
        arms.run_align(rated, n_steps=1, arm="poisoned")


def test_selection_for_fine_tuning():
    scores = torch.tensor([[5.0, 4.0, 3.9, 0.0], [float("nan"), 4.5, 1.0, 2.0]])
    picked = finetune.select_images(scores, 4.0)
    assert picked.images == ((0, 0), (0, 1), (1, 1))
    assert picked.warning is None
    poor = finetune.select_images(torch.arange(40.0).reshape(10, 4) / 10, 4.0)
    assert len(poor.images) == 4  # the best tenth
    assert poor.threshold == pytest.approx(3.6)
    assert "only 0 of 40 images" in (poor.warning or "")
    with pytest.raises(NotFound):
        finetune.select_images(torch.full((2, 4), float("nan")), 4.0)


def test_image_scores_average_raters_then_criteria(material):
    _, sets = material
    index = _mode(sets, "TM2I")
    # text: sim-a 1 2 3 4, sim-b 1 2 3 3; mask: sim-a 1 2 3 4, sim-b 0 1 2 3
    assert finetune.image_scores(sets)[index].tolist() == pytest.approx([0.75, 1.75, 2.75, 3.5])
