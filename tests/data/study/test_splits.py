import hashlib
import itertools
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from radpref.data.core.errors import Conflict, InvalidInput
from radpref.data.study import splits
from radpref.data.study.splits import (
    SPLITS,
    assign_splits,
    canonical_split,
    connected_components,
    hashed_split,
    real_fraction,
    real_order,
    split_manifest,
)
from tests.support.errors import refuses

names = st.lists(st.text("abcdef0123", min_size=1, max_size=4), min_size=1, max_size=60)


@given(names, st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_every_patient_has_one_split_whatever_the_order(patients, seed):
    found = assign_splits(patients, seed)
    assert set(found) == set(patients)
    assert found == assign_splits(reversed(patients), seed)
    assert set(found.values()) <= {"train", "val", "test"}


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from([0.0, 1.0, np.nan])), min_size=1, max_size=40),
    st.lists(st.floats(0.001, 1.0), min_size=2, max_size=5),
    st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_real_fractions_are_nested_whole_patients(records, fractions, seed):
    patients = [patient for patient, _ in records]
    labels = np.array([[value] for _, value in records])
    fractions = sorted({*fractions, 1.0})
    parts = [set(real_fraction(patients, labels, share, np.random.default_rng(seed))) for share in fractions]
    assert all(small <= large for small, large in itertools.pairwise(parts))
    assert parts[-1] == set(range(len(records)))
    for rows in parts:
        chosen = {patients[i] for i in rows}
        assert rows == {i for i, patient in enumerate(patients) if patient in chosen}
        assert len(chosen) >= min(2, len(set(patients)))
        for value in (0.0, 1.0):  # both classes wherever the set has them
            assert (labels[sorted(rows)] == value).any() == (labels == value).any()


def test_every_small_set_of_patients_is_nested_in_every_fraction():
    """Exhaustive: up to 4 patients with 1 to 3 records each, all twentieths."""
    for n in (1, 2, 3, 4):
        for sizes in itertools.product((1, 2, 3), repeat=n):
            patients = [f"p{k}" for k, size in enumerate(sizes) for _ in range(size)]
            labels = np.array([[float(i % 2)] for i in range(len(patients))])
            before: set[int] = set()
            for share in np.arange(1, 21) / 20:
                rows = set(real_fraction(patients, labels, float(share), np.random.default_rng(n)))
                assert before <= rows
                before = rows
            assert before == set(range(len(patients)))


@given(names, st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_a_hashed_split_needs_no_other_patient_and_names_only_shares_that_are_there(patients, seed):
    for shares in ((0.7, 0.1, 0.2), (0.0, 0.5, 0.5), (1.0, 0.0, 0.0), (0.9, 0.1, 0.0)):
        for patient in patients:
            found = hashed_split("set", patient, seed, shares)
            assert found == hashed_split("set", patient, seed, shares)
            assert shares[SPLITS.index(found)] > 0


def test_hashed_splits_meet_their_shares_and_differ_by_seed_and_set():
    patients = [f"p{i}" for i in range(5000)]
    found = [hashed_split("set", patient, 1) for patient in patients]
    for name, share in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
        assert abs(found.count(name) / 5000 - share) < 0.02
    assert found != [hashed_split("set", patient, 2) for patient in patients]
    assert found != [hashed_split("other", patient, 1) for patient in patients]


def test_sizes_and_seeds():
    patients = [f"p{i}" for i in range(1000)]
    found = list(assign_splits(patients, 1).values())
    assert [found.count(name) for name in ("train", "val", "test")] == [700, 100, 200]
    assert assign_splits(patients, 1) != assign_splits(patients, 2)
    labels = np.zeros((1000, 1))
    one, again, other = (set(real_fraction(patients, labels, 0.01, np.random.default_rng(s))) for s in (0, 0, 1))
    assert len(one) == 10
    assert one == again
    assert one != other
    assert real_order(patients, labels, np.random.default_rng(0))[1] == 1


def test_a_seed_gives_the_splits_it_always_gave():
    """Pinned: another order would move patients of studies made before between training and test."""
    found = assign_splits([f"p{i}" for i in range(10)], 3)
    by_split = {split: sorted(name for name in found if found[name] == split) for split in SPLITS}
    assert by_split == {"train": ["p0", "p2", "p3", "p4", "p5", "p6", "p9"], "val": ["p1"], "test": ["p7", "p8"]}


def test_a_hashed_split_is_the_place_of_the_hash_between_the_shares(monkeypatch):
    place = int(hashlib.sha256(b"5/set/p7").hexdigest()[:16], 16) / 2**64  # 0.3797
    assert hashed_split("set", "p7", 5, (place - 1e-6, 1 - place + 1e-6, 0.0)) == "val"
    assert hashed_split("set", "p7", 5, (place + 1e-6, 0.0, 1 - place - 1e-6)) == "train"
    for digest, shares, split in (
        (b"\0", (0.0, 0.5, 0.5), "val"),  # the first place of all is not in an empty share
        (b"\xff", (0.7, 0.1, 0.2), "test"),  # the last one is beyond the end, so it takes the last share that is there
        (b"\xff", (0.9, 0.1, 0.0), "val"),
        (b"\xff", (1.0, 0.0, 0.0), "train"),
    ):
        fixed = SimpleNamespace(digest=lambda digest=digest: digest * 32)
        monkeypatch.setattr(splits.hashlib, "sha256", lambda content, fixed=fixed: fixed)
        assert hashed_split("set", "p7", 5, shares) == split


def test_the_patients_in_front_keep_their_drawn_order():
    patients = [f"p{i}" for i in range(12)]
    labels = np.zeros((12, 4))
    labels[[11, 3, 7, 0], range(4)] = 1  # one positive patient a label
    for seed in range(5):
        drawn = [sorted(patients)[i] for i in np.random.default_rng(seed).permutation(12)]
        order, n_front = real_order(patients, labels, np.random.default_rng(seed))
        assert {"p11", "p3", "p7", "p0"} <= set(order[:n_front])
        assert order[:n_front] == [name for name in drawn if name in order[:n_front]]
        assert order[n_front:] == [name for name in drawn if name not in order[:n_front]]
        assert len(real_fraction(patients, labels, 0.01, np.random.default_rng(seed))) == n_front > 3


def test_a_fraction_counts_records_not_patients():
    patients = [name for i in range(10) for name in (f"p{i}", f"p{i}")]
    labels = np.zeros((20, 1))
    sizes = [len(real_fraction(patients, labels, share, np.random.default_rng(0))) for share in (0.01, 0.25, 0.5, 1.0)]
    assert sizes == [4, 4, 10, 20]  # two patients at least; 5 of 20 records are two whole patients


def test_bad_values():
    for fraction in (0, -0.1, 1.1, float("nan")):
        with refuses(InvalidInput, fraction):
            real_fraction(["a"], np.zeros((1, 1)), fraction, np.random.default_rng(0))
    with refuses(InvalidInput):
        real_fraction([], np.zeros((0, 1)), 0.5, np.random.default_rng(0))
    for shares in ((0.5, 0.1, 0.1), (1.2, -0.1, -0.1)):
        with refuses(InvalidInput, list(shares)):
            assign_splits(["a"], 0, shares)
        with refuses(InvalidInput, list(shares)):
            hashed_split("set", "a", 0, shares)
    assert [canonical_split(name) for name in (" Valid ", "TRAIN", "val", "Testing")] == ["val", "train", "val", "test"]
    with refuses(InvalidInput, repr(""), "train", "val", "test"):
        canonical_split("")


def test_manifest_changes_with_its_content(tiny_study):
    before = split_manifest(tiny_study.db)
    assert before == split_manifest(tiny_study.db)
    assert (before.train.n_patients, before.train.n_records) == (24, 24)
    with tiny_study.db.write() as connection:
        connection.execute(
            "UPDATE records SET patient_id = 'other' WHERE record_id = (SELECT min(record_id) FROM records)"
        )
    after = split_manifest(tiny_study.db)
    assert after.sha256 != before.sha256
    assert after.train == before.train
    assert after.test.sha256 != before.test.sha256


def test_database_refuses_a_patient_in_two_splits(tiny_study):
    with refuses(Conflict, "patient"), tiny_study.db.write() as connection:
        connection.execute(
            "INSERT INTO records SELECT 'x', dataset, patient_id, 'test', image_sha, caption, report, extra"
            " FROM records"
            " WHERE split = 'train' LIMIT 1"
        )


def test_components_join_through_others():
    groups = connected_components({"a": {1}, "b": {1, 2}, "c": {2}, "d": {3}, "e": set()})
    assert groups == [["a", "b", "c"], ["d"], ["e"]]
