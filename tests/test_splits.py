import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import Conflict, InvalidInput
from data.splits import assign_splits, canonical_split, nested_patients, split_manifest

names = st.lists(st.text("abcdef0123", min_size=1, max_size=4), min_size=1, max_size=60)


@given(names, st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_every_patient_has_one_split_whatever_the_order(patients, seed):
    found = assign_splits(patients, seed)
    assert set(found) == set(patients)
    assert found == assign_splits(reversed(patients), seed)
    assert set(found.values()) <= {"train", "val", "test"}


@given(names, st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_fractions_are_nested(patients, seed):
    parts = [set(nested_patients(patients, fraction, seed)) for fraction in (0.01, 0.1, 0.5, 1.0)]
    assert parts[0]
    assert parts[0] <= parts[1] <= parts[2] <= parts[3] == set(patients)


def test_sizes_and_seeds():
    patients = [f"p{i}" for i in range(1000)]
    found = list(assign_splits(patients, 1).values())
    assert [found.count(name) for name in ("train", "val", "test")] == [700, 100, 200]
    assert assign_splits(patients, 1) != assign_splits(patients, 2)
    assert len(nested_patients(patients, 0.01, 0)) == 10
    assert nested_patients(patients, 0.01, 0) != nested_patients(patients, 0.01, 1)


def test_bad_values():
    for fraction in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(InvalidInput, match="real fraction"):
            nested_patients(["a"], fraction, 0)
    with pytest.raises(InvalidInput, match="import records"):
        nested_patients([], 0.5, 0)
    with pytest.raises(InvalidInput, match="sum to 1"):
        assign_splits(["a"], 0, (0.5, 0.1, 0.1))
    assert canonical_split(" Valid ") == "val"
    with pytest.raises(InvalidInput, match="train, val or test"):
        canonical_split("")


def test_manifest_changes_with_its_content(tiny_study):
    before = split_manifest(tiny_study.db)
    assert before == split_manifest(tiny_study.db)
    assert before["train"]["n_patients"] == 24
    with tiny_study.db.write() as connection:
        connection.execute(
            "UPDATE records SET patient_id = 'other' WHERE record_id = (SELECT min(record_id) FROM records)"
        )
    after = split_manifest(tiny_study.db)
    assert after["sha256"] != before["sha256"]
    assert after["train"] == before["train"]
    assert after["test"]["sha256"] != before["test"]["sha256"]


def test_database_refuses_a_patient_in_two_splits(tiny_study):
    with pytest.raises(Conflict, match="patient is already in another split"), tiny_study.db.write() as connection:
        connection.execute(
            "INSERT INTO records SELECT 'x', dataset, patient_id, 'test', image_sha, caption, report, extra"
            " FROM records"
            " WHERE split = 'train' LIMIT 1"
        )
