"""Every byte, header and address a rater gets over a whole study, searched for anything that would unblind."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from radpref.annotate_app.blinding import fit, letter_of, slot_of
from radpref.annotate_app.server import create_app
from radpref.data.core.errors import NotFound
from radpref.data.study.study import Study
from tests.support.annotate import PASSWORD, SECRETS, add_people, make_study


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    opened = make_study(tmp_path)
    add_people(opened)
    yield opened
    opened.db.close()


def forbidden(study: Study) -> list[bytes]:
    found = [
        *SECRETS,
        str(study.root),
        "study.db",
        "bob",
        "sim-1",
        "office",
        "synthetic image",
        "seed",
        "purpose",
        "rating",
        "sha",
    ]
    found += [row["sha256"] for table in ("images", "masks") for row in study.db.rows(f"SELECT sha256 FROM {table}")]
    found += [str(row["token"]) for row in study.db.rows("SELECT token FROM presentations WHERE rater_id <> 1")]
    return [text.encode() for text in found]


def crawl(client: TestClient) -> list[tuple[str, Any]]:
    """What the scoring page asks for, from the first set to the last."""
    got: list[tuple[str, Any]] = []

    def get(path: str) -> Any:
        answer = client.get(path)
        got.append((path, answer))
        return answer

    get("/api/session")
    while (state := get("/api/next").json()["set"]) is not None:
        token = state["token"]
        for rest in ("", "/images/A", "/images/B", "/images/C", "/images/D", "/mask", "/images/E"):
            get(f"/api/sets/{token}{rest}")
        wishes = [(letter, criterion) for letter in "ABCD" for criterion in state["criteria"]]
        bodies: list[dict[str, Any]] = [
            {"kind": "score", "letter": letter, "criterion": criterion, "value": 3} for letter, criterion in wishes
        ]
        bodies += [
            {"kind": "submit"},
            {"kind": "score", "letter": "A", "criterion": "x", "value": 9},
            {"kind": "nonsense"},
        ]
        for body in bodies:
            path = f"/api/sets/{token}/events"
            full = {"uuid": str(uuid.uuid4()), "seen": 0, "tab": "t", **body}
            got.append((path, client.post(path, json=full)))
    for path in ("/", "/read/", "/login", "/api/admin/overview", "/report/", "/nothing", "/api/sets/" + "x" * 24):
        get(path)
    return got


def test_nothing_a_rater_gets_unblinds(study: Study) -> None:
    with TestClient(create_app(study), follow_redirects=False) as bob:
        bob.post("/login", json={"username": "bob", "password": PASSWORD})
        bob.get("/api/next")
    with TestClient(create_app(study), follow_redirects=False) as client:
        client.post("/login", json={"username": "ann", "password": PASSWORD})
        got = crawl(client)
    words = forbidden(study)
    assert len(got) > 40
    for path, answer in got:
        content = (
            answer.content if not path.startswith("/read") else re.sub(rb"gradio_api_info = .*", b"", answer.content)
        )
        content = content.replace(b'"stage":"rating"', b"")  # where the rater stands, not what a set is for
        everything = b"\n".join([path.encode(), repr(dict(answer.headers)).encode(), content])
        for word in words:
            if path in ("/read/", "/login") and word in (b"sha", b"rating"):
                continue  # syllables of Gradio's own page
            assert word not in everything, f"{path} holds {word!r}"


def test_images_are_bare_pixels_of_equal_length_and_headers(study: Study) -> None:
    with TestClient(create_app(study)) as client:
        client.post("/login", json={"username": "ann", "password": PASSWORD})
        state = client.get("/api/next").json()["set"]
        answers = [client.get(f"/api/sets/{state['token']}/images/{letter}") for letter in "ABCD"]
    assert {len(answer.content) for answer in answers} == {32 * 32 * 2}
    assert {tuple(answer.headers.items()) for answer in answers} == {tuple(answers[0].headers.items())}
    assert "etag" not in answers[0].headers
    assert "last-modified" not in answers[0].headers
    row = study.db.row("SELECT slots, set_id FROM presentations WHERE token = ?", (state["token"],))
    assert row is not None
    for answer, slot in zip(answers, row["slots"], strict=True):
        sha = study.db.value(
            "SELECT image_sha FROM set_images WHERE set_id = ? AND slot = ?", (row["set_id"], int(slot))
        )
        shown = np.frombuffer(answer.content, dtype="<u2").reshape(32, 32)
        np.testing.assert_array_equal(shown, study.store.image(sha))


def test_masks_are_one_bit_per_structure(study: Study) -> None:
    with TestClient(create_app(study)) as client:
        client.post("/login", json={"username": "ann", "password": PASSWORD})
        state = client.get("/api/next").json()["set"]
        while state["mode"] != "M2I":
            state = client.get(f"/api/sets/{state['next']}").json()
        field = np.frombuffer(client.get(f"/api/sets/{state['token']}/mask").content, dtype="<u2").reshape(32, 32)
    assert state["mask"] == {"width": 32, "height": 32, "structures": ["lungs", "heart"]}
    assert state["text"] is None
    assert field[5, 10] == 1
    assert field[20, 10] == 2
    assert field[0, 0] == 0


def test_images_of_other_sizes_and_depths_become_alike() -> None:
    small = np.full((2, 2), 255, dtype=np.uint8)
    fitted = fit(small, 4, 4, 16)
    assert fitted.dtype == np.uint16
    assert fitted.shape == (4, 4)
    assert fitted[1, 1] == 65535
    assert fitted[0, 0] == 0
    np.testing.assert_array_equal(fit(small, 2, 2, 8), small)


def test_letters_and_slots() -> None:
    assert [slot_of("2031", letter) for letter in "ABCD"] == [2, 0, 3, 1]
    assert [letter_of("2031", slot) for slot in range(4)] == ["B", "D", "A", "C"]
    for letter in ("E", "AB", "", None, 0, "a"):
        with pytest.raises(NotFound):
            slot_of("2031", letter)
