"""Who writes captions: the rules of data/text/rule_captions.py, or a language model behind an endpoint.

Input: a batch of :class:`Work`. Output: the same with ``caption`` and ``source`` filled in; a caption that breaks a
rule is never among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

from radpref.data.captions.due import Work, known_answers
from radpref.data.captions.endpoint import ChatEndpoint, EndpointFailed
from radpref.data.captions.prompt import again, first_messages, read_answer
from radpref.data.study.runs import now
from radpref.data.study.study import Study
from radpref.data.text.caption_rules import broken_rules
from radpref.data.text.rule_captions import rule_caption


@dataclass
class Asked:
    """What an endpoint was asked: answers that were not here before, and the tokens it counted for them."""

    n_answers: int = 0
    tokens_sent: int = 0
    tokens_answered: int = 0


class RulesWriter:
    """Offline: from the impression, or where there is no report from the labels."""

    def __init__(self) -> None:
        self.asked = Asked()

    def write(self, works: Sequence[Work]) -> None:
        """Fill in the caption and its source."""
        for work in works:
            _by_rules(work)


class EndpointWriter(RulesWriter):
    """By a chat endpoint; equal impressions are asked for once, answers in the study not again."""

    def __init__(self, study: Study, endpoint: ChatEndpoint) -> None:
        super().__init__()
        self._study, self._endpoint, self._known = study, endpoint, known_answers(study)

    def write(self, works: Sequence[Work]) -> None:
        """As `RulesWriter`; a failure (``failed`` of one work) stops what has not begun, which is ``skipped``."""
        groups: dict[str, list[Work]] = {}
        for work in works:
            if work.found is None:
                _by_rules(work)
            else:
                groups.setdefault(work.found.text, []).append(work)
        try:
            self._ask_all([group[0] for group in groups.values()])
        finally:
            self._store_answers(works)  # they were paid for, whatever becomes of them
        for first, *others in groups.values():
            for work in others:
                if first.skipped or first.source == "endpoint":
                    work.caption, work.source, work.skipped = first.caption, first.source, first.skipped
                else:
                    _fall_back(work)  # the labels of each record are its own

    def _ask_all(self, works: Sequence[Work]) -> None:
        stop = Event()
        with ThreadPoolExecutor(self._study.config.captions.concurrency) as pool:
            try:
                list(pool.map(lambda work: self._ask(work, stop), works))
            except BaseException:
                stop.set()  # what has not begun is not asked
                raise

    def _ask(self, work: Work, stop: Event) -> None:
        """Ask for one caption, again with the reason where it breaks the rules; at last the rules write it."""
        assert work.found is not None
        messages = first_messages(work.found.text)
        for _ in range(self._endpoint.settings.re_ask + 1):
            key = self._endpoint.key(messages)
            answer = self._known.get(key) or work.fresh.get(key)
            if answer is None:
                if stop.is_set():
                    work.skipped = True
                    return
                try:
                    answer = work.fresh[key] = self._endpoint.ask(messages)
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
        _fall_back(work)

    def _store_answers(self, works: Sequence[Work]) -> None:
        fresh = {key: answer for work in works for key, answer in work.fresh.items()}
        rows = [
            (key, self._study.config.captions.model, one.text, one.prompt_tokens, one.completion_tokens, now())
            for key, one in fresh.items()
        ]
        with self._study.db.write() as connection:
            connection.executemany("INSERT INTO caption_answers VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)
        self._known |= fresh
        self.asked.n_answers += len(fresh)
        self.asked.tokens_sent += sum(one.prompt_tokens or 0 for one in fresh.values())
        self.asked.tokens_answered += sum(one.completion_tokens or 0 for one in fresh.values())


def _by_rules(work: Work) -> None:
    caption = rule_caption(work.found.text if work.found else None, work.labels)
    work.caption = caption if caption and not broken_rules(caption) else None


def _fall_back(work: Work) -> None:
    """Where the endpoint's answers keep breaking rules."""
    _by_rules(work)
    work.source = "fallback"
