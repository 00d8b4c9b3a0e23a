"""Splits that hold no record: said at the import, by `study verify`, and where a step needs one.

A published set is split by a hash of each patient (docs/adr/0010), so a set of few patients may get an empty
validation or test split. Input: a study. Output: one line a split, with the key that fixes it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from radpref.data.core.errors import NotFound
from radpref.data.study.splits import SPLITS

if TYPE_CHECKING:
    from radpref.data.study.study import Study

HASHED = ("candid", "chexpert", "rsna", "siim")
"""Readers whose patients are split by hash (`radpref.data.study.splits.hashed_split`)."""
USES = {
    "train": "generators, pools and the downstream grid train on it",
    "val": "rated sets, fidelity and thresholds are made from it",
    "test": "the downstream grid tests on it",
}


def empty_splits(study: Study) -> list[str]:
    """One line for every empty split of a study that holds records, but where study.toml gives it a share of 0."""
    present = {str(row["split"]) for row in study.db.rows("SELECT DISTINCT split FROM records")}
    empty = [split for split in SPLITS if present and split not in present]
    return [empty_line(study, split) for split in empty if not _is_meant(study, split)]


def empty_line(study: Study, split: str) -> str:
    """What an empty ``split`` lacks, and how to fill it, on one line."""
    return f"split '{split}' holds no record ({USES[split]}): {how_to_fill(study, split)}"


def how_to_fill(study: Study, split: str) -> str:
    """The key of study.toml (or the file) that gives ``split`` more records, by the reader that imported last."""
    config, reader = study.config.data, _reader(study)
    again = "and import into a new study, since records keep their split"
    if not study.db.value("SELECT count(*) FROM records"):
        return "run `radpref data import` first"
    if reader == "phantom":
        return f"raise data.n_{split} and run `radpref data import` again"
    if reader == "chexpert" and split == "test":
        return "it is CheXpert's official validation set: put valid.csv and valid/ there and import again"
    if reader in HASHED:
        return f"import more patients, or change data.seed or data.split_fractions {again}"
    if reader == "table" and config.columns.split is None:
        return f"import more patients, or change data.split_fractions {again}"
    if reader == "table":
        return f"write {split} into column '{config.columns.split}' (data.columns.split) of whole patients {again}"
    return f"'{reader}' comes with its own splits: import the rest of it"


def is_empty(study: Study, split: str) -> bool:
    """Whether ``split`` holds no record."""
    return not study.db.value("SELECT 1 FROM records WHERE split = ? LIMIT 1", (split,))


def require_split(study: Study, split: str) -> None:
    """Refuse a step that needs ``split``.

    Raises:
        NotFound: it holds no record.
    """
    if is_empty(study, split):
        raise NotFound(empty_line(study, split))


def _is_meant(study: Study, split: str) -> bool:
    config, reader = study.config.data, _reader(study)
    if reader == "phantom":
        return {"train": config.n_train, "val": config.n_val, "test": config.n_test}[split] == 0
    drawn = reader in HASHED or (reader == "table" and config.columns.split is None)
    official = reader == "chexpert" and split == "test"
    return drawn and not official and config.split_fractions[SPLITS.index(split)] == 0


def _reader(study: Study) -> str:
    """The reader of the newest import; that of study.toml where there was none."""
    config = study.db.value(
        "SELECT config FROM runs WHERE kind = 'import' ORDER BY started_at DESC, run_id DESC LIMIT 1"
    )
    return study.config.data.reader if config is None else str(json.loads(config)["reader"])
