"""Memory over an hour's worth of scores of 50 paced raters, given at a faster pace: flat, or growing?

    python -m benchmarks.soak --minutes 60 --json

The raters work through whole sets (next, images, prefetch, events, submit); when one has finished the study, they go
through it again, changing scores. Resident memory of the server process is read once a second; after the warm-up
(the first third) a line is fitted of memory over scores, with a confidence interval from blocks of time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.room import log_in, make_room, result_of, run_client, serving
from benchmarks.rows import command_line, row, show

RATERS, SETS = 50, 120
SPEED_UP = 4.0
"""Think times are this much shorter than in benchmarks.serve: 15 minutes hold an hour's scores."""
FLAT_KB = 20.0
"""Flat: less than so many kB per 1000 scores (50 raters give 100,000 in an hour: 2 MB)."""
BLOCKS = 8


def slope(scores: np.ndarray[Any, Any], kb: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """kB per 1000 scores by least squares, and a 95 % interval from leaving out one block of time after the other."""

    def fit(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
        return float(np.polyfit(x / 1000.0, y, 1)[0])

    whole = fit(scores, kb)
    blocks = np.array_split(np.arange(len(scores)), BLOCKS)
    without = [fit(np.delete(scores, block), np.delete(kb, block)) for block in blocks]
    error = float(np.sqrt((BLOCKS - 1) / BLOCKS * np.sum((np.array(without) - np.mean(without)) ** 2)))
    return whole, whole - 2.36 * error, whole + 2.36 * error  # t with 7 degrees of freedom


def soak(root: Path, minutes: float) -> dict[str, Any]:
    """Memory and scores of ``minutes`` of work."""
    study = make_room(root, SETS)
    logins = log_in(study, RATERS)
    samples: list[tuple[float, int, float]] = []
    with serving(study.root) as server:
        process = psutil.Process(server.process.pid)
        pace = [1.5 / SPEED_UP, 2.0 / SPEED_UP]
        job = {"port": server.port, "pid": process.pid, "cookies": [login.cookie for login in logins]}
        client = run_client({**job, "seconds": minutes * 60, "pace_s": pace, "kind": "soak"})
        started = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(result_of, client)
            while not waiting.done():
                n = int(study.db.value("SELECT coalesce(max(event_id), 0) FROM score_events"))
                samples.append((time.monotonic() - started, n, process.memory_info().rss / 1024))
                time.sleep(1.0)
            found = waiting.result()
        threads, files = process.num_threads(), process.num_fds()
    stored = int(study.db.value("SELECT count(*) FROM score_events"))
    study.db.close()
    return {"samples": samples, "found": found, "threads": threads, "files": files, "stored": stored}


def main() -> None:
    """Entry: print the rows, with ``--json`` one JSON line last."""
    parser = command_line("soak", __doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="radpref-soak-") as folder:
        result = soak(Path(folder) / "study", options.minutes)
    found, samples = result["found"], np.array(result["samples"])
    warm = samples[samples[:, 0] > samples[-1, 0] / 3]
    value, low, high = slope(warm[:, 1], warm[:, 2])
    rows = [
        row("scores given", found["n_scores"], None),
        row("hours of 50 paced raters they make up", found["n_scores"] / (RATERS * 3600 / 1.75), None),
        row("acknowledged events lost", len(found["acknowledged"]) - result["stored"], 0.0),
        row("raters stopped by an error", len(found["errors"]), 0.0),
        row("memory at start, MiB", samples[0, 2] / 1024, None),
        row("memory after the warm-up, MiB", warm[0, 2] / 1024, None),
        row("memory at end, MiB", samples[-1, 2] / 1024, None),
        row("growth, kB per 1000 events", value, FLAT_KB),
        row("growth, lower end of the 95 % interval", low, None),
        row("growth, upper end of the 95 % interval", high, None),
        row("threads at end", result["threads"], None),
        row("open files at end", result["files"], None),
    ]
    for text in found["errors"]:
        print(text, file=sys.stderr)
    show(rows, options.json, samples=result["samples"][::10])


if __name__ == "__main__":
    main()
