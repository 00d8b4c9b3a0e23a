from __future__ import annotations

from typing import Any

import pytest

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.reader_study.raters import (
    add_rater,
    get_rater,
    list_raters,
    order_seed,
    password_hash_of,
    rater_by_id,
    set_password_hash,
)
from radpref.data.study.study import Study
from tests.support.errors import refuses


def test_add_and_list(study: Study) -> None:
    ann = add_rater(study.db, "ann", "hash")
    sim = add_rater(study.db, "sim-1", kind="simulated", detail={"noise": 0.5})
    assert (ann.kind, ann.role, ann.active) == ("human", "rater", True)
    assert rater_by_id(study.db, sim.rater_id).detail == {"noise": 0.5}
    assert [rater.username for rater in list_raters(study.db)] == ["ann", "sim-1"]
    assert [rater.username for rater in list_raters(study.db, "simulated")] == ["sim-1"]
    assert ann.order_seed == order_seed("ANN") != sim.order_seed


def test_duplicate_name_in_any_case_is_a_conflict(study: Study) -> None:
    add_rater(study.db, "Ann")
    with refuses(Conflict, "ann", "rater reset"):
        add_rater(study.db, "ann")
    assert len(list_raters(study.db)) == 1


@pytest.mark.parametrize("name", ["", " ", "a b", "../x", "-x", "x" * 65, "ä", "a\n", 3, None])
def test_unusable_names(study: Study, name: Any) -> None:
    with refuses(InvalidInput, repr(name)):
        add_rater(study.db, name)


def test_unusable_kinds_and_roles(study: Study) -> None:
    wrong: list[dict[str, Any]] = [
        {"kind": "robot"},
        {"role": "root"},
        {"kind": "simulated", "role": "admin"},
        {"kind": "simulated", "password_hash": "hash"},
    ]
    for options in wrong:
        with pytest.raises(InvalidInput):
            add_rater(study.db, "x", **options)


def test_simulated_raters_have_no_password(study: Study) -> None:
    add_rater(study.db, "sim", kind="simulated")
    assert password_hash_of(study.db, "sim") is None
    with refuses(InvalidInput, "sim"):
        set_password_hash(study.db, "sim", "hash")


def test_reset_ends_logins_and_is_audited(study: Study) -> None:
    ann = add_rater(study.db, "ann", "old")
    with study.db.write() as connection:
        connection.execute("INSERT INTO sessions VALUES ('h', ?, 'a', 'b', 'c')", (ann.rater_id,))
    set_password_hash(study.db, "ann", "new")
    assert password_hash_of(study.db, "ann") == (ann.rater_id, "new")
    assert study.db.value("SELECT count(*) FROM sessions") == 0
    assert [row["action"] for row in study.db.rows("SELECT * FROM audit_events")] == ["rater added", "password reset"]
    assert get_rater(study.db, "ann") == ann


def test_unknown_raters(study: Study) -> None:
    with refuses(NotFound, "nobody", "annotate rater list"):
        get_rater(study.db, "nobody")
    with pytest.raises(NotFound):
        rater_by_id(study.db, 7)
