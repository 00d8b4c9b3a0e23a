"""The audit log: a chain that names the row where it was changed, shortened or added to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from radpref.data.core.errors import Conflict
from radpref.data.study.audit import audit, broken_link, chain_hash
from radpref.data.study.study import Study
from radpref.data.upkeep.verify import verify
from tests.support.errors import refuses

DROPPED = ("audit_events_no_update", "audit_events_no_delete", "audit_events_chained")


@pytest.fixture
def logged(study: Study) -> Study:
    """A study with five audit rows."""
    for number in range(1, 6):
        with study.db.write() as connection:
            audit(connection, "office", f"action {number}", {"number": number, "text": "ä\n"})
    return study


def problems(study: Study) -> list[str]:
    return [line for line in verify(study).problems if line.startswith("audit log")]


def tamper(study: Study, *statements: str) -> None:
    """Do what the triggers forbid, and put them back, so that only the rows tell."""
    connection = study.db.connection
    triggers = [
        connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0] for name in DROPPED
    ]
    for name in DROPPED:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    for sql in triggers:
        connection.execute(sql)


def test_a_whole_chain(logged: Study) -> None:
    assert broken_link(logged.db.connection) is None
    assert problems(logged) == []
    assert verify(logged).checked["audit rows"] == 5
    assert len({row["hash"] for row in logged.db.rows("SELECT hash FROM audit_events")}) == 5


@pytest.mark.parametrize("column", ["at", "actor", "action", "detail", "hash"])
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_changed_row_is_named(logged: Study, column: str, number: int) -> None:
    value = "json('{}')" if column == "detail" else f"{column} || 'x'"
    tamper(logged, f"UPDATE audit_events SET {column} = {value} WHERE audit_id = {number}")
    assert broken_link(logged.db.connection) == number
    assert any(f"row {number} " in line for line in problems(logged))


@pytest.mark.parametrize(("number", "named"), [(1, 2), (3, 4)])
def test_a_row_taken_out_is_found_at_the_next_one(logged: Study, number: int, named: int) -> None:
    tamper(logged, f"DELETE FROM audit_events WHERE audit_id = {number}")
    assert broken_link(logged.db.connection) == named
    assert "5 rows were written, 4 are there" in " ".join(problems(logged))


def test_a_shortened_log_is_found_though_its_chain_is_whole(logged: Study) -> None:
    tamper(logged, "DELETE FROM audit_events WHERE audit_id >= 4")
    assert broken_link(logged.db.connection) is None
    assert problems(logged) == ["audit log: 5 rows were written, 3 are there"]


def test_a_row_put_in_is_named(logged: Study) -> None:
    tamper(
        logged,
        "UPDATE audit_events SET audit_id = 6 WHERE audit_id = 5",
        f"INSERT INTO audit_events VALUES (5, '1', 'x', 'y', '{{}}', '{'0' * 64}')",
    )
    assert broken_link(logged.db.connection) == 5
    assert any("row 5 " in line for line in problems(logged))


def test_two_rows_exchanged_are_named(logged: Study) -> None:
    tamper(
        logged,
        "UPDATE audit_events SET audit_id = 100 WHERE audit_id = 2",
        "UPDATE audit_events SET audit_id = 2 WHERE audit_id = 3",
        "UPDATE audit_events SET audit_id = 3 WHERE audit_id = 100",
    )
    assert broken_link(logged.db.connection) == 2


def test_a_row_not_written_here_is_refused(logged: Study) -> None:
    with refuses(Conflict, "audit.py"), logged.db.write() as connection:
        connection.execute("INSERT INTO audit_events(at, actor, action) VALUES ('1', 'x', 'y')")


def test_the_hash_depends_on_every_part() -> None:
    row = (1, "at", "actor", "action", "{}")
    variants: list[Callable[[], str]] = [lambda: chain_hash("0", row), lambda: chain_hash("1", row)]
    variants += [lambda k=k: chain_hash("0", (*row[:k], "other", *row[k + 1 :])) for k in range(5)]  # type: ignore[misc]
    assert len({make() for make in variants}) == 7


def test_a_transaction_that_fails_leaves_no_row(logged: Study) -> None:
    with pytest.raises(RuntimeError), logged.db.write() as connection:  # noqa: PT012
        audit(connection, "x", "y", {})
        raise RuntimeError
    assert logged.db.value("SELECT count(*) FROM audit_events") == 5
    assert problems(logged) == []
