"""Tasks from records and pools: nested subsets by patient, known masks, equal draws, no leak."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.study.conditions import StoredCondition, save_conditions
from radpref.data.study.splits import real_fraction, real_order
from radpref.downstream.cells.loaders import batch_indices, normalise, pixel_array
from radpref.downstream.cells.tasks import TaskData, load_task, synthetic_subset
from tests.support.downstream import DOWNSTREAM_TOML, add_pool, study_with_pools, with_downstream
from tests.support.errors import refuses

REAL_ONLY = DOWNSTREAM_TOML.replace('arms = ["baseline", "aligned"]', "arms = []")


def _data(n=300, rate=0.04, seed=0, per_patient=1):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 2)) < rate).astype(np.float64)
    labels[:2] = [[1, 0], [0, 1]]
    patients = tuple(f"p{i // per_patient:04d}" for i in range(n))
    return TaskData(np.zeros((n, 2, 2), np.uint8), labels, None, patients, tuple(str(i) for i in range(n)))


def _real_rows(data, fraction, rng):
    return real_fraction(data.patients, data.labels, fraction, rng)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("per_patient", [1, 3])
def test_fractions_are_nested_whole_patients_with_both_classes(seed, per_patient):
    data = _data(seed=seed, per_patient=per_patient)
    subsets = [_real_rows(data, fraction, np.random.default_rng([5, seed])) for fraction in (0.01, 0.1, 1.0)]
    for small, large in itertools.pairwise(subsets):
        assert set(small) <= set(large)
    assert len(subsets[2]) == len(data)
    assert len(subsets[1]) <= 30
    for rows in subsets:
        chosen = {data.patients[i] for i in rows}
        assert len(rows) == sum(patient in chosen for patient in data.patients)
        for column in range(2):
            assert set(data.labels[rows, column]) == {0.0, 1.0}


def test_another_seed_redraws_and_the_same_seed_does_not():
    data = _data()
    one, again, other = (_real_rows(data, 0.1, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    order, n_minimum = real_order(data.patients, data.labels, np.random.default_rng(1))
    assert 2 <= n_minimum <= 4
    assert sorted(order) == sorted(set(data.patients))


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5])
def test_a_bad_fraction_is_refused(fraction):
    with pytest.raises(InvalidInput):
        _real_rows(_data(), fraction, np.random.default_rng(0))


def test_records_become_arrays_of_each_kind(tiny_study):
    study = with_downstream(tiny_study, REAL_ONLY)
    two, effusion, heart = study.config.downstream.tasks
    splits = load_task(study, two).splits
    train = splits["train"]
    assert train.images.shape == (24, 32, 32)
    assert train.images.dtype == np.uint8
    assert train.labels.shape == (24, 2)
    assert load_task(study, effusion).splits["test"].labels.shape == (12, 1)
    segmentation = load_task(study, heart).splits["val"]
    assert segmentation.masks is not None
    assert segmentation.masks.any(axis=(1, 2)).all()
    assert set(train.patients).isdisjoint(splits["test"].patients)


def test_a_mask_that_is_not_known_leaves_the_record_out(tiny_study):
    study = with_downstream(tiny_study, REAL_ONLY)
    heart = study.config.downstream.tasks[2]
    pneumothorax = heart.model_copy(update={"structure": "pneumothorax"})
    before = load_task(study, pneumothorax).splits["train"]
    joined = "JOIN records USING (record_id) WHERE split = 'train'"
    labels = study.db.value(f"SELECT count(*) FROM labels {joined} AND label = 'pneumothorax' AND value = 1")
    assert before.labels.sum() <= labels
    positive = study.db.value(f"SELECT record_id FROM record_masks {joined} AND structure = 'pneumothorax'")
    if positive is None:
        pytest.skip("the tiny study drew no pneumothorax")
    with study.db.write() as connection:
        connection.execute("DELETE FROM record_masks WHERE record_id = ? AND structure = 'pneumothorax'", [positive])
    after = load_task(study, pneumothorax).splits["train"]
    assert len(after) == len(before) - 1  # positive by its label, mask gone: unknown, never a negative


def test_nothing_usable_is_said_on_one_line(tiny_study):
    study = with_downstream(tiny_study, REAL_ONLY)
    task = study.config.downstream.tasks[0].model_copy(update={"labels": ("unicorn",)})
    with refuses(NotFound, "two", "unicorn"):
        load_task(study, task)
    study = with_downstream(study)
    with refuses(NotFound, "two", "baseline"):
        load_task(study, study.config.downstream.tasks[0])


def test_pool_keeps_the_order_of_ordinals_and_the_masks_as_labels(tiny_study):
    study = study_with_pools(tiny_study, n=6)
    pool = load_task(study, study.config.downstream.tasks[2]).pools["aligned"]
    assert [name.rsplit("/", 1)[1] for name in pool.patients] == [str(i) for i in range(6)]
    assert pool.masks is not None
    assert pool.masks.any(axis=(1, 2)).all()


def test_a_pool_sampled_from_mirrored_masks_is_labelled_with_the_mirrored_masks(tiny_study):
    """Pools may flip a mask before sampling; the label is what was asked for, not the record's own mask."""
    study = study_with_pools(tiny_study, n=4)
    task = study.config.downstream.tasks[2]
    rows = study.db.rows(
        "SELECT p.condition_id, mask_sha, mask_record FROM pool_images p JOIN conditions USING (condition_id) "
        "JOIN condition_masks m USING (condition_id) "
        "WHERE p.task = 'heart' AND arm = 'aligned' AND structure = 'heart' ORDER BY ordinal"
    )
    original = study.store.mask(rows[0]["mask_sha"])
    assert not np.array_equal(original, original[:, ::-1])
    with study.db.write() as connection:
        flipped = study.store.put_mask(connection, np.ascontiguousarray(original[:, ::-1]))
        condition = StoredCondition("M2I", None, {"heart": flipped}, mask_record=rows[0]["mask_record"])
        save_conditions(connection, [condition])
        where = "WHERE task = 'heart' AND arm = 'aligned' AND ordinal = 0"
        connection.execute(f"UPDATE pool_images SET condition_id = ? {where}", [condition.condition_id])
    pool = load_task(study, task).pools["aligned"]
    assert np.array_equal(pool.masks[0], pixel_array(study, "masks", [flipped], 32)[0])
    assert np.array_equal(pool.masks[0], pixel_array(study, "masks", [rows[0]["mask_sha"]], 32)[0][:, ::-1])
    assert np.array_equal(pool.masks[1], pixel_array(study, "masks", [rows[1]["mask_sha"]], 32)[0])


def test_a_pool_from_a_test_record_is_refused(tiny_study):
    study = with_downstream(tiny_study, DOWNSTREAM_TOML.replace(', "aligned"]', "]"))
    add_pool(study, "two", "baseline", 3, split="test")
    with refuses(Conflict, "two", "baseline", "phantom-3-test-000000"):
        load_task(study, study.config.downstream.tasks[0])


def test_arms_draw_the_same_ordinals_nested_over_multiples():
    draws = [synthetic_subset({"a": 100, "b": 90}, n, "t", np.random.default_rng(3)) for n in (20, 50, 90)]
    assert draws[0].tolist() == draws[1][:20].tolist() == draws[2][:20].tolist()
    assert draws[2].max() < 90
    assert len(synthetic_subset({"a": 95}, 100, "t", np.random.default_rng(3))) == 95
    with refuses(InvalidInput, 80, 100):
        synthetic_subset({"a": 80}, 100, "t", np.random.default_rng(3))


def test_arrays_are_cached_and_thin_masks_survive(tiny_study):
    shas = [row["image_sha"] for row in tiny_study.db.rows("SELECT image_sha FROM records LIMIT 3")]
    first = pixel_array(tiny_study, "images", shas, 16)
    files = list((tiny_study.root / "cache" / "downstream").iterdir())
    assert len(files) == 1
    assert np.array_equal(first, pixel_array(tiny_study, "images", shas, 16))
    line = np.zeros((64, 64), bool)
    line[20, :] = True
    with tiny_study.db.write() as connection:
        sha = tiny_study.store.put_mask(connection, line)
    masks = pixel_array(tiny_study, "masks", [sha, None], 16)
    assert masks[0].sum() == 16
    assert masks[1].sum() == 0


def test_batches_have_equal_steps_and_see_every_image():
    batches = list(batch_indices(10, 4, 5, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [4] * 5
    assert np.bincount(np.concatenate(batches), minlength=10).tolist() == [2] * 10
    weighted = list(batch_indices(3, 8, 2, np.random.default_rng(0), np.array([0.0, 1.0, 0.0])))
    assert set(np.concatenate(weighted)) == {1}


def test_normalised_grey_levels_fill_minus_two_to_two():
    assert normalise(np.array([[[0, 255]]], np.uint8)).tolist() == [[[-2.0, 2.0]]]
