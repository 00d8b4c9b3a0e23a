"""Make the pictures of the dashboard and of the login page from a made-up study: nobody's scores, habits drawn by seed.

    python docs/examples/dashboard_pictures.py docs/images

Writes ``dashboard.png`` (its upper part), ``dashboard-all.png`` (all of it) and ``login.png``.
Five made-up raters have known habits (see HABITS), so that one sees what a lenient, a drifting or a hurried rater looks
like. Run it from the repository: it uses the tests' raters and browser.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

sys.path.insert(0, str(Path(__file__).parents[2]))
from radpref.data.reader_study.lifecycle import lock
from radpref.data.reader_study.raters import add_rater
from radpref.data.reader_study.scores import ScoreEvent, record_event
from radpref.data.study.study import Study
from tests.support.annotate import PASSWORD, PLAIN, add_sets, password_hash
from tests.support.browser import Room, open_browser
from tests.support.quality import Habit, add_expectations, fill_study

HABITS = [
    Habit("albers", noise=0.45, seconds=34),
    Habit("bianchi", leniency=0.7, noise=0.55, seconds=22, done=0.97),
    Habit("chen", leniency=-0.4, noise=0.5, place=(0.3, -0.1, -0.1, -0.1), seconds=41, done=0.9),
    Habit("dubois", noise=0.9, drift=-0.9, fast=0.16, straight=0.1, careless=0.3, seconds=17),
    Habit("eriksen", noise=0.6, seconds=28, done=0.45),
    Habit("sim-1", kind="simulated", leniency=-0.3),
    Habit("sim-2", kind="simulated", leniency=0.3, noise=0.8),
]
TEXTS = [
    ("Severe left pleural effusion", "pleural_effusion"),
    ("Normal chest radiograph", "normal"),
    ("Mild cardiomegaly", "cardiomegaly"),
    ("Bibasilar atelectasis", "atelectasis"),
    ("Right lower lobe consolidation", "consolidation"),
    ("Moderate pulmonary edema", "edema"),
]
COMMENTS = [
    ("albers", "Image C looks like a lateral view."),
    ("chen", "The mask hardly covers the effusion."),
    ("bianchi", "Two of the four have a pacemaker that was not asked for."),
]


def made_up_study(root: Path) -> Study:
    """A locked study of 130 sets that five people and two programs have scored over the last three days."""
    rng = np.random.default_rng(2)
    study = Study.create(root / "pilot", PLAIN)
    add_sets(study, tuple(rng.choice(["T2I", "M2I", "TM2I"], 130, p=[0.7, 0.15, 0.15]).tolist()))
    add_expectations(study, [f"set-0-{n}" for n in range(6)], "attention")
    add_expectations(study, [f"set-0-{n}" for n in range(6, 9)], "training")
    with study.db.write() as connection:
        rows = connection.execute("SELECT condition_id FROM conditions WHERE text IS NOT NULL").fetchall()
        for row in rows:
            text, finding = TEXTS[int(rng.integers(len(TEXTS)))]
            asked = json.dumps({finding: 1})
            connection.execute(
                "UPDATE conditions SET text = ?, asked = ? WHERE condition_id = ?", (text, asked, row[0])
            )
    ids = {}
    for habit in HABITS:
        person = habit.kind == "human"
        ids[habit.username] = add_rater(
            study.db, habit.username, password_hash() if person else None, "human" if person else "simulated"
        ).rater_id
    add_rater(study.db, "fischer")
    add_rater(study.db, "office", password_hash(), role="admin")
    start = datetime.now(UTC) - timedelta(days=2, hours=2)
    fill_study(study, HABITS, ids, n_repeats=12, seed=4, start=start)
    for number, (name, words) in enumerate(COMMENTS):
        shown = study.db.value("SELECT min(presentation_id) FROM presentations WHERE rater_id = ?", (ids[name],))
        uuid = f"00000000-0000-4000-8000-{number:012d}"
        record_event(study.db, ScoreEvent(uuid, shown + 11 * number, ids[name], "comment", comment=words))
    lock(study, "office", keep_scores=True)
    return study


def whole(page: Page, path: Path, height: int | None = None) -> None:
    """A picture of the page, which scrolls inside the window, at its full height (or ``height``)."""
    size = page.viewport_size or {"width": 1440, "height": 900}
    full = int(page.evaluate("document.querySelector('.radpref-root').scrollHeight"))
    page.set_viewport_size({"width": size["width"], "height": height or full})
    page.wait_for_timeout(500)
    picture(page, path)
    page.set_viewport_size(size)


def picture(page: Page, path: Path) -> None:
    """The window in 128 colours: a third of the size, and nobody sees a difference."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


def main(folder: Path, width: int = 1440) -> None:
    """Write the pictures to ``folder``."""
    with tempfile.TemporaryDirectory() as root, open_browser() as browser:
        room = Room(made_up_study(Path(root)), browser)
        page = room.page(room.context(viewport={"width": width, "height": 900}))
        page.goto(room.url)
        picture(page, folder / "login.png")
        page.get_by_label("Name", exact=True).fill("office")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("updated")).to_contain_text("Updated", timeout=60_000)
        whole(page, folder / "dashboard.png", 1240)
        whole(page, folder / "dashboard-all.png")
        room.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."), *(int(text) for text in sys.argv[2:]))
