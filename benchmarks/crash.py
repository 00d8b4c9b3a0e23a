"""The server process killed at random moments under load, again and again; what was acknowledged must be there.

    python -m benchmarks.crash --n 50 --json

Raters hold on to an event until it is acknowledged and send it again with the same UUID, as the page's outbox does.
The server is killed (SIGKILL), started again on the same port, and the raters go on with the logins they have. In the
end every acknowledged event is looked for in the database, which is checked as ``radpref study verify`` does.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.room import Server, free_port, log_in, lost_and_doubled, make_room, result_of, run_client
from benchmarks.rows import command_line, row, show
from radpref.data.core.sqlite import sqlite3
from radpref.data.upkeep.verify import verify

PACE_S = (0.05, 0.15)
"""Faster than people, so that most kills fall into a write."""


def crash(root: Path, n: int, raters: int = 12, seed: int = 0) -> dict[str, Any]:
    """Kill the server ``n`` times; returns counts, and what the checks of the study found."""
    study = make_room(root, 240, size=32)
    logins = log_in(study, raters)
    port, chance = free_port(), random.Random(seed)
    command = [sys.executable, "-m", "radpref", "annotate", "serve", "--study", str(root), "--port", str(port)]
    server = Server(command, port, "/login")
    stop = root.parent / "stop"
    job = {"port": port, "pid": None, "cookies": [login.cookie for login in logins], "seconds": 36_000}
    client = run_client({**job, "pace_s": PACE_S, "kind": "room", "resend": True, "stop": str(stop)})
    unsound, restarts = 0, []
    try:
        for _ in range(n):
            time.sleep(chance.uniform(0.3, 1.5))
            server.kill()
            unsound += not is_sound(study.db.path)
            started = time.monotonic()
            server.start()
            restarts.append(time.monotonic() - started)
        time.sleep(1.5)
        stop.touch()
        found = result_of(client)
    finally:
        if client.poll() is None:
            client.kill()
        server.stop()
    problems = verify(study).problems
    lost, doubled = lost_and_doubled(study, found["sent"], found["acknowledged"])
    study.db.close()
    return {
        "kills": n,
        "sent": len(found["sent"]),
        "acknowledged": len(found["acknowledged"]),
        "sent_again": found["n_resent"],
        "lost": lost,
        "doubled": doubled,
        "logins_lost": found["n_logins_lost"],
        "errors": found["errors"],
        "unsound": unsound,
        "problems": problems,
        "restart_s": max(restarts, default=0.0),
    }


def is_sound(path: Path) -> bool:
    """Whether SQLite finds the file intact after the kill (this rolls back what was not committed)."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok")


def main() -> None:
    """Entry: print the rows, with ``--json`` one JSON line last."""
    parser = command_line("crash", __doc__)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="radpref-crash-") as folder:
        found = crash(Path(folder) / "study", options.n, seed=options.seed)
    rows = [
        row("server killed, times", found["kills"], None),
        row("events acknowledged", found["acknowledged"], None),
        row("events sent again after a kill", found["sent_again"], None),
        row("acknowledged events lost", found["lost"], 0.0),
        row("events stored twice or unasked", found["doubled"], 0.0),
        row("database not intact after a kill, times", found["unsound"], 0.0),
        row("problems found by verify", len(found["problems"]), 0.0),
        row("logins lost", found["logins_lost"], 0.0),
        row("raters stopped by an error", len(found["errors"]), 0.0),
        row("longest restart, s", found["restart_s"], None),
    ]
    for text in [*found["errors"], *map(str, found["problems"])]:
        print(text, file=sys.stderr)
    show(rows, options.json)


if __name__ == "__main__":
    main()
