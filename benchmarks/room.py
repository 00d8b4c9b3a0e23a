"""A study with many logged-in raters, and the real server process over it; for the benchmarks of the reading room.

Input: a folder. Output: a study of random images, one session cookie per rater, and ``radpref annotate serve`` as a
separate process whose CPU time and memory can be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from radpref.annotate_app.accounts import Sessions
from radpref.annotate_app.guard import COOKIE
from radpref.data.reader_study.raters import add_rater
from radpref.data.study.runs import now
from radpref.data.study.study import Study

TOML = 'name = "load"\n[annotate]\ntraining_sets = 0\nrepeats = 0.0\nattention = 0.0\nbreak_minutes = 0.0\n'
MODES = ("T2I", "M2I", "TM2I")
STRUCTURES = {"lungs": (0.1, 0.5), "heart": (0.5, 0.8)}
STARTED_WITHIN_S = 90.0


@dataclass(frozen=True)
class Login:
    """One rater who is logged in: the value of the browser's Cookie header."""

    rater_id: int
    cookie: str


def make_room(root: Path, n_sets: int, size: int = 128) -> Study:
    """A study of ``n_sets`` rating sets in turn T2I, M2I, TM2I, with 16-bit images of ``size`` pixels."""
    study = Study.create(root, TOML)
    rng = np.random.default_rng(0)
    (study.root / "runs" / "sets").mkdir(parents=True)
    (study.root / "runs" / "sets" / "config.json").write_text("{}")
    with study.db.write() as connection:
        connection.execute("INSERT INTO runs VALUES ('sets', 'sets', 'done', ?, NULL, '{}', '{}', NULL)", (now(),))
        for ordinal in range(n_sets):
            mode, condition = MODES[ordinal % 3], f"condition-{ordinal}"
            text = None if mode == "M2I" else f"Moderate left pleural effusion, case {ordinal}"
            connection.execute(
                "INSERT INTO conditions(condition_id, mode, text) VALUES (?, ?, ?)", (condition, mode, text)
            )
            for structure, (top, bottom) in STRUCTURES.items() if mode != "T2I" else ():
                mask = np.zeros((size, size), dtype=bool)
                mask[int(top * size) : int(bottom * size), size // 4 : -(size // 4)] = True
                sha = study.store.put_mask(connection, mask)
                connection.execute("INSERT INTO condition_masks VALUES (?, ?, ?)", (condition, structure, sha))
            connection.execute(
                "INSERT INTO image_sets VALUES (?, 'sets', ?, ?, 'rating')", (f"set-{ordinal}", ordinal, condition)
            )
            for slot in range(4):
                pixels = rng.integers(0, 65536, (size, size)).astype(np.uint16)
                sha = study.store.put_image(connection, pixels, "synthetic")
                connection.execute(
                    "INSERT INTO set_images VALUES (?, ?, ?, ?, 'baseline')", (f"set-{ordinal}", slot, sha, slot)
                )
    return study


def log_in(study: Study, n_raters: int) -> list[Login]:
    """Add ``n_raters`` people and open a login for each, without the argon2 that a password costs."""
    config = study.config.annotate
    sessions = Sessions(study.db, life_hours=config.session_hours, idle_minutes=config.idle_minutes)
    ids = [add_rater(study.db, f"rater-{index}", None, "human", "rater").rater_id for index in range(n_raters)]
    return [Login(rater_id, f"{COOKIE}={sessions.open(rater_id)}") for rater_id in ids]


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """A server process on the loopback address: started, watched, killed."""

    def __init__(self, command: Sequence[str], port: int, ready: str) -> None:
        self.port, self._command, self._ready = port, list(command), ready
        self.start()

    def start(self) -> None:
        """Start the process (again) and wait until it answers.

        Raises:
            RuntimeError: it ended, or did not answer in time.
        """
        environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        )
        end = time.monotonic() + STARTED_WITHIN_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError(f"the server did not start: {self.process.communicate()[1].decode()[-2000:]}")
            time.sleep(0.05)
        self._measured = psutil.Process(self.process.pid)

    def _answers(self) -> bool:
        try:
            httpx.get(f"http://127.0.0.1:{self.port}{self._ready}", timeout=2, trust_env=False)
        except httpx.TransportError:
            return False
        return True

    def rss_mib(self) -> float:
        """Resident memory in MiB."""
        return float(self._measured.memory_info().rss) / 2**20

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.close()

    def stop(self) -> None:
        """Ask it to end, as Ctrl-C does; kill it if it does not."""
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        if self.process.poll() is None:
            self.process.kill()
        self.close()

    def close(self) -> None:
        """Reap the process."""
        self.process.communicate()


def lost_and_doubled(study: Study, sent: Iterable[str], acknowledged: Iterable[str]) -> tuple[int, int]:
    """Acknowledged events that the database lacks, and stored ones that were not sent, or are there twice."""
    stored = [str(event["uuid"]) for event in study.db.rows("SELECT uuid FROM score_events")]
    return len(set(acknowledged) - set(stored)), len(stored) - len(set(stored) & set(sent))


@contextlib.contextmanager
def serving(study: Path, *options: str) -> Iterator[Server]:
    """``radpref annotate serve`` over the study at ``study``, until the block is left."""
    port = free_port()
    command = [sys.executable, "-m", "radpref", "annotate", "serve", "--study", str(study), "--port", str(port)]
    server = Server([*command, *options], port, "/login")
    try:
        yield server
    finally:
        server.stop()


def run_client(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the load generator (:mod:`benchmarks.load`) in a separate process; give its job by stdin."""
    client = subprocess.Popen([sys.executable, "-m", "benchmarks.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdin is not None
    client.stdin.write(json.dumps(job).encode())
    client.stdin.close()
    client.stdin = None
    return client


def result_of(client: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the load generator found.

    Raises:
        RuntimeError: it failed.
    """
    out, _ = client.communicate()
    if client.returncode != 0:
        raise RuntimeError(f"the load generator ended with {client.returncode}")
    found: dict[str, Any] = json.loads(out)
    return found
