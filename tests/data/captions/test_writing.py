"""`radpref data caption`: what is due, who writes, endpoints that fail in every way, cost, resume, lock."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from radpref.data.captions.due import Estimate, estimate_only
from radpref.data.captions.endpoint import Answer, ChatEndpoint, EndpointFailed, where
from radpref.data.captions.prompt import estimated_tokens, read_answer
from radpref.data.captions.writers import Asked
from radpref.data.captions.writing import write_captions
from radpref.data.cli import data_app
from radpref.data.config.data import CaptionsConfig
from radpref.data.core.errors import Conflict, InvalidInput
from radpref.data.reader_study import lifecycle
from radpref.data.study.study import Study
from radpref.data.text.caption_rules import Broken, broken_rules
from radpref.data.upkeep.verify import verify
from tests.support.data import add_rated_set, gray
from tests.support.endpoint import Endpoint, completion, failure, serve
from tests.support.errors import missing_names, refuses
from tests.support.grown import grow

REPORTS = [
    "IMPRESSION: Small right pleural effusion, unchanged.",
    "IMPRESSION: No acute process.",
    "IMPRESSION: Mild pulmonary edema since ___.",
    "FINDINGS: Left pneumothorax.",
]
CAPTIONS = ["Small right pleural effusion", "Normal", "Mild pulmonary edema", "Left pneumothorax"]


def add_records(study: Study, reports: list[str | None], captions: list[str | None] | None = None) -> None:
    """Records r0, r1 ... of the training split; labels: edema where the report says so."""
    with study.db.write() as connection:
        for k, text in enumerate(reports):
            sha = study.store.put_image(connection, gray(5000 + k, 32), "real")
            connection.execute(
                "INSERT INTO records(record_id, dataset, patient_id, split, image_sha, caption, report)"
                " VALUES (?, 'd', ?, ?, ?, ?, ?)",
                (f"r{k}", f"p{k}", "val" if k == 3 else "train", sha, captions[k] if captions else None, text),
            )
            connection.execute("INSERT INTO labels VALUES (?, 'edema', ?)", (f"r{k}", float("edema" in (text or ""))))


def captions_of(study: Study) -> list[str | None]:
    return [row["caption"] for row in study.db.rows("SELECT caption FROM records ORDER BY record_id")]


def events(study: Study) -> list[dict[str, Any]]:
    return study.db.rows("SELECT * FROM caption_events ORDER BY event_id")


@pytest.fixture
def filled(study: Study) -> Study:
    add_records(study, list(REPORTS))
    return study


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serve() as opened:
        yield opened


def with_endpoint(study: Study, url: str, extra: str = "", model: str = "m") -> Study:
    study.db.close()
    text = f'name = "fresh"\n[data]\nimage_size = 64\n[captions]\nbase_url = "{url}"\nmodel = "{model}"\n{extra}'
    (study.root / "study.toml").write_text(text)
    return Study(study.root)


def by_report(body: dict[str, Any]) -> Any:
    """A good endpoint: the right caption for each report."""
    text = body["messages"][1]["content"].lower()
    words = {"effusion": 0, "acute": 1, "edema": 2, "pneumothorax": 3}
    return completion(CAPTIONS[next(k for word, k in words.items() if word in text)], prompt_tokens=90,
                      completion_tokens=5)  # fmt: skip


class Slept(list[float]):
    """In place of time.sleep: keeps what would have been waited."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


# --- rules -------------------------------------------------------------------------------------------------------


def test_rules_write_every_caption_and_say_so(filled: Study) -> None:
    found = write_captions(filled)
    assert captions_of(filled) == CAPTIONS
    assert (found.n_due, found.n_written, found.n_unread) == (4, 4, 0)
    assert (found.n_labelled, found.n_asking) == (1, 1)
    assert [one.caption for one in found.examples] == CAPTIONS
    assert "___" not in str(found)
    rows = events(filled)
    assert {(row["run_id"], row["source"], row["version"]) for row in rows} == {(found.run_id, "rules", found.version)}
    assert [json.loads(row["detail"])["section"] for row in rows] == ["impression"] * 3 + ["findings"]
    again = write_captions(filled)
    assert (again.run_id, again.n_due, again.n_kept) == (None, 0, 4)
    assert len(events(filled)) == 4
    assert verify(filled).ok


def test_what_the_data_set_brought_stays_where_it_keeps_the_rules(study: Study) -> None:
    brought = ["Effusion on the right", "Pediatric radiograph, normal", "Stable edema", None]
    add_records(study, list(REPORTS), brought)
    assert any("captions break the study's rules" in note for note in verify(study).notes)
    found = write_captions(study)
    assert captions_of(study) == ["Effusion on the right", *CAPTIONS[1:]]
    assert found.broken == {"comma": 1, "comparison": 1}
    assert [row["previous"] for row in events(study)] == brought[1:]
    assert not any("captions break" in note for note in verify(study).notes)
    write_captions(study, redo=True)
    assert captions_of(study) == CAPTIONS


def test_split_and_limit(filled: Study) -> None:
    assert write_captions(filled, split="val").n_written == 1
    assert captions_of(filled) == [None, None, None, "Left pneumothorax"]
    assert write_captions(filled, limit=1).n_written == 1
    assert captions_of(filled)[:2] == ["Small right pleural effusion", None]


def test_a_record_that_says_nothing_keeps_what_it_has(study: Study) -> None:
    add_records(study, ["IMPRESSION: See above.", None], ["Stable chest, as before", None])
    with study.db.write() as connection:
        connection.execute("UPDATE labels SET value = NULL")
    found = write_captions(study)
    assert (found.n_written, found.n_unread) == (0, 2)
    assert captions_of(study) == ["Stable chest, as before", None]


def test_nothing_to_write_leaves_no_run(study: Study) -> None:
    add_records(study, ["IMPRESSION: See above."])
    with study.db.write() as connection:
        connection.execute("UPDATE labels SET value = NULL")
    found = write_captions(study)
    assert (found.n_due, found.n_unread, found.run_id) == (1, 1, None)
    assert study.db.rows("SELECT * FROM runs") == []


def test_the_overview_names_the_step(filled: Study) -> None:
    from radpref.data.upkeep.overview import data_overview, overview

    assert overview(filled).next.startswith("radpref data caption ")
    write_captions(filled)
    found = overview(filled)
    assert (found.captions, found.reports) == (4, 4)
    assert found.next.startswith("radpref generate sets ")
    splits = data_overview(filled).splits
    assert [getattr(splits, split).captions for split in ("train", "val", "test")] == [3, 1, 0]


def test_missing_replaces_nothing(study: Study) -> None:
    add_records(study, list(REPORTS), ["Stable, effusion", None, "Edema", None])
    found = write_captions(study, missing=True)
    assert (found.n_due, found.n_written) == (2, 2)
    assert captions_of(study) == ["Stable, effusion", "Normal", "Edema", "Left pneumothorax"]


def test_redo_and_missing_contradict_each_other(study: Study) -> None:
    add_records(study, list(REPORTS))
    for refused in (write_captions, estimate_only):
        with refuses(InvalidInput, "--redo", "--missing"):
            refused(study, redo=True, missing=True)
    assert captions_of(study) == [None] * 4
    assert events(study) == []


def test_the_estimate_counts_what_missing_would_ask(study: Study) -> None:
    """A caption that is there, whether or not it keeps the rules, is not asked for under --missing."""
    add_records(study, list(REPORTS), ["Normal", "worse than before, much worse indeed", None, None])
    study = with_endpoint(study, "http://127.0.0.1:9/v1")
    assert estimate_only(study).n_due == 3
    assert estimate_only(study, missing=True).n_due == 2


def test_a_round_captions_what_it_imports(filled: Study) -> None:
    from radpref import rounds

    found = rounds._missing_captions(filled)
    assert found["captions"]["n_written"] == 4
    assert rounds._missing_captions(filled) == {}
    with filled.db.write() as connection:
        connection.execute("UPDATE records SET caption = NULL")
    remote = with_endpoint(filled, "https://api.example.com/v1", 'allow_remote = true\nsource = "endpoint"\n')
    with refuses(Conflict, "data caption"):
        rounds._missing_captions(remote)
    add_rated_set(remote, source="r0")
    lifecycle.lock(remote, "office")
    assert rounds._missing_captions(remote) == {}


def test_labels_write_where_there_is_no_report(study: Study) -> None:
    add_records(study, [None, "IMPRESSION: edema"])
    with study.db.write() as connection:
        connection.execute("INSERT INTO labels VALUES ('r0', 'pneumothorax', 1), ('r0', 'pneumothorax/left', 1)")
    write_captions(study)
    assert captions_of(study) == ["Left pneumothorax", "Pulmonary edema"]


def test_a_new_version_of_the_rules_rewrites_only_its_own(filled: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    write_captions(filled)
    with filled.db.write() as connection:
        connection.execute("UPDATE records SET caption = 'Right effusion' WHERE record_id = 'r0'")  # by hand
    monkeypatch.setattr("radpref.data.captions.due.CAPTIONER_VERSION", 2)
    found = write_captions(filled)
    assert (found.n_due, found.n_kept) == (3, 1)
    assert captions_of(filled)[0] == "Right effusion"


def test_a_locked_study_keeps_its_captions(filled: Study) -> None:
    add_rated_set(filled, source="r0")
    lifecycle.lock(filled, "office")
    with refuses(Conflict, "locked"):
        write_captions(filled)
    with refuses(Conflict, "locked"), filled.db.write() as connection:
        connection.execute("UPDATE records SET caption = 'x'")
    assert events(filled) == []


def test_conditions_keep_the_text_that_was_shown(filled: Study) -> None:
    add_rated_set(filled, source="r0")
    before = filled.db.rows("SELECT * FROM conditions")
    assert write_captions(filled).n_conditions_kept == 1
    assert filled.db.rows("SELECT * FROM conditions") == before


def test_an_interrupted_run_goes_on(filled: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radpref.data.captions.due.BATCH", 1)
    import radpref.data.captions.writers as module

    real, calls = module._by_rules, iter(range(100))

    def interrupted(work: Any) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        real(work)

    monkeypatch.setattr(module, "_by_rules", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_captions(filled, redo=True)
    assert captions_of(filled) == [*CAPTIONS[:2], None, None]
    monkeypatch.setattr(module, "_by_rules", real)
    grow(filled)
    found = write_captions(filled, redo=True)  # a redo goes on where it was, too
    assert (found.n_due, found.n_written) == (2, 2)
    assert captions_of(filled) == CAPTIONS
    assert {row["run_id"] for row in events(filled)} == {found.run_id}


# --- endpoint ----------------------------------------------------------------------------------------------------


def test_the_endpoint_writes_and_a_rerun_costs_nothing(filled: Study, endpoint: Endpoint) -> None:
    study = with_endpoint(filled, endpoint.url, 'source = "endpoint"\nkey_env = "MY_KEY"\n')
    endpoint.reply = by_report
    found = write_captions(study, environ={"MY_KEY": "secret-key"})
    assert captions_of(study) == CAPTIONS
    assert found.by == {"rules": 0, "endpoint": 4, "fallback": 0}
    assert found.asked == Asked(n_answers=4, tokens_sent=360, tokens_answered=20)
    assert {body["temperature"] for body in endpoint.requests} == {0.0}
    assert {headers["Authorization"] for headers in endpoint.headers} == {"Bearer secret-key"}
    sent = json.dumps(endpoint.requests)
    assert "___" not in sent
    assert "FINDINGS" not in sent  # only what the impression says leaves
    again = write_captions(study, redo=True, environ={"MY_KEY": "other"})
    assert (again.n_written, len(endpoint.requests)) == (4, 4)
    stored = (study.root / "study.db").read_bytes() + b"".join(
        path.read_bytes() for path in (study.root / "runs").rglob("*") if path.is_file()
    )
    assert b"secret-key" not in stored
    assert verify(study).ok


def test_equal_reports_are_asked_once(study: Study, endpoint: Endpoint) -> None:
    add_records(study, ["IMPRESSION: Edema."] * 3)
    study = with_endpoint(study, endpoint.url)
    endpoint.reply = lambda body: completion("pulmonary edema.")
    assert write_captions(study, "endpoint").by["endpoint"] == 3
    assert captions_of(study) == ["Pulmonary edema"] * 3
    assert len(endpoint.requests) == 1


def test_a_caption_that_breaks_the_rules_is_asked_again_with_the_reason(study: Study, endpoint: Endpoint) -> None:
    add_records(study, ["IMPRESSION: Stable small left effusion."])
    study = with_endpoint(study, endpoint.url)
    endpoint.script = [completion("Stable, small left effusion"), completion(""), completion("Small left effusion")]
    found = write_captions(study, "endpoint")
    assert captions_of(study) == ["Small left effusion"]
    assert found.rejected == {"comma": 1, "empty": 1}
    assert "comma" in endpoint.requests[1]["messages"][-1]["content"]
    assert "compares with an earlier study" in endpoint.requests[1]["messages"][-1]["content"]
    assert json.loads(events(study)[0]["detail"])["rejected"] == ["comma", "empty"]
    write_captions(study, "endpoint", redo=True)
    assert len(endpoint.requests) == 3  # the whole exchange is remembered


def test_after_so_many_bad_answers_the_rules_write(filled: Study, endpoint: Endpoint) -> None:
    study = with_endpoint(filled, endpoint.url, "re_ask = 1\nconcurrency = 1\n")
    endpoint.reply = lambda body: completion("I am sorry, but there is nothing that I could say about this report")
    found = write_captions(study, "endpoint")
    assert found.by == {"rules": 0, "endpoint": 0, "fallback": 4}
    assert captions_of(study) == CAPTIONS
    assert len(endpoint.requests) == 8
    assert {row["source"] for row in events(study)} == {"fallback"}
    assert write_captions(study, "endpoint").n_due == 0
    assert all(broken_rules(caption) == [] for caption in captions_of(study))


def test_a_changed_rule_asks_only_what_it_must(filled: Study, endpoint: Endpoint,
                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    study = with_endpoint(filled, endpoint.url, "re_ask = 1\n")
    endpoint.reply = by_report
    write_captions(study, "endpoint")
    monkeypatch.setattr("radpref.data.captions.due.RULES_VERSION", 2)
    import radpref.data.captions.writers as module

    def stricter(caption: str | None) -> list[Broken]:
        return broken_rules(caption) or ([Broken("no size", "no sizes")] if "mall" in str(caption) else [])

    monkeypatch.setattr(module, "broken_rules", stricter)
    endpoint.reply = lambda body: completion("Right pleural effusion")
    found = write_captions(study, "endpoint")
    assert found.n_due == 4
    assert len(endpoint.requests) == 5
    assert captions_of(study) == ["Right pleural effusion", *CAPTIONS[1:]]


def test_what_passes_is_tried_again_as_long_as_the_server_says(filled: Study, endpoint: Endpoint) -> None:
    study = with_endpoint(filled, endpoint.url, "concurrency = 1\n")
    endpoint.script = [
        failure(429, "slow down", Retry_After="7"),
        failure(503, ""),
        failure(429, "", Retry_After="Thu, 01 Jan 1970 00:00:00 GMT"),
        failure(500, "<html>oops</html>", Retry_After="nan"),
    ]
    endpoint.reply = by_report
    slept = Slept()
    write_captions(study, "endpoint", sleep=slept)
    assert captions_of(study) == CAPTIONS
    assert slept == [7.0, 2.0, 0.0, 8.0]


NONSENSE = {
    "html": (200, {"Content-Type": "text/html"}, b"<html>Welcome</html>"),
    "not json": (200, {}, b"{broken"),
    "no choices": (200, {}, b'{"choices": []}'),
    "another shape": (200, {}, b'{"choices": [{"text": "Normal"}]}'),
    "a list": (200, {}, b"[1, 2]"),
    "a number": (200, {}, b'{"choices": [{"message": {"content": 5}}]}'),
    "not text": (200, {}, b"\xff\xfe"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_one_line_and_nothing_is_lost(filled: Study, endpoint: Endpoint, name: str) -> None:
    study = with_endpoint(filled, endpoint.url, "concurrency = 1\nmax_retries = 1\n")
    endpoint.script = [by_report({"messages": [{}, {"content": "effusion"}]}), NONSENSE[name], NONSENSE[name]]
    with refuses(EndpointFailed, endpoint.url, "captions.base_url"):
        write_captions(study, "endpoint", sleep=Slept())
    assert len(endpoint.requests) == 3  # what had not begun was not asked
    assert captions_of(study) == [CAPTIONS[0], None, None, None]
    endpoint.reply = by_report
    found = write_captions(study, "endpoint")
    assert (found.n_due, found.n_written) == (3, 3)
    assert len(endpoint.requests) == 6
    assert captions_of(study) == CAPTIONS


@pytest.mark.parametrize(
    ("status", "body", "named"),
    [
        (401, '{"error": {"message": "bad key"}}', ("captions.key_env",)),
        (404, "", ("captions.base_url", "captions.model")),
        (400, '{"error": {"message": "context\\ntoo long"}}', ("context too long", "[captions]")),
        (302, "", ("[captions]",)),
        (403, "no", ()),
    ],
)
def test_a_refusal_is_told_at_once(
    filled: Study, endpoint: Endpoint, status: int, body: str, named: tuple[str, ...]
) -> None:
    study = with_endpoint(filled, endpoint.url, "concurrency = 1\n")
    endpoint.script = [failure(status, body)]
    with refuses(EndpointFailed, endpoint.url, status, *named):
        write_captions(study, "endpoint", sleep=Slept())
    assert len(endpoint.requests) == 1


def test_an_endpoint_that_is_down(filled: Study) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    study = with_endpoint(filled, f"http://127.0.0.1:{port}/v1", "max_retries = 2\n")
    slept = Slept()
    with refuses(EndpointFailed, port, 3):
        write_captions(study, "endpoint", sleep=slept)
    assert captions_of(study) == [None] * 4
    assert set(slept) <= {1.0, 2.0}


def test_an_answer_that_never_comes_is_a_timeout(filled: Study) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        study = with_endpoint(filled, url, "max_retries = 0\ntimeout_s = 0.05\n")
        with refuses(EndpointFailed, url, 0.05):
            write_captions(study, "endpoint", sleep=Slept())


def test_content_in_parts_and_thoughts(endpoint: Endpoint) -> None:
    settings = CaptionsConfig(base_url=endpoint.url, model="m", body={"seed": 1, "model": "other"}, max_tokens=0)
    endpoint.script = [
        completion([{"type": "text", "text": "Mild "}, {"type": "text", "text": "edema"}], prompt_tokens=3),
        completion("<think>hm, edema?</think>\nMild edema"),
        completion("<think>too long"),
        completion(None),
    ]
    with ChatEndpoint(settings, {}) as opened:
        found = [opened.ask([{"role": "user", "content": "x"}]) for _ in range(4)]
    assert found[0] == Answer("Mild edema", 3, None)
    assert [one.text.strip() for one in found[1:]] == ["Mild edema", "", ""]
    assert endpoint.requests[0] == {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0.0,
                                    "seed": 1}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("normal", "Normal"), ("Normal.", "Normal"), ('"Mild edema"', "Mild edema"), ("**Mild edema**", "Mild edema"),
        ("Caption: Mild edema", "Mild edema"), ("Caption: 'Mild edema.'", "Mild edema"), ("", ""),
        ("Mild edema\nBecause of the lines", "Mild edema\nBecause of the lines"), ("“Œdème”", "Œdème"),
    ],
)  # fmt: skip
def test_a_caption_is_read_out_of_an_answer(answer: str, caption: str) -> None:
    assert read_answer(answer) == caption


def test_answers_that_were_paid_for_survive_an_interruption(
    filled: Study, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = with_endpoint(filled, endpoint.url, "concurrency = 1\n")
    endpoint.reply = by_report
    real, calls = ChatEndpoint.ask, iter(range(100))

    def interrupted(self: ChatEndpoint, messages: Any) -> Answer:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(self, messages)

    monkeypatch.setattr(ChatEndpoint, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_captions(study, "endpoint")
    assert captions_of(study) == [None] * 4
    assert study.db.value("SELECT count(*) FROM caption_answers") == len(endpoint.requests) >= 2
    monkeypatch.setattr(ChatEndpoint, "ask", real)
    write_captions(study, "endpoint")
    assert captions_of(study) == CAPTIONS
    assert len(endpoint.requests) == 4


# --- privacy and cost --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://localhost:8000/v1", "this machine"), ("http://127.0.0.1/v1", "this machine"),
        ("http://[::1]:8000/v1", "this machine"), ("http://127.8.8.8", "this machine"),
        ("http://192.168.1.5:8000/v1", "private network"), ("http://10.0.0.1/v1", "private network"),
        ("http://vllm:8000/v1", "private network"), ("http://gpu.local/v1", "private network"),
        ("https://api.example.com/v1", "remote"), ("https://8.8.8.8/v1", "remote"),
        ("https://localhost.example.com/v1", "remote"), ("https://[2606:4700::1]/v1", "remote"),
    ],
)  # fmt: skip
def test_where_an_endpoint_is(url: str, place: str) -> None:
    assert where(url) == place


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, ("captions.base_url",)),
        ({"base_url": "http://localhost/v1"}, ("captions.model",)),
        ({"base_url": "localhost:8000", "model": "m"}, ("captions.base_url", "localhost:8000")),
        ({"base_url": "ftp://x/v1", "model": "m"}, ("captions.base_url", "ftp://x/v1")),
        ({"base_url": "https://api.example.com/v1", "model": "m"}, ("allow_remote", "api.example.com")),
        ({"base_url": "http://api.example.com/v1", "model": "m", "allow_remote": True}, ("https",)),
        ({"base_url": "https://me:pw@localhost/v1", "model": "m"}, ("captions.base_url",)),
        ({"base_url": "http://localhost/v1", "model": "m", "key_env": "NOT_SET"}, ("NOT_SET",)),
    ],
)  # fmt: skip
def test_settings_that_may_not_be_used(settings: dict[str, Any], named: tuple[str, ...]) -> None:
    with refuses(InvalidInput, *named) as raised:
        ChatEndpoint(CaptionsConfig(**settings), {})
    assert "pw" not in str(raised.value)


def test_the_estimate_asks_nothing(filled: Study, endpoint: Endpoint) -> None:
    study = with_endpoint(filled, endpoint.url, "price_input = 1000000.0\nprice_output = 2000000.0\n")
    found = estimate_only(study)
    sent = sum(estimated_tokens(text.split(": ", 1)[1].replace(" since ___", " since"))[0] for text in REPORTS)
    assert (found.n_due, found.n_reports, found.n_to_ask, found.n_cached) == (4, 4, 4, 0)
    assert (found.tokens_sent, found.tokens_answered) == (sent, 32)
    assert found.cost == pytest.approx(sent + 64)
    assert endpoint.requests == []
    assert study.db.rows("SELECT * FROM runs") == []
    endpoint.reply = by_report
    write_captions(study, "endpoint", split="val")
    after = estimate_only(study, redo=True)
    assert (after.n_to_ask, after.n_cached) == (3, 1)


def test_before_reports_leave_the_machine_somebody_says_so(filled: Study) -> None:
    study = with_endpoint(filled, "https://api.example.com/v1", "allow_remote = true\n")
    asked: list[Estimate] = []

    def refuse(expected: Estimate) -> None:
        asked.append(expected)
        raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        write_captions(study, "endpoint", confirm=refuse)
    assert (asked[0].place, asked[0].n_to_ask) == ("remote", 4)
    assert study.db.rows("SELECT * FROM runs") == []


# --- command -----------------------------------------------------------------------------------------------------


def test_the_command(filled: Study, endpoint: Endpoint) -> None:
    runner = CliRunner()
    study = with_endpoint(filled, endpoint.url)
    endpoint.reply = by_report

    def run(*words: str) -> Any:
        return runner.invoke(data_app, ["caption", "--study", str(study.root), *words])

    shown = run("--estimate")
    assert "4 questions to http://127.0.0.1" in shown.output
    assert "price unknown" in shown.output
    assert json.loads(run("--estimate", "--json").output)["n_to_ask"] == 4
    shown = run("--source", "endpoint", "--json")
    assert json.loads(shown.output)["by"]["endpoint"] == 4
    shown = run("--source", "rules", "--redo")
    assert "4 were due, 4 written (rules" in shown.output
    assert "Small right pleural effusion" in shown.output
    assert isinstance(run("--source", "tarot").exception, InvalidInput)
    assert isinstance(run("--split", "all").exception, InvalidInput)
    remote = with_endpoint(study, "https://api.example.com/v1", "allow_remote = true\n", "other")
    shown = runner.invoke(data_app, ["caption", "--study", str(remote.root), "--source", "endpoint", "--redo"])
    assert isinstance(shown.exception, Conflict)
    assert missing_names(str(shown.exception), 4) == []
    assert "Scrubbed impressions leave this machine" in shown.output


def test_captions_of_old_configurations(tmp_path: Path) -> None:
    old = Study.create(tmp_path / "old", 'name = "old"\n')
    assert old.config.captions.source == "rules"
    old.db.close()
