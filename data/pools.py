"""The synthetic training images of a task and arm, as the downstream grid reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from data.errors import NotFound

if TYPE_CHECKING:
    from data.study import Study


def pool_run(study: Study, task: str, arm: str) -> str:
    """Run id of the newest finished pool of ``task`` and ``arm``.

    Raises:
        NotFound: there is none.
    """
    run_id = study.db.value(
        "SELECT run_id FROM runs WHERE kind = 'pool' AND status = 'done'"
        " AND json_extract(config, '$.task.name') = ? AND json_extract(config, '$.arm') = ?"
        " ORDER BY started_at DESC, run_id DESC LIMIT 1",
        [task, arm],
    )
    if run_id is None:
        raise NotFound(f"no finished pool for task '{task}', arm '{arm}'; run `radpref generate pool`")
    return str(run_id)


def pool_rows(study: Study, task: str, arm: str) -> list[dict[str, Any]]:
    """Images of the newest finished pool in order: ordinal, image_sha, condition_id, seed, labels (dict).

    Raises:
        NotFound: there is no finished pool.
    """
    rows = study.db.rows(
        "SELECT ordinal, image_sha, condition_id, seed, labels FROM pool_images WHERE run_id = ? ORDER BY ordinal",
        [pool_run(study, task, arm)],
    )
    return [{**row, "labels": json.loads(row["labels"])} for row in rows]
