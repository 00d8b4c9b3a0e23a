"""Export a study: one entry for every format, `radpref study export` and `radpref annotate export`.

Input: a study, a folder, a format of `FORMATS`. Output: the folder, whole or not at all, with MANIFEST.json. People's
and programs' scores are never in one file of preferences: ``auto`` takes the kind there is, and refuses where there are
both. Of sets only rating sets become preferences (comparison sets are a test of arms), and arms are in an export only
where they may be named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radpref.data.core.errors import InvalidInput
from radpref.data.exchange.database_tables import write_database
from radpref.data.exchange.export_folder import Written, whole_folder, write_manifest
from radpref.data.exchange.hf_datasets import write_datasets
from radpref.data.exchange.pair_file import write_study_jsonl
from radpref.data.exchange.pick_a_pic import write_pick_a_pic
from radpref.data.exchange.table_files import FILE_TYPES, write_tables
from radpref.data.reader_study.lifecycle import arms_visible, reveal_arms
from radpref.data.reader_study.scores import RaterKind, scoring_kind

if TYPE_CHECKING:
    from radpref.data.study.study import Study

FORMATS = {
    "csv": "radpref csv export",
    "tables": "radpref export",
    "pick-a-pic": "radpref pick-a-pic export",
    "study-jsonl": "radpref study-jsonl export",
    "datasets": "radpref datasets export",
}
"""Format -> what its manifest says it is; an earlier folder of the same is replaced."""


@dataclass(frozen=True)
class ExportOptions:
    """What formats let one choose; each format takes its own and leaves the others.

    ``raters``: human, simulated or auto (pick-a-pic, study-jsonl). ``ties``: keep pairs without a preferred image;
    None: pick-a-pic does, study-jsonl does not. ``criterion``: text or mask alone (pick-a-pic). ``file_types`` and
    ``n_boot`` (bootstrap draws of the agreement intervals): tables.
    """

    raters: str = "auto"
    ties: bool | None = None
    criterion: str | None = None
    file_types: tuple[str, ...] = tuple(FILE_TYPES)
    n_boot: int = 1000


@dataclass(frozen=True)
class Export:
    """A finished export. ``raters``: whose scores, where the format has one kind; ``counts``: the format's own."""

    target: str
    format: str
    raters: RaterKind | None
    arms: bool
    simulated: bool
    counts: Mapping[str, Any]
    notes: list[str]

    def to_json(self) -> dict[str, object]:
        """For a command's output; the counts lie beside the other keys."""
        found = asdict(self)
        return {**found, **found.pop("counts")}


def export(study: Study, target: Path, format_: str, options: ExportOptions | None = None, *, actor: str) -> Export:
    """Write the folder ``target`` in one of `FORMATS`.

    Raises:
        InvalidInput: an unknown format, file type, kind of rater or criterion, or the folder holds something else.
        NotFound: nothing was scored, or pairs were not made.
        Conflict: people and programs scored, and ``options.raters`` is auto.
        StorageFull: the disk is full; an earlier export there stays whole.
    """
    options = options or ExportOptions()
    _check(format_, options)
    target, kind = Path(target).resolve(), FORMATS[format_]
    with whole_folder(target, kind) as draft:
        arms = arms_visible(study.db)
        written = _write(study, draft, format_, options, arms=arms)
        if arms:
            reveal_arms(study.db, actor, f"{format_} export to {target.name}")
        write_manifest(study, draft, kind, written, arms=arms)
    return Export(
        str(target), format_, written.raters, arms, written.simulated, dict(written.counts), list(written.notes)
    )


def _write(study: Study, draft: Path, format_: str, options: ExportOptions, *, arms: bool) -> Written:
    if format_ == "csv":
        return write_database(study, draft, arms=arms)
    if format_ == "tables":
        return write_tables(study, draft, options.file_types, arms=arms, n_boot=options.n_boot)
    if format_ == "datasets":
        return write_datasets(study, draft, arms=arms)
    who = scoring_kind(study.db, options.raters)
    if format_ == "study-jsonl":
        return write_study_jsonl(study, draft, who, ties=bool(options.ties))
    ties = options.ties is not False
    return write_pick_a_pic(study, draft, who, arms=arms, ties=ties, criterion=options.criterion)


def _check(format_: str, options: ExportOptions) -> None:
    if format_ not in FORMATS:
        raise InvalidInput(f"--format {format_} is unknown; choose {', '.join(FORMATS)}")
    for name in options.file_types:
        if name not in FILE_TYPES:
            raise InvalidInput(f"--format {name} is unknown; choose {', '.join(FILE_TYPES)} or all")
    if options.criterion not in (None, "text", "mask"):
        raise InvalidInput(f"--criterion {options.criterion} is unknown; choose text or mask")
