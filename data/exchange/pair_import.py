"""Import scored sets from a study's pair file (data/exchange/pair_file.py): images, conditions, raters and their
scores.

Input: a JSONL file with its images. Output: rating sets, one rater for each that scored, retired at once (an imported
person never logs in), with score events; a run of kind "import-sets" with quarantine.csv. Sets are put together from
the pairs: lines with the same key ``set``, else images that pairs connect. The schema knows sets of four, so a group of
another size is quarantined, and so is one whose scores contradict each other (several raters and no key ``rater``) or
whose files are missing. Imported scores count from the start: they are not a pilot of this study. Where the captions
and masks came from is not in the file: whether a test patient is among them cannot be checked here.
"""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from radpref.data.core.errors import Conflict, InvalidInput, NotFound
from radpref.data.core.files import sha256_file, write_atomic
from radpref.data.core.progress import track
from radpref.data.exchange.pair_file import FILE, PairLine, read_pair_lines
from radpref.data.exchange.pair_sets import ImportedSet, group_sets, structure_of
from radpref.data.imaging.framing import fit_image, fit_mask
from radpref.data.imaging.images import GrayImage, Mask, read_image, to_uint8
from radpref.data.reader_study.lifecycle import stage
from radpref.data.reader_study.presentations import add_presentation
from radpref.data.reader_study.raters import Rater, add_rater, get_rater
from radpref.data.reader_study.scores import ScoreEvent, validate_event
from radpref.data.study.conditions import StoredCondition, save_conditions
from radpref.data.study.runs import Run, now, start_run
from radpref.data.text.mentions import mentions

if TYPE_CHECKING:
    from radpref.data.core.sqlite import sqlite3
    from radpref.data.study.study import Study

ARM = "imported"
"""Arm of imported images: which generator drew them is not known."""


@dataclass(frozen=True)
class ImportResult:
    """What an import brought. ``modes``: mode -> sets; ``raters``: name -> kind; ``sets``: names in the file.

    ``quarantine``: path of quarantine.csv, if there is one. ``already_done``: this is the earlier import of the file.
    """

    run_id: str
    n_lines: int
    n_sets: int
    modes: Mapping[str, int]
    n_scores: int
    raters: Mapping[str, str]
    n_quarantined: int
    quarantine: str | None
    notes: list[str]
    sets: list[str] = field(default_factory=list)
    already_done: bool = False


def import_study_jsonl(
    study: Study, path: Path, *, structure: str | None = None, rater: str | None = None
) -> ImportResult:
    """Import the sets and scores of a pair file; the same call again resumes, a finished one does nothing.

    Args:
        path: the JSONL file, or its folder. structure: what its masks show, where the file does not say.
        rater: name for a file that names none (default "imported").

    Raises:
        NotFound, InvalidInput: the file cannot be used; a line is named.
        Conflict: the study is locked, or a rater of that name is there already.
        StorageFull: the disk is full; finished sets stay, the next run goes on.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    lines = read_pair_lines(path)
    if (found := stage(study.db)) in ("locked", "frozen"):
        raise Conflict(f"the study is {found}: its sets are fixed; import into another study")
    digest = sha256_file(path)
    config = {"file": path.name, "sha256": digest, "structure": structure, "rater": rater}
    earlier = _imported_names(study, digest)
    groups = group_sets(lines, rater or "imported")
    pending = [one for one in groups if one.name not in earlier]
    if not pending:
        return ImportResult(**json.loads(study.db.rows(_EARLIER, (digest,))[-1]["result"]), already_done=True)
    _check_structures(study, pending, structure)
    kinds = {line.rater or rater or "imported": line.simulated for line in lines}
    named = rater is not None or all(line.rater is not None for line in lines)
    with start_run(study, "import-sets", config, {path.name: digest}) as run:
        raters = {name: _ensure_rater(study, name, kinds[name], path, digest, named=named) for name in sorted(kinds)}
        quarantined = _import_all(study, run, path.parent, pending, raters, structure)
        _retire(study, raters)
        brought = [one.name for one in pending if one.name not in quarantined]
        result = _summary(study, run, lines, raters, quarantined, brought)
        run.result = {key: value for key, value in asdict(result).items() if key != "already_done"}
    if not result.n_sets:
        raise InvalidInput(f"no set of {path} could be used, first reason: {next(iter(quarantined.values()))}")
    return result


_EARLIER = """
SELECT result FROM runs WHERE kind = 'import-sets' AND status = 'done' AND json_extract(config, '$.sha256') = ?
ORDER BY started_at, run_id
"""


def _imported_names(study: Study, digest: str) -> set[str]:
    """Sets of this very file that finished imports have brought; the others (quarantined then) are tried again."""
    rows = study.db.rows(_EARLIER, (digest,))
    return {str(name) for row in rows for name in json.loads(row["result"]).get("sets", [])}


def _check_structures(study: Study, groups: Iterable[ImportedSet], given: str | None) -> None:
    structures = study.config.data.structures
    for one in groups:
        if not one.conditioning:
            continue
        for name in one.masks or [structure_of(one, structures, given)]:
            if name is None:
                raise InvalidInput(
                    f"what the mask {one.conditioning[0]} shows is not known; say --structure {'|'.join(structures)}"
                )
            if name not in structures:
                raise InvalidInput(f"structure '{name}' is not among data.structures {list(structures)}; add it there")


# --- storing -----------------------------------------------------------------------------------------------------


def _ensure_rater(study: Study, name: str, simulated: bool, path: Path, digest: str, *, named: bool) -> Rater:
    """The rater of this file, active until the import ends: added, or imported before (from this file, or by name).

    Raises:
        Conflict: the name belongs to a rater of this study, or to one imported from a file that named nobody either.
    """
    source = {"file": path.name, "sha256": digest}
    kind: Literal["human", "simulated"] = "simulated" if simulated else "human"
    try:
        known = get_rater(study.db, name)
    except NotFound:
        return add_rater(study.db, name, None, kind, "rater", {"imported": [source]})
    sources = known.detail.get("imported", [])
    used = study.db.value("SELECT 1 FROM presentations WHERE rater_id = ? LIMIT 1", (known.rater_id,)) is not None
    if not sources or known.kind != kind or (used and not named and source not in sources):
        raise Conflict(f"there already is a {known.kind} rater '{name}'; name another one with --rater, or in the file")
    detail = {**known.detail, "imported": sources if source in sources else [*sources, source]}
    with study.db.write() as connection:
        connection.execute(
            "UPDATE raters SET active = 1, detail = ? WHERE rater_id = ?", (json.dumps(detail), known.rater_id)
        )
    return known


def _import_all(
    study: Study, run: Run, folder: Path, groups: Sequence[ImportedSet], raters: Mapping[str, Rater],
    structure: str | None,
) -> dict[str, str]:  # fmt: skip
    known = {
        str(row["set_id"]) for row in study.db.rows("SELECT set_id FROM image_sets WHERE run_id = ?", (run.run_id,))
    }
    quarantined: dict[str, str] = {}
    for ordinal, one in enumerate(track(groups, "import sets", len(groups))):
        set_id = f"{run.run_id}-{ordinal:05d}"
        if set_id in known:
            continue
        if one.problems:
            quarantined[one.name] = one.problems[0]
            continue
        try:
            _import_one(study, run, folder, one, set_id, ordinal, raters, structure)
        except (InvalidInput, NotFound) as error:
            quarantined[one.name] = str(error)
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("set", "reason"), *quarantined.items()])
    if quarantined:
        write_atomic(run.folder / "quarantine.csv", buffer.getvalue())
    return quarantined


def _import_one(
    study: Study, run: Run, folder: Path, one: ImportedSet, set_id: str, ordinal: int, raters: Mapping[str, Rater],
    structure: str | None,
) -> None:  # fmt: skip
    """Files first, then the set with its images, conditions, presentations and events in one transaction."""
    size = study.config.data.image_size
    images: list[GrayImage] = [fit_image(to_uint8(read_image(_inside(folder, name))), size) for name in one.images]
    if len({image.tobytes() for image in images}) < len(images):
        raise InvalidInput("two images of the set have the same pixels")
    masks = _masks(study, folder, one, structure)
    for image in images:
        study.store.write_image(image, "synthetic")
    with study.db.write() as connection:
        stored = {name: study.store.put_mask(connection, mask) for name, mask in masks.items()}
        condition = StoredCondition(
            "M2I" if one.mode == "M2I" else "T2I" if one.mode == "T2I" else "TM2I",
            one.text,
            stored,
            asked_of_text(one.text) if one.text else {},
            extra={"imported": run.run_id},
        )
        save_conditions(connection, [condition])
        connection.execute(
            "INSERT INTO image_sets VALUES (?, ?, ?, ?, 'rating')",
            (set_id, run.run_id, ordinal, condition.condition_id),
        )
        for slot, image in enumerate(images):
            sha = study.store.put_image(connection, image, "synthetic")
            connection.execute("INSERT INTO set_images VALUES (?, ?, ?, ?, ?)", (set_id, slot, sha, slot, ARM))
        for name, given in one.scores.items():
            _store_scores(connection, raters[name], set_id, given)


def _inside(folder: Path, name: str) -> Path:
    """A path of the file, which must not lead out of its folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InvalidInput(f"path {name} leads out of the file's folder; put the images beside it")
    return folder / name


def _masks(study: Study, folder: Path, one: ImportedSet, structure: str | None) -> dict[str, Mask]:
    if not one.conditioning:
        return {}
    size = study.config.data.image_size
    if one.masks:
        paths = dict(one.masks)
    else:
        name = structure_of(one, study.config.data.structures, structure)
        paths = {str(name): one.conditioning[0]}
        planes = [read_image(_inside(folder, other)) > 127 for other in one.conditioning]
        if any(plane.shape != planes[0].shape or not np.array_equal(plane, planes[0]) for plane in planes):
            raise InvalidInput(f"the masks {one.conditioning[0]} and others of the set differ")
    masks = {}
    for name, path in paths.items():
        plane = to_uint8(read_image(_inside(folder, path))) > 127
        mask = fit_mask(plane, size)
        if not mask.any():
            raise InvalidInput(f"mask {path} is empty: no condition")
        masks[name] = mask
    return masks


def asked_of_text(text: str) -> dict[str, int]:
    """What a prompt without a record asks for: its findings with their sides, or ``normal``."""
    asked: dict[str, int] = {}
    for one in mentions(text):
        if one.state == "absent":
            continue
        asked[one.finding.label] = 1
        for side in ("left", "right"):
            if one.side in (side, "bilateral"):
                asked[f"{one.finding.label}/{side}"] = 1
    if not asked and re.search(r"\bnormal\b|\bno (?:acute )?finding|\bclear lungs\b", text, re.I):
        return {"normal": 1}
    return asked


def _store_scores(
    connection: sqlite3.Connection, rater: Rater, set_id: str, given: Mapping[tuple[int, str], int]
) -> None:
    presentation = add_presentation(connection, rater.rater_id, set_id, "0123", "main")
    events = [
        ScoreEvent(str(uuid.uuid4()), presentation, rater.rater_id, "score", slot, criterion, value)
        for (slot, criterion), value in sorted(given.items())
    ]
    events.append(ScoreEvent(str(uuid.uuid4()), presentation, rater.rater_id, "submit"))
    for event in events:
        validate_event(event)
        connection.execute(
            "INSERT INTO score_events(uuid, presentation_id, rater_id, kind, slot, criterion, value, client,"
            " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, '{\"imported\": true}', ?)",
            (
                event.uuid, event.presentation_id, event.rater_id, event.kind, event.slot, event.criterion, event.value,
                now(),
            ),
        )  # fmt: skip


def _retire(study: Study, raters: Mapping[str, Rater]) -> None:
    with study.db.write() as connection:
        connection.executemany(
            "UPDATE raters SET active = 0 WHERE rater_id = ?", [(rater.rater_id,) for rater in raters.values()]
        )


def _summary(
    study: Study, run: Run, lines: Sequence[PairLine], raters: Mapping[str, Rater], quarantined: Mapping[str, str],
    brought: list[str],
) -> ImportResult:  # fmt: skip
    modes: dict[str, int] = dict(
        study.db.connection.execute(
            "SELECT mode, count(*) FROM image_sets JOIN conditions USING (condition_id) WHERE run_id = ? GROUP BY 1",
            (run.run_id,),
        ).fetchall()
    )
    n_scores = study.db.value(
        "SELECT count(*) FROM current_scores JOIN image_sets USING (set_id) WHERE run_id = ?", (run.run_id,)
    )
    return ImportResult(
        run_id=run.run_id,
        n_lines=len(lines),
        n_sets=sum(modes.values()),
        modes=modes,
        n_scores=int(n_scores),
        raters={name: rater.kind for name, rater in raters.items()},
        n_quarantined=len(quarantined),
        quarantine=str(run.folder / "quarantine.csv") if quarantined else None,
        notes=["where the captions and masks came from is not in the file: leakage of test patients cannot be checked"],
        sets=brought,
    )
