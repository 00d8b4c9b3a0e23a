"""What an endpoint is asked for a caption, and what its answer is taken for.

Input: the scrubbed impression of a report. Output: messages, and a caption from the answer. The request follows the
study's ("The pipeline", 2): one main finding in five words, no comparison, no commas or quotation marks, "Normal".
"""

from __future__ import annotations

import re

from radpref.data.captions.endpoint import Message
from radpref.data.text.caption_rules import MAX_WORDS, NORMAL, Broken

PROMPT_VERSION = 1
"""Goes up when the request changes; the cache knows the whole request, so old answers are not taken for new ones."""
MAX_REPORT = 4000
"""Characters of an impression that are sent; longer ones are cut."""
PROMPT = (
    "You write captions for chest radiographs.\n"
    f"Reply with one caption and nothing else: the main finding of the report in at most {MAX_WORDS} words, with its "
    "size and side where the report gives them.\n"
    "The caption describes this one image. Never compare with an earlier study: no words such as unchanged, stable, "
    "new, improved, worsened, increased, decreased, persistent or resolved.\n"
    "No commas, no quotation marks, no full stop, no explanation.\n"
    f"If the report describes no abnormality, reply {NORMAL}."
)
_ANSWER_TOKENS = 8
_PER_MESSAGE = 4


def first_messages(text: str) -> list[Message]:
    """The question about one impression."""
    return [
        {"role": "system", "content": PROMPT},
        {"role": "user", "content": f"Report:\n{text[:MAX_REPORT]}"},
    ]


def again(messages: list[Message], answer: str, broken: list[Broken]) -> list[Message]:
    """The same question once more, with what was wrong with the answer."""
    reasons = "; ".join(one.reason for one in broken)
    return [
        *messages,
        {"role": "assistant", "content": answer[:500] or "-"},
        {"role": "user", "content": f"This breaks the rules: {reasons}. Reply with a corrected caption only."},
    ]


def read_answer(answer: str) -> str:
    """The caption in an answer: without label, enclosing marks and closing stop, with a capital."""
    text = re.sub(r"^\W*(?:caption|answer|main finding)\W*:\s*", "", answer.strip(), flags=re.I).strip()
    text = text.strip("*_`\"'“”‘’ ").rstrip(".!:;").strip("*_`\"'“”‘’ ")
    return text[:1].upper() + text[1:]


def estimated_tokens(text: str) -> tuple[int, int]:
    """(tokens sent, tokens answered) for one impression, by the rule of thumb of four characters to a token."""
    sent = sum(len(message["content"]) for message in first_messages(text))
    return sent // 4 + 1 + 2 * _PER_MESSAGE, _ANSWER_TOKENS
