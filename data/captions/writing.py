"""Writing captions into a study: which records are due, who writes, and what is kept of it.

Input: records with reports and labels. Output: ``records.caption``, one row of ``caption_events`` for each, a run of
kind "caption". Only captions that break no rule are written. A record is due where it has no caption, one that breaks
the rules, or one that an earlier version wrote; captions of the data set that keep the rules stay (``redo`` replaces
them too). Conditions that were drawn from records before keep the text they have: what raters saw does not change.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event
from typing import Any

from radpref.data.captions.due import (
    Work,
    batches,
    chosen_source,
    due_records,
    estimate,
    known_answers,
    load,
    version_of,
)
from radpref.data.captions.endpoint import Answer, ChatEndpoint, EndpointFailed
from radpref.data.captions.prompt import again, first_messages, read_answer
from radpref.data.core.errors import Conflict
from radpref.data.core.progress import bar
from radpref.data.reader_study.lifecycle import stage
from radpref.data.study.conditions import asked_attributes
from radpref.data.study.runs import Run, now, start_run, unfinished_run
from radpref.data.study.study import Study
from radpref.data.text.caption_rules import broken_rules
from radpref.data.text.rule_captions import rule_caption

N_EXAMPLES = 8
"""Captions that are shown when a run ends."""


def write_captions(
    study: Study,
    source: str | None = None,
    *,
    redo: bool = False,
    missing: bool = False,
    split: str | None = None,
    limit: int | None = None,
    environ: Mapping[str, str] | None = None,
    confirm: Callable[[dict[str, Any]], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Write the captions that are due; returns counts and examples, JSON-ready. The same call again resumes.

    Args:
        source: "rules" or "endpoint"; default: captions.source of study.toml.
        redo: also replace the data set's own captions that keep the rules. missing: replace none that is there.
        split: only records of this split. limit: at most so many records.
        environ: where the endpoint's key is looked up.
        confirm: called with the estimate before an endpoint is asked; it raises to stop.

    Raises:
        Conflict: the study is locked or frozen.
        InvalidInput: an unknown source or split, redo with missing, or an endpoint that may not be used.
        EndpointFailed: the endpoint does not work; what it wrote so far is stored.
    """
    source = chosen_source(study, source, split, redo=redo, missing=missing)
    if (found := stage(study.db)) in ("locked", "frozen"):
        raise Conflict(f"the study is {found}: its captions are fixed; caption another study")
    with ExitStack() as stack:
        endpoint = None
        if source == "endpoint":
            endpoint = stack.enter_context(ChatEndpoint(study.config.captions, environ or {}, sleep))
        version = version_of(source, study.config.captions.model)
        config = _run_config(study, source, version, redo, split, limit)
        unfinished = unfinished_run(study, "caption", config) if redo else None  # a redo goes on in it
        earlier = None if unfinished is None else unfinished.run_id
        due, counts = due_records(study, version, split, earlier, redo=redo, missing=missing)
        due = due[:limit]
        result: dict[str, Any] = {"source": source, "version": version, **counts, "n_due": len(due)}
        if not due:
            return {**result, "run_id": None, "n_written": 0}
        if endpoint is not None and confirm is not None:
            confirm(estimate(study, endpoint, [record_id for record_id, _ in due]))
        runs: list[Run] = []

        def begin() -> Run:  # with the first caption: a call that finds nothing to write leaves no run
            if not runs:
                runs.append(stack.enter_context(start_run(study, "caption", config)))
            return runs[0]

        result |= _write_all(study, begin, due, version, endpoint)
        result["run_id"] = runs[0].run_id if runs else None
        if runs:
            result["n_conditions_kept"] = _conditions_of(study, runs[0])
            runs[0].result = dict(result)
    return result


def _run_config(
    study: Study, source: str, version: str, redo: bool, split: str | None, limit: int | None
) -> dict[str, Any]:
    settings = study.config.captions.model_dump(mode="json") if source == "endpoint" else {}
    return {"source": source, "version": version, "redo": redo, "split": split, "limit": limit, "endpoint": settings}


# --- writing -----------------------------------------------------------------------------------------------------


def _write_all(
    study: Study,
    begin: Callable[[], Run],
    due: Sequence[tuple[str, str | None]],
    version: str,
    endpoint: ChatEndpoint | None,
) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    examples: list[dict[str, Any]] = []
    known = known_answers(study) if endpoint else {}
    n_before, usage = len(known), [0, 0]
    with bar("captions", len(due)) as advance:
        for batch in batches(due):
            works = load(study, batch)
            if endpoint is None:
                for work in works:
                    _by_rules(work)
            else:
                try:
                    _by_endpoint(study, works, endpoint, known)
                except BaseException:
                    _store_answers(study, works)  # they were paid for
                    raise
            if endpoint is not None:
                _store_answers(study, works)
            if ready := [work for work in works if work.caption is not None and not work.skipped]:
                _store(study, begin(), ready, version)
            for work in works:
                rejected.update(work.rejected)
                for answer in work.fresh.values():
                    usage[0] += answer.prompt_tokens or 0
                    usage[1] += answer.completion_tokens or 0
                if work.skipped:
                    continue
                counts["unread" if work.caption is None else work.source] += 1
                counts["labelled"] += any(value == 1 for value in work.labels.values())
                counts["asking"] += bool(asked_attributes(work.caption or "", work.labels))
                if work.caption and len(examples) < N_EXAMPLES:
                    text = work.found.text if work.found else "(labels only)"
                    examples.append({"record": work.record_id, "caption": work.caption, "text": text[:160]})
            if failed := next((work.failed for work in works if work.failed), None):
                raise failed
            advance(len(batch))
    written = {name: counts[name] for name in ("rules", "endpoint", "fallback")}
    return {
        "n_written": sum(written.values()),
        "by": written,
        "n_unread": counts["unread"],
        "rejected": dict(sorted(rejected.items())),
        "n_labelled": counts["labelled"],
        "n_asking": counts["asking"],
        "n_conditions_kept": 0,
        "asked": {"n_answers": len(known) - n_before, "tokens_sent": usage[0], "tokens_answered": usage[1]},
        "examples": examples,
    }


def _conditions_of(study: Study, run: Run) -> int:
    """Conditions drawn from records whose caption this run changed: they keep their text."""
    return int(
        study.db.value(
            "SELECT count(DISTINCT c.condition_id) FROM conditions c JOIN caption_events e"
            " ON e.record_id = c.text_record WHERE e.run_id = ? AND c.text <> e.caption",
            (run.run_id,),
        )
    )


def _by_rules(work: Work) -> None:
    caption = rule_caption(work.found.text if work.found else None, work.labels)
    work.caption = caption if caption and not broken_rules(caption) else None


def _by_endpoint(study: Study, works: Sequence[Work], endpoint: ChatEndpoint, known: dict[str, Answer]) -> None:
    """Ask for a batch, equal impressions once; a failure stops what has not begun."""
    groups: dict[str, list[Work]] = {}
    for work in works:
        if work.found is None:
            _by_rules(work)
        else:
            groups.setdefault(work.found.text, []).append(work)
    stop = Event()
    with ThreadPoolExecutor(study.config.captions.concurrency) as pool:
        try:
            list(pool.map(lambda group: _ask(group[0], endpoint, known, stop), groups.values()))
        except BaseException:
            stop.set()  # what has not begun is not asked
            raise
    for first, *others in groups.values():
        known |= first.fresh
        for work in others:
            if first.skipped or first.source == "endpoint":
                work.caption, work.source, work.skipped = first.caption, first.source, first.skipped
                continue
            _by_rules(work)  # the labels of each record are its own
            work.source = "fallback"


def _ask(work: Work, endpoint: ChatEndpoint, known: Mapping[str, Answer], stop: Event) -> None:
    """Ask for one caption, again with the reason where it breaks the rules; at last the rules write it."""
    assert work.found is not None
    messages = first_messages(work.found.text)
    for _ in range(endpoint.settings.re_ask + 1):
        key = endpoint.key(messages)
        answer = known.get(key) or work.fresh.get(key)
        if answer is None:
            if stop.is_set():
                work.skipped = True
                return
            try:
                answer = work.fresh[key] = endpoint.ask(messages)
            except EndpointFailed as error:
                stop.set()
                work.failed, work.skipped = error, True
                return
        caption = read_answer(answer.text)
        broken = broken_rules(caption)
        if not broken:
            work.caption, work.source = caption, "endpoint"
            return
        work.rejected.append(broken[0].rule)
        messages = again(messages, answer.text, broken)
    _by_rules(work)
    work.source = "fallback"


def _store_answers(study: Study, works: Sequence[Work]) -> None:
    """The endpoint's answers, whatever becomes of them."""
    rows = [
        (key, study.config.captions.model, one.text, one.prompt_tokens, one.completion_tokens, now())
        for work in works
        for key, one in work.fresh.items()
    ]
    with study.db.write() as connection:
        connection.executemany("INSERT INTO caption_answers VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)


def _store(study: Study, run: Run, works: Sequence[Work], version: str) -> None:
    """Captions and who wrote them, in one transaction."""
    with study.db.write() as connection:
        for work in works:
            detail = {"section": work.found.section if work.found else None, "rejected": work.rejected}
            connection.execute("UPDATE records SET caption = ? WHERE record_id = ?", (work.caption, work.record_id))
            connection.execute(
                "INSERT INTO caption_events(record_id, run_id, source, version, caption, previous, detail, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    work.record_id, run.run_id, work.source, version, work.caption, work.previous, json.dumps(detail),
                    now(),
                ),
            )  # fmt: skip
