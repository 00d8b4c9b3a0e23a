"""The reading room under load: 50 paced raters against the real server process, and a plain Gradio app beside it.

    python -m benchmarks.serve --size tiny --json

Three measurements in one run, each with its own server process and durable commits: score events alone; whole
sets (next, images, prefetch, events, submit), everything included; and the peer: the same rows stored by an ordinary
Gradio app, radio by radio through its queue. CPU is the server process's own, user and system. Every acknowledged
event is looked for in the database.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.room import (
    Login,
    Server,
    free_port,
    log_in,
    lost_and_doubled,
    make_room,
    result_of,
    run_client,
    serving,
)
from benchmarks.rows import command_line, row, show

SIZES = {
    "tiny": {"raters": 50, "seconds": 40, "peer_seconds": 20, "sets": 60},
    "full": {"raters": 50, "seconds": 300, "peer_seconds": 120, "sets": 120},
}
PACE_S = (1.5, 2.0)
"""Think time between two scores of one rater; with the answer's own time a score every 1.75 s and a bit."""
P95_MS, CPU_MS, PEER_RATIO = 50.0, 1.5, 5.0


def percentiles(times: list[float]) -> dict[str, float]:
    """p50, p95 and p99."""
    return {f"p{q}": float(np.percentile(times, q)) for q in (50, 95, 99)}


def measure(server: Server, logins: list[Login], kind: str, seconds: float, **more: Any) -> dict[str, Any]:
    """Let the raters work for ``seconds``; what the load generator found, with the server's memory afterwards.

    Raises:
        RuntimeError: a rater met an error.
    """
    cookies = [login.cookie for login in logins]
    job = {"port": server.port, "pid": server.process.pid, "cookies": cookies, "seconds": seconds, "pace_s": PACE_S}
    found = result_of(run_client({**job, "kind": kind, **more}))
    if found["errors"]:
        raise RuntimeError(f"raters met errors: {found['errors'][:3]}")
    return {**found, "rss_mib": server.rss_mib(), "cpu_ms": found["server_cpu_s"] * 1000 / max(found["n_scores"], 1)}


def ours(root: Path, size: dict[str, int]) -> tuple[list[dict[str, Any]], float, float]:
    """Rows of the reading room; its CPU ms per score event and its p95."""
    study = make_room(root, size["sets"])
    logins = log_in(study, size["raters"])
    with serving(study.root) as server:
        start = server.rss_mib()
        scores = measure(server, logins, "scores", size["seconds"] / 2, n_open=4)
        whole = measure(server, logins, "room", size["seconds"] / 2)
    sent = scores["sent"] + whole["sent"]
    lost, doubled = lost_and_doubled(study, sent, scores["acknowledged"] + whole["acknowledged"])
    study.db.close()
    alone, everything = percentiles(scores["ack_ms"]), percentiles(whole["ack_ms"])
    n = f"{size['raters']} raters"
    rows = [
        row(f"score events alone, {n}, p95 acknowledged, ms", alone["p95"], P95_MS),
        *(row(f"score events alone, {n}, {q}, ms", alone[q], None) for q in ("p50", "p99")),
        row("score events alone, server CPU per score, ms", scores["cpu_ms"], CPU_MS),
        row(f"whole sets, {n}, p95 acknowledged, ms", everything["p95"], P95_MS),
        *(row(f"whole sets, {n}, {q}, ms", everything[q], None) for q in ("p50", "p99")),
        row("whole sets, everything included, server CPU per score, ms", whole["cpu_ms"], None),
        row("whole sets, other requests (sets, images), p95, ms", percentiles(whole["other_ms"])["p95"], None),
        row("events sent", len(sent), None),
        row("acknowledged events lost", lost, 0.0),
        row("events stored twice or unasked", doubled, 0.0),
        row("sets submitted", whole["n_sets"], None),
        row("scores per second, whole sets", whole["n_scores"] / whole["seconds"], None),
        row("server memory at start, MiB", start, None),
        row("server memory at end, MiB", whole["rss_mib"], None),
    ]
    return rows, scores["cpu_ms"], alone["p95"]


def peer(root: Path, size: dict[str, int]) -> dict[str, Any]:
    """The ordinary Gradio app under the same raters; half as many, and again, where it does not keep their pace."""
    from radpref.annotate_app.scoring import next_set

    study = make_room(root, 9, size=32)
    next_set(study, log_in(study, 1)[0].rater_id)
    n_raters = size["raters"]
    while True:
        port = free_port()
        server = Server(
            [sys.executable, "-m", "benchmarks.peers.gradio_queue", str(study.root), str(port)], port, "/config"
        )
        try:
            radios = _radios(port)
            before = int(study.db.value("SELECT count(*) FROM score_events"))
            found = measure(server, [Login(0, "")] * n_raters, "gradio", size["peer_seconds"], radios=radios)
            stored = int(study.db.value("SELECT count(*) FROM score_events")) - before
        finally:
            server.stop()
        found = {**found, "n_raters": n_raters, "lost": found["n_scores"] - stored}
        asked = n_raters * (size["peer_seconds"] - PACE_S[1] / 2) / (sum(PACE_S) / 2)
        if found["n_scores"] > 0.6 * asked or n_raters < 4:
            return found
        n_raters //= 2


def _radios(port: int) -> list[list[int]]:
    """(fn_index, trigger id) of every radio, as the page learns them from /config."""
    config = httpx.get(f"http://127.0.0.1:{port}/config", timeout=30, trust_env=False).json()
    return [[part["id"], part["targets"][0][0]] for part in config["dependencies"]]


def run(size: dict[str, int]) -> list[dict[str, Any]]:
    """All rows of the benchmark."""
    with tempfile.TemporaryDirectory(prefix="radpref-load-") as folder:
        rows, cpu_ms, p95 = ours(Path(folder) / "ours", size)
        found = peer(Path(folder) / "peer", size)
    n = found["n_raters"]
    ratio = row("server CPU per score, ms: Gradio's queue the peer", cpu_ms, None, peer=found["cpu_ms"])
    ratio["target"], ratio["met"] = PEER_RATIO, ratio["ratio"] >= PEER_RATIO
    times = percentiles(found["ack_ms"])
    return [
        *rows,
        ratio,
        row(f"p95 acknowledged, ms: Gradio's queue with {n} raters the peer", p95, None, peer=times["p95"]),
        row("scores that Gradio's queue stored", found["n_scores"], None),
    ]


def main() -> None:
    """Entry: print the rows, with ``--json`` one JSON line last."""
    parser = command_line("serve", __doc__, SIZES)
    options = parser.parse_args()
    rows = run(SIZES[options.size])
    show(rows, options.json)


if __name__ == "__main__":
    main()
