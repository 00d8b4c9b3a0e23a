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
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from radpref.data.captions.due import (
    Due,
    Estimate,
    Work,
    batches,
    chosen_source,
    due_records,
    estimate,
    load,
    version_of,
)
from radpref.data.captions.endpoint import ChatEndpoint
from radpref.data.captions.writers import Asked, EndpointWriter, RulesWriter
from radpref.data.core.errors import Conflict
from radpref.data.core.progress import bar
from radpref.data.reader_study.lifecycle import stage
from radpref.data.study.conditions import asked_attributes
from radpref.data.study.runs import Run, now, start_run, unfinished_run
from radpref.data.study.study import Study

N_EXAMPLES = 8
"""Captions that are shown when a run ends."""


@dataclass(frozen=True)
class Example:
    """A caption beside the beginning of what it was made of."""

    record: str
    caption: str
    text: str


@dataclass(frozen=True)
class CaptionResult:
    """What was due and what was written.

    n_kept: captions that stay; broken: rule -> captions that were there and broke it; by: writer -> captions; n_unread:
    records that say nothing a caption can be made of; rejected: rule -> answers that broke it; n_asking: of n_labelled
    captions of records with labels, those that ask for a label; n_conditions_kept: conditions that keep an older text.
    """

    source: str
    version: str
    n_records: int
    n_kept: int
    broken: Mapping[str, int]
    n_due: int
    run_id: str | None = None
    n_written: int = 0
    by: Mapping[str, int] = field(default_factory=dict)
    n_unread: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    n_labelled: int = 0
    n_asking: int = 0
    n_conditions_kept: int = 0
    asked: Asked = field(default_factory=Asked)
    examples: tuple[Example, ...] = ()


def write_captions(
    study: Study,
    source: str | None = None,
    *,
    redo: bool = False,
    missing: bool = False,
    split: str | None = None,
    limit: int | None = None,
    environ: Mapping[str, str] | None = None,
    confirm: Callable[[Estimate], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> CaptionResult:
    """Write the captions that are due. The same call again resumes.

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
    settings = study.config.captions
    with ExitStack() as stack:
        asks = source == "endpoint"
        endpoint = stack.enter_context(ChatEndpoint(settings, environ or {}, sleep)) if asks else None
        version = version_of(source, settings.model)
        asked = settings.model_dump(mode="json") if asks else {}
        config = {"source": source, "version": version, "redo": redo, "split": split, "limit": limit, "endpoint": asked}
        unfinished = unfinished_run(study, "caption", config) if redo else None  # a redo goes on in it
        earlier = None if unfinished is None else unfinished.run_id
        due, counts = due_records(study, version, split, earlier, redo=redo, missing=missing)
        due = due[:limit]
        nothing = CaptionResult(source, version, counts.n_records, counts.n_kept, counts.broken, len(due))
        if not due:
            return nothing
        if endpoint is not None and confirm is not None:
            confirm(estimate(study, endpoint, [record_id for record_id, _ in due]))
        writer = EndpointWriter(study, endpoint) if endpoint else RulesWriter()
        run, tally = _write_all(study, stack, writer, due, config)
        result = replace(tally.onto(nothing), asked=writer.asked)
        if run is not None:
            result = replace(result, run_id=run.run_id, n_conditions_kept=_conditions_of(study, run))
            run.result = asdict(result)
    return result


@dataclass
class _Tally:
    """What became of the records so far."""

    counts: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)

    def add(self, works: Sequence[Work]) -> None:
        for work in works:
            self.rejected.update(work.rejected)
            if work.skipped:
                continue
            self.counts["unread" if work.caption is None else work.source] += 1
            self.counts["labelled"] += any(value == 1 for value in work.labels.values())
            self.counts["asking"] += bool(asked_attributes(work.caption or "", work.labels))
            if work.caption and len(self.examples) < N_EXAMPLES:
                text = work.found.text if work.found else "(labels only)"
                self.examples.append(Example(work.record_id, work.caption, text[:160]))

    def onto(self, nothing: CaptionResult) -> CaptionResult:
        by = {name: self.counts[name] for name in ("rules", "endpoint", "fallback")}
        return replace(
            nothing,
            n_written=sum(by.values()),
            by=by,
            n_unread=self.counts["unread"],
            rejected=dict(sorted(self.rejected.items())),
            n_labelled=self.counts["labelled"],
            n_asking=self.counts["asking"],
            examples=tuple(self.examples),
        )


def _write_all(
    study: Study, stack: ExitStack, writer: RulesWriter, due: Sequence[Due], config: dict[str, Any]
) -> tuple[Run | None, _Tally]:
    """Write batch by batch; the run begins with the first caption, so a call that finds nothing to write leaves none.

    The run ends with ``stack``.
    """
    run, tally = None, _Tally()
    with bar("captions", len(due)) as advance:
        for batch in batches(due):
            works = load(study, batch)
            writer.write(works)
            if ready := [work for work in works if work.caption is not None and not work.skipped]:
                run = run or stack.enter_context(start_run(study, "caption", config))
                _store(study, run, ready, str(config["version"]))
            tally.add(works)
            if failed := next((work.failed for work in works if work.failed), None):
                raise failed
            advance(len(batch))
    return run, tally


def _conditions_of(study: Study, run: Run) -> int:
    """Conditions drawn from records whose caption this run changed: they keep their text."""
    return int(
        study.db.value(
            "SELECT count(DISTINCT c.condition_id) FROM conditions c JOIN caption_events e"
            " ON e.record_id = c.text_record WHERE e.run_id = ? AND c.text <> e.caption",
            (run.run_id,),
        )
    )


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
