"""The study authors' pair file: one JSON object a line, images beside it. Written here, and read.

One line is one pair of a set's images, scored by one rater:

=======================================  ============================================================================
``text``                                 the prompt; ``N/A`` on M2I
``image_1``, ``image_2``                 paths of the images, relative to the file's folder
``conditioning_image``                   path of the mask; ``N/A`` on T2I
``rank_t_1``, ``rank_t_2``               the rater's text scores, "0" to "5"; ``N/A`` on M2I
``rank_m_1``, ``rank_m_2``               the mask scores; ``N/A`` on T2I
``rater``, ``simulated``, ``set``        ours: who scored, whether a program did, which lines are of one set. The
                                         authors' file has none of them: each of their sets has one rater
``masks``                                ours, where there are several structures: structure -> path; then
                                         ``conditioning_image`` is all of them together, white
=======================================  ============================================================================

The authors wrote the lines as Python prints a dictionary; such lines are read, too.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import InvalidInput, NotFound
from radpref.data.core.files import write_atomic
from radpref.data.core.progress import track
from radpref.data.exchange.export_folder import Written
from radpref.data.exchange.rated_sets import ExportedSet, image_bytes, rating_sets, union_mask_png
from radpref.data.reader_study.scores import CRITERIA

if TYPE_CHECKING:
    from radpref.data.reader_study.scores import RaterKind
    from radpref.data.study.study import Study

FILE = "train_dpo.jsonl"
NOT_THERE = "N/A"
KEYS = ("text", "image_1", "image_2", "conditioning_image", "rank_t_1", "rank_t_2", "rank_m_1", "rank_m_2")
N_IMAGES = 4
_SCORES = """
SELECT v.username, v.set_id, v.slot, v.criterion, v.value FROM current_scores v
JOIN counted_presentations p USING (presentation_id)
WHERE p.purpose = 'rating' AND p.state = 'submitted' AND v.rater_kind = ? ORDER BY v.username, v.set_id
"""


@dataclass(frozen=True)
class PairLine:
    """One line, checked. ``text`` and ``conditioning`` are None for N/A; scores: criterion -> (first, second)."""

    number: int
    text: str | None
    images: tuple[str, str]
    conditioning: str | None
    scores: Mapping[str, tuple[int, int]]
    rater: str | None = None
    simulated: bool = False
    set_name: str | None = None
    masks: Mapping[str, str] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """T2I, M2I or TM2I, by which condition is there."""
        return "M2I" if self.text is None else "T2I" if self.conditioning is None else "TM2I"


# --- reading -----------------------------------------------------------------------------------------------------


def read_pair_lines(path: Path) -> list[PairLine]:
    """All lines of a pair file, checked.

    Raises:
        NotFound: no such file.
        InvalidInput: a line is not an object, a key is missing, or a score is not usable; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFound(f"no pair file at {path}; give the JSONL file, or the folder that holds {FILE}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{path} cannot be read as text ({' '.join(str(error).split())}); export it again"
        ) from error
    lines = [_read_line(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise InvalidInput(f"{path} holds no pair")
    programs = {line.rater for line in lines if line.simulated}
    for line in lines:
        if not line.simulated and line.rater in programs:
            raise InvalidInput(
                f"{path.name}, line {line.number}: rater {line.rater or '(none)'} is simulated in other lines; "
                "people and programs need names of their own"
            )
    return lines


def _read_line(path: Path, number: int, line: str) -> PairLine:
    place = f"{path.name}, line {number}"
    try:
        content: Any = json.loads(line)
    except (ValueError, RecursionError):
        try:
            content = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise InvalidInput(f"{place} is not a JSON object; export the file again") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{place} is not a JSON object; each line is one pair")
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise InvalidInput(f"{place}: key '{missing[0]}' is missing; a line has {', '.join(KEYS)}")
    text, conditioning = (_word(content, key, place) for key in ("text", "conditioning_image"))
    images = tuple(_word(content, key, place) for key in ("image_1", "image_2"))
    if images[0] is None or images[1] is None or images[0] == images[1]:
        raise InvalidInput(f"{place}: image_1 and image_2 must be two images")
    scores = {}
    for criterion, letter, condition in (("text", "t", text), ("mask", "m", conditioning)):
        first, second = (_rank(content, f"rank_{letter}_{k}", place) for k in (1, 2))
        if (first is None) != (second is None) or (first is None) != (condition is None):
            name = "text" if letter == "t" else "conditioning_image"
            raise InvalidInput(f"{place}: {name} and rank_{letter}_1, rank_{letter}_2 must be given all or none (N/A)")
        if first is not None and second is not None:
            scores[criterion] = (first, second)
    if not scores:
        raise InvalidInput(f"{place}: neither text nor conditioning_image is given")
    masks = content.get("masks") or {}
    if not isinstance(masks, dict) or not all(isinstance(one, str) for one in masks.values()):
        raise InvalidInput(f"{place}: masks must be an object of structure and path")
    rater, set_name = content.get("rater"), content.get("set")
    return PairLine(
        number, text, (images[0], images[1]), conditioning, scores, None if rater is None else str(rater),
        bool(content.get("simulated", False)), None if set_name is None else str(set_name), masks,
    )  # fmt: skip


def _word(content: Mapping[str, Any], key: str, place: str) -> str | None:
    value = content[key]
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{place}: {key} = {value!r} is not text; write {NOT_THERE} where there is none")
    return None if value.strip() == NOT_THERE else value.strip()


def _rank(content: Mapping[str, Any], key: str, place: str) -> int | None:
    value = content[key]
    if isinstance(value, str) and value.strip() == NOT_THERE:
        return None
    plain = str(value).strip()
    if isinstance(value, bool) or plain not in ("0", "1", "2", "3", "4", "5"):
        raise InvalidInput(f"{place}: {key} = {value!r}; a score is a whole number 0-5, or {NOT_THERE}")
    return int(plain)


# --- writing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """Two images of a set, by slot, and one rater's scores of them: criterion -> (first, second)."""

    rater: str
    slots: tuple[int, int]
    scores: Mapping[str, tuple[int, int]]

    @property
    def is_tie(self) -> bool:
        return all(first == second for first, second in self.scores.values())


@dataclass(frozen=True)
class _SetFiles:
    """Paths of a set's files: images by slot, the mask or N/A, and structure -> mask where there are several."""

    number: int
    images: list[str]
    mask: str
    masks: Mapping[str, str]


def write_study_jsonl(study: Study, draft: Path, who: RaterKind, *, ties: bool) -> Written:
    """Write the pair file and its images.

    ``ties``: also pairs that a rater scored alike in everything; the authors leave them out.

    Raises:
        NotFound: nothing to write.
    """
    scores: dict[str, dict[str, dict[str, dict[int, int]]]] = {}
    for row in study.db.rows(_SCORES, (who,)):
        by_rater = scores.setdefault(row["set_id"], {}).setdefault(row["username"], {})
        by_rater.setdefault(row["criterion"], {})[row["slot"]] = row["value"]
    lines: list[str] = []
    n_sets = n_ties = 0
    sets = [one for one in rating_sets(study, arms=False) if one.set_id in scores and len(one.images) == N_IMAGES]
    for one in track(sets, "study-jsonl", len(sets)):
        pairs = _pairs(one, scores[one.set_id])
        n_ties += sum(pair.is_tie for pair in pairs)
        pairs = [pair for pair in pairs if ties or not pair.is_tie]
        if not pairs:
            continue
        files = _write_files(study, draft, one, n_sets)
        n_sets += 1
        lines += [json.dumps(_line(one, pair, files, who), ensure_ascii=False) for pair in pairs]
    if not lines:
        raise NotFound(f"no pairs of {who} raters in complete, submitted sets; score sets first, or export with --ties")
    write_atomic(draft / FILE, "\n".join(lines) + "\n")
    left_out = f"{n_ties} pairs scored alike are left out, as the authors do; --ties keeps them"
    return Written(
        counts={"lines": len(lines), "sets": n_sets, "ties": n_ties},
        described={"keys": list(KEYS), "lines": len(lines)},
        simulated=who == "simulated",
        notes=[left_out] if n_ties and not ties else [],
        raters=who,
    )


def _pairs(one: ExportedSet, by_rater: Mapping[str, Mapping[str, Mapping[int, int]]]) -> list[_Pair]:
    found = []
    for rater, given in sorted(by_rater.items()):
        if any(len(given.get(criterion, {})) != N_IMAGES for criterion in CRITERIA[one.mode]):
            continue
        for i, j in combinations(range(N_IMAGES), 2):
            scores = {criterion: (given[criterion][i], given[criterion][j]) for criterion in CRITERIA[one.mode]}
            found.append(_Pair(rater, (i, j), scores))
    return found


def _write_files(study: Study, draft: Path, one: ExportedSet, number: int) -> _SetFiles:
    stem = f"images/{one.mode.lower()}/{number:05d}"
    names = []
    for slot, sha in enumerate(one.images):
        names.append(f"{stem}_{slot + 1}.png")
        write_atomic(draft / names[-1], image_bytes(study, sha))
    if not one.masks:
        return _SetFiles(number, names, NOT_THERE, {})
    mask = f"{stem}_mask_{next(iter(one.masks))}.png" if len(one.masks) == 1 else f"{stem}_mask.png"
    write_atomic(draft / mask, union_mask_png(study, one.masks))
    masks = {}
    if len(one.masks) > 1:
        for structure, sha in one.masks.items():
            masks[structure] = f"{stem}_mask_{structure}.png"
            write_atomic(draft / masks[structure], study.store.path(sha, "masks").read_bytes())
    return _SetFiles(number, names, mask, masks)


def _line(one: ExportedSet, pair: _Pair, files: _SetFiles, who: RaterKind) -> dict[str, object]:
    i, j = pair.slots
    text, mask = (pair.scores.get(criterion, (NOT_THERE, NOT_THERE)) for criterion in ("text", "mask"))
    line: dict[str, object] = {
        "text": one.text if one.text is not None else NOT_THERE,
        "image_1": files.images[i],
        "conditioning_image": files.mask,
        "image_2": files.images[j],
        "rank_t_1": str(text[0]),
        "rank_m_1": str(mask[0]),
        "rank_t_2": str(text[1]),
        "rank_m_2": str(mask[1]),
        "rater": pair.rater,
        "simulated": who == "simulated",
        "set": f"{files.number:05d}",
    }
    return line | ({"masks": files.masks} if files.masks else {})
