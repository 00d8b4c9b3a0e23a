"""Which records are due for a caption, what is known of them, and what asking for them would cost.

Input: a study. Output: identifiers, :class:`Work` items with the impression and labels read, an estimate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from radpref.data.captions.endpoint import Answer, ChatEndpoint, EndpointFailed
from radpref.data.captions.prompt import PROMPT_VERSION, estimated_tokens, first_messages
from radpref.data.core.errors import InvalidInput
from radpref.data.core.progress import track
from radpref.data.study.splits import SPLITS
from radpref.data.text.caption_rules import RULES_VERSION, broken_rules
from radpref.data.text.reports import Impression, impression
from radpref.data.text.rule_captions import CAPTIONER_VERSION

if TYPE_CHECKING:
    from radpref.data.study.study import Study

BATCH = 64
"""Records per transaction: what an interruption loses at most (answers that were paid for are kept)."""
_DUE = """
SELECT r.record_id, r.caption, e.caption AS written, e.version, e.run_id
FROM records r LEFT JOIN caption_events e
ON e.event_id = (SELECT max(l.event_id) FROM caption_events l WHERE l.record_id = r.record_id)
WHERE ? IS NULL OR r.split = ? ORDER BY r.record_id
"""
MANY = 20_000
"""From so many records on, reading their captions takes more than a moment."""
Due = tuple[str, str | None]
"""(record_id, present caption) of what is due."""


@dataclass(frozen=True)
class Counts:
    """Of the records that were looked at: captions that stay, and rule -> how many broke it."""

    n_records: int
    n_kept: int
    broken: Mapping[str, int]


@dataclass(frozen=True)
class Estimate:
    """What asking would take: ``place`` is where the endpoint is, ``cost`` None where no price is set."""

    endpoint: str
    place: str
    model: str | None
    n_due: int
    n_reports: int
    n_cached: int
    n_to_ask: int
    tokens_sent: int
    tokens_answered: int
    cost: float | None


@dataclass
class Work:
    """One due record: what is known of it, and what came out."""

    record_id: str
    previous: str | None
    labels: dict[str, float | None]
    found: Impression | None
    caption: str | None = None
    source: str = "rules"
    rejected: list[str] = field(default_factory=list)
    fresh: dict[str, Answer] = field(default_factory=dict)
    failed: EndpointFailed | None = None
    skipped: bool = False


def chosen_source(
    study: Study, source: str | None, split: str | None, *, redo: bool = False, missing: bool = False
) -> str:
    """ "rules" or "endpoint": as given, else as study.toml says.

    Raises:
        InvalidInput: neither, an unknown split, or both of ``redo`` and ``missing``.
    """
    if redo and missing:
        raise InvalidInput("--redo replaces captions that are there, --missing replaces none: give one of them")
    chosen = source or study.config.captions.source
    if chosen not in ("rules", "endpoint"):
        raise InvalidInput(f"--source {chosen} is unknown; choose rules or endpoint")
    if split is not None and split not in SPLITS:
        raise InvalidInput(f"--split {split} is unknown; choose {', '.join(SPLITS)}")
    return chosen


def version_of(source: str, model: str | None) -> str:
    """By what a caption was made: changes where the same report may get another caption."""
    if source == "rules":
        return f"rules {CAPTIONER_VERSION}.{RULES_VERSION}"
    return f"{model}, prompt {PROMPT_VERSION}.{RULES_VERSION}"


def due_records(
    study: Study, version: str, split: str | None, unfinished: str | None, *, redo: bool, missing: bool = False
) -> tuple[list[Due], Counts]:
    """What is due, and counts of what is not; ``missing``: what is there stays."""
    due: list[Due] = []
    broken: Counter[str] = Counter()
    n_records = n_kept = 0
    total = int(study.db.value("SELECT count(*) FROM records WHERE ? IS NULL OR split = ?", (split, split)))
    rows = study.db.connection.execute(_DUE, (split, split))
    for record_id, caption, written, made_by, run_id in (
        track(rows, "look at captions", total) if total > MANY else rows
    ):
        n_records += 1
        rules = broken_rules(caption) if caption else []
        broken.update({one.rule for one in rules})
        outdated = written is not None and written == caption and made_by != version
        done_before = redo and unfinished is not None and run_id == unfinished
        if not caption or (not missing and ((redo and not done_before) or rules or outdated)):
            due.append((str(record_id), caption))
        else:
            n_kept += 1
    return due, Counts(n_records, n_kept, dict(sorted(broken.items())))


def batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """``items`` in pieces of `BATCH`."""
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def load(study: Study, due: Sequence[Due]) -> list[Work]:
    """Reports and labels of a batch, the impressions read out of them."""
    ids = [record_id for record_id, _ in due]
    marks = ",".join("?" * len(ids))
    labels: dict[str, dict[str, float | None]] = {}
    for row in study.db.rows(f"SELECT record_id, label, value FROM labels WHERE record_id IN ({marks})", ids):
        labels.setdefault(row["record_id"], {})[row["label"]] = row["value"]
    reports = {
        str(row["record_id"]): row["report"]
        for row in study.db.rows(f"SELECT record_id, report FROM records WHERE record_id IN ({marks})", ids)
    }
    return [
        Work(record_id, previous, labels.get(record_id, {}), impression(reports[record_id] or ""))
        for record_id, previous in due
    ]


def known_answers(study: Study) -> dict[str, Answer]:
    """All answers that were ever paid for, by the key of their question."""
    rows = study.db.connection.execute("SELECT key, answer, prompt_tokens, completion_tokens FROM caption_answers")
    return {str(key): Answer(text, sent, answered) for key, text, sent, answered in rows}


def estimate(study: Study, endpoint: ChatEndpoint, record_ids: Sequence[str]) -> Estimate:
    """What asking for these records would take: reports, answers already paid for, tokens, and the price if known."""
    known = known_answers(study)
    n_reports = n_cached = sent = answered = 0
    for batch in batches(record_ids):
        for work in load(study, [(record_id, None) for record_id in batch]):
            if work.found is None:
                continue
            n_reports += 1
            if endpoint.key(first_messages(work.found.text)) in known:
                n_cached += 1
                continue
            tokens = estimated_tokens(work.found.text)
            sent, answered = sent + tokens[0], answered + tokens[1]
    settings = endpoint.settings
    prices = (settings.price_input, settings.price_output)
    cost = None if None in prices else (sent * float(prices[0] or 0) + answered * float(prices[1] or 0)) / 1e6
    n_to_ask = n_reports - n_cached
    return Estimate(endpoint.url, endpoint.place, settings.model, len(record_ids), n_reports, n_cached, n_to_ask,
                    sent, answered, cost)  # fmt: skip


def estimate_only(
    study: Study, *, redo: bool = False, missing: bool = False, split: str | None = None, limit: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> Estimate:  # fmt: skip
    """The estimate for what :func:`write_captions` would ask the endpoint; nothing is sent and nothing written."""
    chosen_source(study, "endpoint", split, redo=redo, missing=missing)
    endpoint = ChatEndpoint(study.config.captions, environ or {})
    version = version_of("endpoint", study.config.captions.model)
    due, _ = due_records(study, version, split, None, redo=redo, missing=missing)
    return estimate(study, endpoint, [record_id for record_id, _ in due[:limit]])
