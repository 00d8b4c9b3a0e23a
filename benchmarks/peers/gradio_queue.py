"""The reading room as an ordinary Gradio app: radios whose events go through Gradio's queue and store the same row.

    python -m benchmarks.peers.gradio_queue STUDY PORT

Twenty-four radios (three sets of four images, two criteria). Every change calls a Python function with the radio's
value, which stores the event with the same function and the same durability as ours, and shows "Saved". Gradio's
defaults throughout; no login, which spares it work that ours does.
"""

from __future__ import annotations

import functools
import os
import sys
import uuid
from pathlib import Path
from typing import Any

from radpref.data.reader_study.scores import CRITERIA, N_SLOTS, ScoreEvent, record_event
from radpref.data.study.study import Study

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def places(study: Study, n: int) -> list[tuple[int, int, int, str]]:
    """(presentation_id, rater_id, slot, criterion) of ``n`` scores that may be given."""
    rows = study.db.rows(
        "SELECT presentation_id, rater_id, mode FROM presentations JOIN image_sets USING (set_id)"
        " JOIN conditions USING (condition_id) ORDER BY presentation_id"
    )
    found = [
        (int(row["presentation_id"]), int(row["rater_id"]), slot, criterion)
        for row in rows
        for slot in range(N_SLOTS)
        for criterion in CRITERIA[row["mode"]]
    ]
    return found[:n]


def build(study: Study, n: int = 24) -> Any:
    """The Gradio app over ``study`` with ``n`` radios."""
    import gradio as gr

    def save(place: tuple[int, int, int, str], value: int) -> str:
        presentation, rater, slot, criterion = place
        event = ScoreEvent(str(uuid.uuid4()), presentation, rater, "score", slot, criterion, int(value))
        record_event(study.db, event)
        return "Saved"

    with gr.Blocks(title="Scoring") as blocks:
        state = gr.Markdown("")
        for index, place in enumerate(places(study, n)):
            radio = gr.Radio([0, 1, 2, 3, 4, 5], label=f"Image {'ABCD'[place[2]]}, {place[3]} ({index})")
            radio.input(functools.partial(save, place), radio, state)
    return blocks


if __name__ == "__main__":
    app = build(Study(Path(sys.argv[1])))
    app.queue().launch(server_port=int(sys.argv[2]), quiet=True, share=False)
