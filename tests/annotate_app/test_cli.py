"""`radpref annotate`: accounts, agreement, the port."""

from __future__ import annotations

import json
import re
import socket
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from radpref.annotate_app.accounts import check_password
from radpref.annotate_app.cli import app, check_port
from radpref.annotate_app.invites import accept
from radpref.data.agreement.rater_quality import study_agreement
from radpref.data.agreement.reliability import agreement_lines
from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.reader_study.lifecycle import lock
from radpref.data.reader_study.presentations import ensure_presentations
from radpref.data.reader_study.raters import add_rater
from radpref.data.reader_study.scores import ScoreEvent, record_events
from radpref.data.study.study import Study
from tests.support.annotate import make_study
from tests.support.errors import missing_names, refuses

runner = CliRunner()


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    opened = make_study(tmp_path, ("T2I",) * 6)
    yield opened
    opened.db.close()


def run(*arguments: str) -> str:
    result = runner.invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_add_list_reset(study: Study) -> None:
    place = ("--study", str(study.root))
    password = re.search(r"password: (\S+)", run("rater", "add", "ann", *place))
    assert password
    assert check_password(study.db, "ann", password[1]) == 1
    run("rater", "add", "office", "--role", "admin", *place)
    again = re.search(r"password: (\S+)", run("rater", "reset", "ann", "--password", *place))
    assert again
    assert check_password(study.db, "ann", password[1]) is None
    assert check_password(study.db, "ann", again[1]) == 1
    listed = run("rater", "list", *place)
    assert re.search(r"ann +rater +human +0 of 6 sets done", listed)
    assert re.search(r"office +admin", listed)
    assert json.loads(run("rater", "list", "--json", *place))["admins"] == ["office"]


def test_invite_and_reset_by_link(study: Study) -> None:
    place = ("--study", str(study.root))
    output = run("rater", "invite", "carla", "--base-url", "https://room.example/x/", "--role", "admin", *place)
    token = re.search(r"^https://room\.example/x/invite#(\S{43})$", output, re.MULTILINE)
    assert token
    accept(study.db, token[1], "seven quiet lighthouses")
    assert check_password(study.db, "carla", "seven quiet lighthouses") == 1
    found = json.loads(run("rater", "reset", "carla", "--json", "--days", "1", *place))
    assert found["link"].startswith("http://127.0.0.1:7860/invite#")
    assert check_password(study.db, "carla", "seven quiet lighthouses") is None
    accept(study.db, found["link"].partition("#")[2], "eight quiet lighthouses")
    assert check_password(study.db, "carla", "eight quiet lighthouses") == 1
    run("rater", "invite", "emil", *place)
    assert re.search(r"emil +rater +human .*no password yet", run("rater", "list", *place))
    result = runner.invoke(app, ["rater", "invite", "dora", "--base-url", "room.example", *place])
    assert isinstance(result.exception, InvalidInput)
    assert study.db.value("SELECT count(*) FROM raters") == 2, "nobody is added for a bad address"


def test_retire_reinstate_admit(study: Study) -> None:
    place = ("--study", str(study.root))
    run("rater", "add", "ann", *place)
    run("rater", "retire", "ann", *place)
    assert "retired" in run("rater", "list", *place)
    run("rater", "reinstate", "ann", *place)
    run("rater", "admit", "ann", *place)
    rows = study.db.rows("SELECT actor, action FROM audit_events ORDER BY audit_id")
    assert [row["action"] for row in rows] == ["rater added", "rater retired", "rater reinstated", "rater admitted"]
    assert all(row["actor"].startswith("command line") for row in rows)


def test_serve_refuses_a_section_that_was_changed_after_the_lock(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[int] = []
    monkeypatch.setattr("radpref.annotate_app.server.serve", lambda *arguments, **options: served.append(1))
    monkeypatch.setattr("radpref.annotate_app.cli.check_port", lambda host, port: None)
    place = ("--study", str(study.root))
    lock(study, "office")
    run("serve", *place)
    toml = study.root / "study.toml"
    toml.write_text(toml.read_text() + "break_minutes = 3.0\n")
    result = runner.invoke(app, ["serve", *place])
    assert isinstance(result.exception, Conflict)
    assert missing_names(str(result.exception), "break_minutes", 3.0, 40.0) == []
    assert served == [1]


def test_bad_accounts_are_one_line(study: Study) -> None:
    place = ("--study", str(study.root))
    run("rater", "add", "ann", *place)
    add_rater(study.db, "sim", kind="simulated")
    cases = [
        (("rater", "add", "ANN", *place), Conflict),
        (("rater", "add", "a b", *place), InvalidInput),
        (("rater", "add", "x", "--role", "boss", *place), InvalidInput),
        (("rater", "reset", "nobody", *place), NotFound),
        (("rater", "reset", "sim", *place), InvalidInput),
        (("rater", "list", "--study", str(study.root / "no")), NotFound),
    ]
    for arguments, kind in cases:
        result = runner.invoke(app, list(arguments))
        assert isinstance(result.exception, kind), arguments
        assert "\n" not in str(result.exception)


def test_a_typed_password_must_be_long_enough(study: Study) -> None:
    arguments = ["rater", "add", "ann", "--ask", "--study", str(study.root)]
    result = runner.invoke(app, arguments, input="short\nshort\n")
    assert isinstance(result.exception, InvalidInput)
    result = runner.invoke(app, arguments, input="long enough\nlong enough\n")
    assert result.exit_code == 0
    assert "long enough" not in result.output


def test_agreement_keeps_people_and_programs_apart(study: Study) -> None:
    place = ("--study", str(study.root))
    assert run("agreement", *place) == "no scores yet\n"
    for name in ("sim-1", "sim-2"):
        rater = add_rater(study.db, name, kind="simulated")
        ensure_presentations(study.db, rater.rater_id, 0)
        shown = study.db.rows("SELECT * FROM presentations WHERE rater_id = ? ORDER BY set_id", (rater.rater_id,))
        events = [
            ScoreEvent(
                str(uuid.uuid4()), row["presentation_id"], rater.rater_id, "score", slot, "text", (slot + index) % 6
            )
            for index, row in enumerate(shown)
            for slot in range(4)
        ]
        record_events(study.db, events)
    output = run("agreement", "--n-boot", "50", *place)
    assert "SIMULATED raters: 2 raters, 6 sets, 48 scores" in output
    assert re.search(r"text +icc_2_1 +1.000", output)
    report = json.loads(run("agreement", "--n-boot", "50", "--json", *place))
    computed = study_agreement(study, n_boot=50)
    assert report == json.loads(json.dumps(asdict(computed)))
    assert "\n".join(agreement_lines(computed)) + "\n" == output


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with refuses(Conflict, "127.0.0.1", port):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
    with refuses(InvalidInput, "192.0.2.1", port):
        check_port("192.0.2.1", port)
