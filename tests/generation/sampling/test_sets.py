"""Rating sets: exact mode allotment, determinism, resume, full disk, comparison of two arms, no test record."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from radpref.data.core.errors import Conflict, InvalidInput, NotFound, StorageFull
from radpref.data.imaging.images import is_marked_synthetic
from radpref.data.study.conditions import MODES, record_conditions
from radpref.data.study.study import Study
from radpref.generation.sampling.draws import allot_modes, draw_conditions, draw_unrated
from radpref.generation.sampling.sets import image_seed, run_sets
from tests.support.data import full_disk_after
from tests.support.errors import refuses
from tests.support.sampling import SAMPLING_TOML, add_aligned_arm, open_copy, stop_after

MIXES = st.integers(0, 100).flatmap(lambda a: st.integers(0, 100 - a).map(lambda b: (a, b, 100 - a - b)))


@pytest.fixture
def make_study(tmp_path, _tiny_template):
    """Makes copies of the tiny study with a generator, closed at the end."""
    made = []

    def make(name, toml=SAMPLING_TOML):
        made.append(open_copy(_tiny_template, tmp_path / name, toml))
        return made[-1]

    yield make
    for opened in made:
        opened.db.close()


@pytest.fixture
def sampling(make_study):
    return make_study("sampling")


def _images(study: Study) -> list[tuple[int, int, str, str, int]]:
    """(ordinal, slot, arm, image hash, seed) of every image, in order."""
    rows = study.db.rows("SELECT ordinal, slot, arm, image_sha, seed FROM set_images JOIN image_sets USING (set_id)")
    return sorted((r["ordinal"], r["slot"], r["arm"], r["image_sha"], r["seed"]) for r in rows)


@given(n=st.integers(1, 5000), mix=MIXES)
def test_modes_are_allotted_exactly(n, mix):
    counts = allot_modes(n, mix)
    assert sum(counts) == n
    for count, share in zip(counts, mix, strict=True):
        assert abs(count - n * share / 100) < 1
        assert share or not count


def test_the_mix_of_the_study_is_exact_at_its_size():
    assert allot_modes(200, (75, 15, 10)) == [150, 30, 20]
    assert allot_modes(40, (75, 15, 10)) == [30, 6, 4]
    assert allot_modes(1, (75, 15, 10)) == [1, 0, 0]


@pytest.mark.parametrize("mix", [(75, 15), (75, 15, 11), (120, -10, -10), ()])
def test_a_mix_that_is_no_mix_is_refused(mix):
    with refuses(InvalidInput, "/".join(map(str, mix)), 100):
        allot_modes(10, mix)


def test_seeds_depend_on_every_part_and_fit_the_database():
    seeds = {image_seed(seed, ordinal, k) for seed in range(3) for ordinal in range(50) for k in range(4)}
    assert len(seeds) == 3 * 50 * 4
    assert max(seeds) < 2**48
    assert image_seed(1, 23) != image_seed(12, 3)


def test_conditions_come_from_validation_records_evenly_over_what_they_ask(tiny_study):
    drawn = draw_conditions(tiny_study, 40, (50, 25, 25), seed=4)
    known = {record["record_id"]: record for record in record_conditions(tiny_study, "val")}
    assert Counter(c.mode for c in drawn) == {"T2I": 20, "M2I": 10, "TM2I": 10}
    assert [c.mode for c in drawn] != sorted((c.mode for c in drawn), key=MODES.index)  # shuffled
    for condition in drawn:
        sources = {condition.text_record, condition.mask_record} - {None}
        assert sources <= set(known)
        assert len(sources) == 1
        record = known[sources.pop()]
        assert condition.text in (None, record["caption"])
        assert dict(condition.masks) in ({}, record["masks"])
        assert (condition.mode == "M2I") == (not condition.asked)
    findings = Counter("+".join(a for a in c.asked if "/" not in a) for c in drawn if c.mode == "T2I")
    assert max(findings.values()) - min(findings.values()) <= 1
    assert drawn == draw_conditions(tiny_study, 40, (50, 25, 25), seed=4)
    assert drawn != draw_conditions(tiny_study, 40, (50, 25, 25), seed=5)


def test_the_test_split_is_never_a_source(sampling):
    run_sets(sampling, n=24, mix=(40, 30, 30))
    splits = sampling.db.rows(
        "SELECT DISTINCT split FROM conditions JOIN records ON record_id = text_record OR record_id = mask_record"
    )
    assert [row["split"] for row in splits] == ["val"]


def test_sets_without_masks_or_captions_say_what_is_missing(study, tiny_study):
    with refuses(NotFound, "val", "data import"):
        draw_conditions(study, 4, (100, 0, 0), seed=0)
    study = tiny_study
    with study.db.write() as connection:
        connection.execute("UPDATE records SET caption = NULL WHERE split = 'val'")
        connection.execute("DELETE FROM record_masks WHERE record_id LIKE '%-val-%'")
    with refuses(InvalidInput, "val", "T2I"):
        draw_conditions(study, 4, (100, 0, 0), seed=0)
    with refuses(InvalidInput, "M2I", "sets.mix"):
        draw_conditions(study, 4, (0, 100, 0), seed=0)


def test_sampling_stores_sets_of_four_with_exact_modes(sampling):
    found = run_sets(sampling)
    assert found["n_sets"] == 8
    assert found["modes"] == {"T2I": 4, "M2I": 2, "TM2I": 2}
    images = _images(sampling)
    assert len(images) == 32
    assert {row[2] for row in images} == {"baseline"}
    assert len({row[4] for row in images}) == 32  # every image has a seed of its own
    assert {row["purpose"] for row in sampling.db.rows("SELECT purpose FROM image_sets")} == {"rating"}
    path = sampling.store.path(images[0][3])
    assert is_marked_synthetic(path)
    assert sampling.store.image(images[0][3]).shape == (32, 32)
    masked = sampling.db.rows("SELECT DISTINCT mode FROM conditions JOIN condition_masks USING (condition_id)")
    assert {row["mode"] for row in masked} == {"M2I", "TM2I"}
    assert {row["mode"] for row in sampling.db.rows("SELECT mode FROM conditions WHERE text IS NULL")} == {"M2I"}


def test_weights_of_another_shape_are_one_line_and_leave_nothing(sampling, caplog):
    """Nothing is written before the model is loaded: no unfinished run, no condition; repaired weights go on."""
    file = sampling.root / "generator" / "unet" / "diffusion_pytorch_model.safetensors"
    good = file.read_bytes()
    weights = load_file(file)
    weights["conv_in.bias"] = torch.zeros(3)
    save_file(weights, file)
    with refuses(InvalidInput, "unet", "conv_in.bias"):
        run_sets(sampling)
    assert sampling.db.value("SELECT count(*) FROM runs WHERE kind = 'sets'") == 0
    assert sampling.db.value("SELECT count(*) FROM conditions") == 0
    file.write_bytes(good)
    assert run_sets(sampling)["n_sets"] == 8
    assert "data.image_size is 64, the generator draws 32 pixels: masks are scaled to 32" in caplog.text


def test_the_same_command_again_samples_nothing(sampling, monkeypatch):
    first = run_sets(sampling)
    stop_after(monkeypatch, "radpref.generation.sampling.sets.sample_stored", 0, AssertionError("sampled again"))
    again = run_sets(sampling)
    assert again == {**first, "already_done": True}
    assert sampling.db.value("SELECT count(*) FROM runs WHERE kind = 'sets'") == 1


def test_the_same_sets_are_refused_while_another_command_loads_the_generator_for_them(sampling, monkeypatch):
    from radpref.generation.sampling import sampler

    real = sampler.load_sampler
    loaded = []

    def slow(study, arm):
        loaded.append(arm)
        with refuses(Conflict, "sets"):
            run_sets(study, n=4)
        return real(study, arm)

    monkeypatch.setattr(sampler, "load_sampler", slow)
    first = run_sets(sampling, n=4)
    assert run_sets(sampling, n=4) == {**first, "already_done": True}
    assert loaded == ["baseline"]
    assert sampling.db.value("SELECT count(*) FROM image_sets") == 4


def test_another_seed_or_size_is_another_run_of_other_sets(sampling):
    first = run_sets(sampling, n=4)
    second = run_sets(sampling, n=4, seed=7)
    assert first["run_id"] != second["run_id"]
    assert sampling.db.value("SELECT count(*) FROM image_sets") == 8


@pytest.mark.parametrize("n_chunks", [0, 1, 3])
def test_an_interrupted_run_resumes_to_the_same_images(make_study, monkeypatch, n_chunks):
    whole, broken = (make_study(name) for name in ("whole", "broken"))
    run_sets(whole)
    with monkeypatch.context() as patch:
        stop_after(patch, "radpref.generation.sampling.sets.sample_stored", n_chunks, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_sets(broken)
    kept = _images(broken)
    assert len(kept) == n_chunks * 8  # batch_size 8: two sets a chunk, whole chunks only
    calls = stop_after(monkeypatch, "radpref.generation.sampling.sets.sample_stored", 99, AssertionError())
    run_sets(broken)
    assert len(calls) == 4 - n_chunks  # nothing is sampled twice
    assert _images(broken) == _images(whole)
    assert broken.db.value("SELECT count(*) FROM runs WHERE kind = 'sets'") == 1
    assert broken.db.value("SELECT status FROM runs WHERE kind = 'sets'") == "done"


def test_a_full_disk_loses_nothing_and_the_rerun_completes(make_study, monkeypatch):
    whole, full = (make_study(name) for name in ("whole", "full"))
    run_sets(whole)
    with monkeypatch.context() as patch:
        full_disk_after(patch, 1 + 8 + 3)  # the run's configuration, one chunk of eight images, three of the second
        with refuses(StorageFull):
            run_sets(full)
    assert len(_images(full)) == 8
    assert full.db.value("SELECT count(*) FROM image_sets") == 2
    for row in full.db.rows("SELECT sha256 FROM images WHERE origin = 'synthetic'"):
        assert full.store.path(row["sha256"]).is_file()
    assert not list((full.root / "images").rglob(".*"))  # no half-written file is left
    run_sets(full)
    assert _images(full) == _images(whole)


def test_results_do_not_depend_on_the_mix_of_other_sets_in_a_batch(make_study):
    first = make_study("a")
    second = make_study("b", SAMPLING_TOML.replace("batch_size = 8", "batch_size = 32"))
    for opened in (first, second):
        run_sets(opened)
    for one, other in zip(_images(first), _images(second), strict=True):
        assert one[:3] == other[:3]
        difference = first.store.image(one[3]).astype(int) - second.store.image(other[3]).astype(int)
        assert np.abs(difference).max() <= 3


def test_two_arms_make_a_blinded_comparison_with_paired_seeds(sampling):
    add_aligned_arm(sampling)
    run_sets(sampling, n=6, arms=("baseline", "aligned"))
    sets: dict[int, list[tuple[int, str, str, int]]] = {}
    for ordinal, slot, arm, sha, seed in _images(sampling):
        sets.setdefault(ordinal, []).append((slot, arm, sha, seed))
    assert len(sets) == 6
    for rows in sets.values():
        assert Counter(arm for _, arm, _, _ in rows) == {"baseline": 2, "aligned": 2}
        assert sorted(Counter(seed for *_, seed in rows).values()) == [2, 2]
        for seed in {seed for *_, seed in rows}:  # one image of each arm from the same noise, and they differ
            pair = [(arm, sha) for _, arm, sha, s in rows if s == seed]
            assert {arm for arm, _ in pair} == {"baseline", "aligned"}
            assert pair[0][1] != pair[1][1]
    assert len({tuple(arm for _, arm, _, _ in rows) for rows in sets.values()}) > 1  # the order is shuffled
    assert {r["purpose"] for r in sampling.db.rows("SELECT purpose FROM image_sets")} == {"comparison"}


def _patients(study: Study, purpose: str) -> list[str]:
    rows = study.db.rows(
        "SELECT r.patient_id FROM image_sets s JOIN conditions c USING (condition_id)"
        " JOIN records r ON r.record_id = coalesce(c.text_record, c.mask_record) WHERE s.purpose = ?",
        [purpose],
    )
    return [row["patient_id"] for row in rows]


def test_a_comparison_uses_each_unrated_patient_once_and_no_seed_of_a_rating_set(sampling):
    add_aligned_arm(sampling)
    run_sets(sampling, n=4)
    rated, seeds = set(_patients(sampling, "rating")), {row[4] for row in _images(sampling)}
    found = run_sets(sampling, n=8, arms=("baseline", "aligned"))
    compared = _patients(sampling, "comparison")
    assert found["modes"] == {"T2I": 4, "M2I": 2, "TM2I": 2}
    assert len(set(compared)) == len(compared) == 8
    assert not rated & set(compared)
    later = sampling.db.rows("SELECT seed FROM set_images JOIN image_sets USING (set_id) WHERE purpose = 'comparison'")
    assert not seeds & {row["seed"] for row in later}


def test_too_few_unrated_patients_are_counted_and_the_default_takes_what_there_is(sampling):
    add_aligned_arm(sampling)
    run_sets(sampling, n=3, mix=(100, 0, 0))
    left = len(record_conditions(sampling, "val")) - len(set(_patients(sampling, "rating")))
    assert left == 9
    with refuses(InvalidInput, 100, left, "--n", "data.n_val"):
        run_sets(sampling, n=100, mix=(100, 0, 0), arms=("baseline", "aligned"))
    drawn = draw_unrated(sampling, 100, (100, 0, 0), 0, at_most=True)
    assert len({c.text_record for c in drawn}) == len(drawn) == left
    run_sets(sampling, n=200, mix=(100, 0, 0), seed=3)
    with refuses(InvalidInput, 0, "data.n_val"):
        run_sets(sampling, mix=(100, 0, 0), arms=("baseline", "aligned"))


def test_an_interrupted_comparison_keeps_its_conditions_whatever_is_rated_meanwhile(make_study, monkeypatch):
    whole, broken = (make_study(name) for name in ("whole", "broken"))
    for opened in (whole, broken):
        add_aligned_arm(opened)
    arms = ("baseline", "aligned")
    run_sets(whole, arms=arms)
    with monkeypatch.context() as patch:
        stop_after(patch, "radpref.generation.sampling.sets.sample_stored", 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_sets(broken, arms=arms)
    run_sets(broken, n=6, seed=5)  # rates patients that the comparison has drawn
    run_sets(broken, arms=arms)
    sql = (
        "SELECT ordinal, slot, arm, image_sha, seed, condition_id FROM set_images JOIN image_sets USING (set_id)"
        " WHERE purpose = 'comparison' ORDER BY ordinal, slot"
    )
    assert broken.db.rows(sql) == whole.db.rows(sql)
    assert len(whole.db.rows(sql)) == 32
    assert run_sets(broken, arms=arms)["already_done"]


def test_patients_with_text_masks_or_both_are_shared_out_so_that_all_modes_are_served(sampling):
    rows = record_conditions(sampling, "val")
    assert len(rows) == 12
    with sampling.db.write() as connection:  # four with text and masks, four with text only, four with masks only
        for row in rows[4:8]:
            connection.execute("DELETE FROM record_masks WHERE record_id = ?", [row["record_id"]])
        for row in rows[8:]:
            connection.execute("UPDATE records SET caption = NULL WHERE record_id = ?", [row["record_id"]])
    drawn = draw_unrated(sampling, 20, (50, 50, 0), 0, at_most=True)
    assert Counter(c.mode for c in drawn) == {"T2I": 6, "M2I": 6}
    assert len({c.text_record or c.mask_record for c in drawn}) == 12
    drawn = draw_unrated(sampling, 20, (20, 20, 60), 0, at_most=True)  # the four with both decide
    assert Counter(c.mode for c in drawn) == {"T2I": 2, "M2I": 1, "TM2I": 4}


@pytest.mark.parametrize("found", ["locked", "frozen"])
def test_no_set_is_sampled_after_the_lock(sampling, found):
    done = run_sets(sampling, n=4)
    with sampling.db.write() as connection:
        for name in ("pilot", "locked", "frozen")[: 2 if found == "locked" else 3]:
            connection.execute("INSERT INTO stages(at, actor, stage) VALUES ('now', 'test', ?)", [name])
    with refuses(Conflict, found, "--keep-scores"):
        run_sets(sampling, n=4, seed=1)
    assert run_sets(sampling, n=4) == {**done, "already_done": True}  # what is finished stays finished
    assert sampling.db.value("SELECT count(*) FROM runs WHERE kind = 'sets'") == 1


@pytest.mark.parametrize("arms", [(), ("baseline", "baseline"), ("a", "b", "c")])
def test_other_numbers_of_arms_are_refused(sampling, arms):
    with refuses(InvalidInput, "--arms", ",".join(arms)):
        run_sets(sampling, arms=arms)


def test_an_arm_that_is_not_trained_is_named(sampling):
    with refuses(NotFound, "aligned", "baseline"):
        run_sets(sampling, arms=("baseline", "aligned"))
    assert sampling.db.value("SELECT count(*) FROM runs WHERE kind = 'sets'") == 0
