"""Pick-a-Pic v2's shape: parquet that Diffusion-DPO scripts read unchanged.

Input: the newest run of `align pairs` of one kind of rater. Output: ``data/train-*.parquet`` and
``data/validation-*.parquet`` (the held-out pairs), one row per pair and criterion, and a dataset card. The columns are
those of ``yuvalkirstain/pickapic_v2``, in `COLUMNS`; ours follow them. Preferences are shares of raters here; the
scripts know 1, 0 and .5 only (diffusers swaps the images where label_0 is 0, Salesforce's drops rows that are neither
0 nor 1), so the labels are the majority's, and the share is in column ``p``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from radpref.data.core.errors import NotFound
from radpref.data.core.files import write_atomic
from radpref.data.core.progress import bar
from radpref.data.exchange.export_folder import Written
from radpref.data.exchange.rated_sets import ExportedSet, image_bytes, rating_sets, union_mask_png

if TYPE_CHECKING:
    import pyarrow as pa

    from radpref.data.reader_study.scores import RaterKind
    from radpref.data.study.study import Study

SPLITS = {"train": "train", "held_out": "validation"}
ROWS_PER_FILE = 5000
ROWS_PER_GROUP = 200
"""Rows in memory at a time."""
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("are_different", "bool", "false: both images have the same pixels"),
    ("best_image_uid", "string", "image_0_uid, image_1_uid, or tie"),
    ("caption", "string", "the prompt; empty where the set asks for a mask only"),
    ("created_at", "timestamp", "when the pairs were made, UTC"),
    ("has_label", "bool", "always true"),
    ("image_0_uid", "string", "SHA-256 of the study's image file"),
    ("image_1_uid", "string", "the same of the second image"),
    ("image_0_url", "string", "always empty: the bytes are here"),
    ("image_1_url", "string", "always empty"),
    ("jpg_0", "binary", "the image as PNG (lossless; PIL opens it whatever the column is called)"),
    ("jpg_1", "binary", "the second image"),
    ("label_0", "double", "1: image 0 preferred, 0: image 1, .5: a tie"),
    ("label_1", "double", "1 - label_0"),
    ("model_0", "string", "arm of image 0; hidden until arms may be named"),
    ("model_1", "string", "arm of image 1"),
    ("ranking_id", "int64", "number of the pair in the study"),
    ("user_id", "int64", "always 0: a row is all raters of the pair together"),
    ("num_example_per_prompt", "int64", "rows of this split with the same caption"),
    ("p", "double", "share of raters who prefer image 0, ties half (ours)"),
    ("n_raters", "int64", "raters behind it (ours)"),
    ("criterion", "string", "text or mask: what was judged (ours)"),
    ("mode", "string", "T2I, M2I or TM2I (ours)"),
    ("set_id", "string", "the set of four both images are of (ours)"),
    ("simulated", "bool", "true: programs judged, not people (ours)"),
    ("conditioning_jpg", "binary", "the mask that was asked for, all structures white, PNG; missing on T2I (ours)"),
)
_PAIRS = """
SELECT pair_id, set_id, slot_i, slot_j, criterion, p, n_raters, split FROM pairs
WHERE run_id = ? AND (? IS NULL OR criterion = ?) ORDER BY pair_id
"""


class _PairRow(NamedTuple):
    """A row of ``pairs``; ``p``: share of raters who prefer the image of ``slot_i``, ties half."""

    pair_id: int
    set_id: str
    slot_i: int
    slot_j: int
    criterion: str
    p: float
    n_raters: int
    split: str


def write_pick_a_pic(
    study: Study, draft: Path, who: RaterKind, *, arms: bool, ties: bool, criterion: str | None
) -> Written:
    """Write parquet files and the card.

    Raises:
        NotFound: no pairs of these raters.
    """
    run = study.db.row(
        "SELECT run_id, started_at FROM runs WHERE kind = 'pairs' AND status = 'done'"
        " AND json_extract(config, '$.raters') = ? ORDER BY started_at DESC, run_id DESC LIMIT 1",
        (who,),
    )
    rows = study.db.connection.execute(_PAIRS, (run["run_id"], criterion, criterion)) if run else ()
    kept = [row for row in map(_PairRow._make, rows) if ties or row.p != 0.5]
    if run is None or not kept:
        raise NotFound(f"no pairs of {who} raters to export; make them with `radpref align pairs --raters {who}`")
    sets = {one.set_id: one for one in rating_sets(study, arms=arms)}
    made = datetime.fromisoformat(str(run["started_at"])).replace(tzinfo=None)
    counts = {}
    for split, name in SPLITS.items():
        chosen = [row for row in kept if row.split == split]
        counts[name] = len(chosen)
        _write_split(study, draft / "data", name, chosen, sets, who, made)
    n_ties = sum(row.p == 0.5 for row in kept)
    n_split = sum(row.p not in (0.0, 0.5, 1.0) for row in kept)
    notes = []
    if n_ties:
        notes.append(
            f"{n_ties} ties have label .5: diffusers' script takes them as wins of image 0, --no-ties drops them"
        )
    if any(sets[row.set_id].mode == "M2I" for row in kept):
        notes.append("M2I rows have an empty caption; --criterion text leaves them out")
    if n_split:
        notes.append(f"{n_split} pairs divided the raters: the label is the majority's, column p has the share")
    write_atomic(draft / "README.md", _card(study, counts, who, notes))
    columns = [{"name": name, "type": kind, "description": text} for name, kind, text in COLUMNS]
    return Written(
        counts={"rows": counts, "ties": n_ties, "pairs_run": run["run_id"]},
        described={"pairs_run": run["run_id"], "columns": columns, "ties": n_ties},
        simulated=who == "simulated",
        notes=notes,
        raters=who,
    )


def _schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {
        "bool": pa.bool_(), "string": pa.string(), "double": pa.float64(), "int64": pa.int64(), "binary": pa.binary(),
        "timestamp": pa.timestamp("ns"),
    }  # fmt: skip
    return pa.schema([pa.field(name, kinds[kind]) for name, kind, _ in COLUMNS])


def _write_split(
    study: Study, folder: Path, name: str, rows: Sequence[_PairRow], sets: dict[str, ExportedSet], who: RaterKind,
    made: datetime,
) -> None:  # fmt: skip
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    schema = _schema()
    n_files = -(-len(rows) // ROWS_PER_FILE)
    prompts = Counter(sets[row.set_id].text or "" for row in rows)
    with bar(f"pick-a-pic {name}", len(rows)) as advance:
        for number in range(n_files):
            part = rows[number * ROWS_PER_FILE : (number + 1) * ROWS_PER_FILE]
            path = folder / f"{name}-{number:05d}-of-{n_files:05d}.parquet"
            with pq.ParquetWriter(path, schema, compression="snappy") as writer:
                for group in _groups(part):
                    found = [_row(study, row, sets[row.set_id], who, made, prompts) for row in group]
                    writer.write_table(pa.Table.from_pylist(found, schema=schema))
                    advance(len(group))


def _groups(rows: Sequence[_PairRow]) -> Iterator[Sequence[_PairRow]]:
    for start in range(0, len(rows), ROWS_PER_GROUP):
        yield rows[start : start + ROWS_PER_GROUP]


def _row(
    study: Study, pair: _PairRow, of: ExportedSet, who: RaterKind, made: datetime, prompts: Counter[str]
) -> dict[str, object]:
    i, j, p = pair.slot_i, pair.slot_j, pair.p
    label = 1.0 if p > 0.5 else 0.0 if p < 0.5 else 0.5
    uids = of.images[i], of.images[j]
    return {
        "are_different": uids[0] != uids[1],
        "best_image_uid": "tie" if label == 0.5 else uids[0] if label else uids[1],
        "caption": of.text or "",
        "created_at": made,
        "has_label": True,
        "image_0_uid": uids[0],
        "image_1_uid": uids[1],
        "image_0_url": "",
        "image_1_url": "",
        "jpg_0": image_bytes(study, uids[0]),
        "jpg_1": image_bytes(study, uids[1]),
        "label_0": label,
        "label_1": 1.0 - label,
        "model_0": of.arms[i],
        "model_1": of.arms[j],
        "ranking_id": pair.pair_id,
        "user_id": 0,
        "num_example_per_prompt": prompts[of.text or ""],
        "p": p,
        "n_raters": pair.n_raters,
        "criterion": pair.criterion,
        "mode": of.mode,
        "set_id": of.set_id,
        "simulated": who == "simulated",
        "conditioning_jpg": union_mask_png(study, of.masks) if of.masks else None,
    }


def _card(study: Study, counts: dict[str, int], who: RaterKind, notes: Sequence[str]) -> str:
    """README.md as the Hugging Face hub reads it: which file is which split, and what this is."""
    splits = "".join(f"      - split: {name}\n        path: data/{name}-*\n" for name, n in counts.items() if n)
    by = "simulated raters (programs, not people)" if who == "simulated" else "people"
    lines = "".join(f"| `{name}` | {kind} | {text} |\n" for name, kind, text in COLUMNS)
    remarks = "".join(f"- {note}\n" for note in notes)
    return (
        f"---\nconfigs:\n  - config_name: default\n    data_files:\n{splits}---\n"
        f"# {json.dumps(study.config.title, ensure_ascii=False)[1:-1]}\n\n"
        f"Preferences of {by} between synthetic chest radiographs, in the shape of Pick-a-Pic v2. Synthetic images: "
        f"research use, not for diagnosis. Never flip them: sides matter.\n\n{remarks}\n"
        f"| column | type | meaning |\n|---|---|---|\n{lines}"
    )
