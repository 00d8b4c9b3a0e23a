"""Score sets in the real reading room, in a real browser, by keyboard: a tool for rehearsals.

    python docs/examples/score_in_browser.py --url http://127.0.0.1:7860 --user ann --n 10 --look --screenshot-dir look
    python docs/examples/score_in_browser.py --url http://127.0.0.1:7860 --user ann --n 10 --scores look/scores.json

``--look`` writes nothing to the study: it saves the page of each of the next sets as ``set-001.png``, ... and an empty
``scores.json`` beside them. A person looks at the pictures and fills in 0 to 5 for every null; the second command then
logs in as that rater and types those scores, with pauses, one key at a time, as anybody would. It can be stopped and
run again: the page itself knows which set comes next.

``scores.json`` maps the number that the page shows ("Set 3 / 40") to scores by position:

    {"3": {"A": {"text": 4}, "B": {"text": 2}, "C": {"text": 0}, "D": {"text": 5}}}

Without ``--scores`` every score is drawn from ``--seed`` (1 to 4, whatever the image shows). That exercises the page
and nothing else.

**What these scores are not.** They are entered under a rater's account and the database cannot tell them from a
radiologist's. Whoever reports them must say who decided them and how; they are no reading by a radiologist, and those
of the random rule are no reading at all. Use an account that says so (``rehearsal``), in a study of its own.

The password is read from ``--password`` or the environment variable RADPREF_PASSWORD. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, Route, sync_playwright

Scores = dict[str, dict[str, int]]
IMAGE_KEYS = {"A": "q", "B": "w", "C": "a", "D": "s"}
CRITERION_KEYS = {"text": "t", "mask": "m"}
CRITERIA = {"T2I": ("text",), "M2I": ("mask",), "TM2I": ("text", "mask")}
TIMEOUT_MS = 30_000
FIRST_LOOK = 3.0
"""The first pause in a set, as a multiple of the pause between scores."""


class Problem(Exception):
    """Something the user can mend; printed on one line."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="address of the reading room")
    parser.add_argument("--user", required=True, help="name of the rater")
    parser.add_argument("--password", default=os.environ.get("RADPREF_PASSWORD"), help="default: RADPREF_PASSWORD")
    parser.add_argument("--n", type=int, default=10, help="sets to look at or to score")
    parser.add_argument("--scores", type=Path, help="JSON of scores by set number and position")
    parser.add_argument(
        "--look", action="store_true", help="only save pictures and an empty scores.json; score nothing"
    )
    parser.add_argument("--screenshot-dir", type=Path, help="folder for a picture of each set's page")
    parser.add_argument("--pace-seconds", type=float, default=2.0, help="mean pause before a score")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pauses, and of the scores without --scores")
    parser.add_argument("--chromium", help="browser to start; default: chromium or google-chrome of this machine")
    parser.add_argument("--show", action="store_true", help="show the browser's window")
    options = parser.parse_args(arguments)
    if options.look and (options.scores or not options.screenshot_dir):
        parser.error("--look needs --screenshot-dir and takes no --scores")
    if not options.password:
        parser.error("give --password or set RADPREF_PASSWORD")
    if options.n < 1 or options.pace_seconds < 0:
        parser.error("--n must be at least 1, --pace-seconds at least 0")
    return options


def read_scores(path: Path) -> dict[str, Scores]:
    """The scores of ``path`` by set number; checks that every value is null or a whole number from 0 to 5.

    Raises:
        Problem: the file cannot be read, or holds another value; names the place.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise Problem(f"{path} cannot be read ({error}); give a JSON file of scores") from error
    for number, positions in found.items():
        for letter in IMAGE_KEYS:
            for criterion, value in positions.get(letter, {}).items():
                if value is None:
                    continue  # not decided yet
                if type(value) is not int or not 0 <= value <= 5 or criterion not in CRITERION_KEYS:
                    raise Problem(
                        f"{path}: set {number}, {letter}, {criterion} is {value!r}; give 0 to 5 for text or mask"
                    )
    return dict(found)


def chosen_scores(number: int, mode: str, scores: dict[str, Scores] | None, rng: random.Random) -> Scores:
    """The scores to type for one set: those of the file, or drawn (1 to 4) where there is no file.

    Raises:
        Problem: the file lacks one of them.
    """
    if scores is None:
        return {letter: {name: rng.randint(1, 4) for name in CRITERIA[mode]} for letter in IMAGE_KEYS}
    own = scores.get(str(number), {})
    missing = [
        f"{letter}/{name}" for letter in IMAGE_KEYS for name in CRITERIA[mode] if name not in own.get(letter, {})
    ]
    if missing:
        raise Problem(f"no score for set {number}: {', '.join(missing)}; look at it (--look), add them and run again")
    return {letter: {name: own[letter][name] for name in CRITERIA[mode]} for letter in IMAGE_KEYS}


# ---- the page


def log_in(page: Page, url: str, user: str, password: str) -> None:
    """Log in and wait for the reading room.

    Raises:
        Problem: name or password are not right, or the account does not score.
    """
    page.goto(f"{url.rstrip('/')}/login")
    page.fill("#username", user)
    page.fill("#password", password)
    with page.expect_navigation(timeout=TIMEOUT_MS):
        page.keyboard.press("Enter")
    if "/read" not in page.url and page.locator("#password").count():
        raise Problem(f"login refused: {page.locator('.error').inner_text().strip()}")
    if "/read" not in page.url:
        raise Problem(f"'{user}' does not score here (the page opened {page.url}); give a rater's account")
    wait_for_page(page)


def wait_for_page(page: Page) -> None:
    """Wait until a set, or the end, is shown."""
    page.wait_for_function(
        "() => document.querySelector('[data-testid=end]') || /^Set /.test("
        "(document.querySelector('[data-testid=place]') || {}).textContent || '')",
        timeout=TIMEOUT_MS,
    )


def at_the_end(page: Page) -> bool:
    """True where every set is done."""
    return page.locator("[data-testid=end]").count() > 0


def shown_set(page: Page) -> tuple[int, str, str]:
    """(number, mode, condition in words) of the set on the page."""
    number = int(page.locator("[data-testid=place]").inner_text().split()[1])
    mode = str(page.locator("[data-mode]").first.get_attribute("data-mode"))
    return number, mode, " ".join(page.locator("[data-testid=condition]").inner_text().split())


def save_picture(page: Page, folder: Path | None, number: int) -> None:
    """Save the page as ``set-<number>.png``, if a folder is given."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(300)  # the canvases are drawn after the set's text
        page.screenshot(path=str(folder / f"set-{number:03d}.png"))


def pause(seconds: float, rng: random.Random) -> None:
    """Wait about ``seconds``: log-normal, as people's pauses are."""
    if seconds:
        time.sleep(min(seconds * rng.lognormvariate(-0.1, 0.45), 10 * seconds))


def type_scores(page: Page, scores: Scores, pace: float, rng: random.Random) -> None:
    """Type the scores of the set on the page: an image's key, a row's key, a digit; then check them on the page.

    Raises:
        Problem: the page does not show a score that was typed.
    """
    pause(FIRST_LOOK * pace, rng)
    for letter, rows in scores.items():
        for criterion, value in rows.items():
            page.keyboard.press(IMAGE_KEYS[letter])
            page.keyboard.press(CRITERION_KEYS[criterion])
            pause(pace, rng)
            page.keyboard.press(str(value))
            if not page.get_by_test_id(f"{letter}-{criterion}-{value}").is_checked():
                raise Problem(f"the page did not take {value} for {letter}/{criterion}; look at it with --show")


def submit(page: Page, number: int) -> None:
    """Press Enter and wait for the next set, or the end."""
    page.keyboard.press("Enter")
    page.wait_for_function(
        "(number) => document.querySelector('[data-testid=end]') || !document.querySelector("
        "'[data-testid=place]').textContent.startsWith(`Set ${number} `)",
        arg=number,
        timeout=TIMEOUT_MS,
    )


# ---- the two ways to use it


def _answer(body: dict[str, Any], route: Route) -> None:
    route.fulfill(json=body)


def look(page: Page, options: argparse.Namespace) -> int:
    """Save the pages of the next sets and an empty scores.json. Nothing is sent: the page only reads."""
    base = page.url.split("/read")[0]
    first = page.request.get(f"{base}/api/next").json()
    token = (first.get("set") or {}).get("token")
    blanks: dict[str, Any] = {}
    while token and len(blanks) < options.n:
        state = page.request.get(f"{base}/api/sets/{token}").json()
        page.route("**/api/next", partial(_answer, {**first, "set": state}))  # instead of the first open set
        page.reload()
        wait_for_page(page)
        number, mode, condition = shown_set(page)
        save_picture(page, options.screenshot_dir, number)
        page.unroute("**/api/next")
        blanks[str(number)] = {letter: dict.fromkeys(CRITERIA[mode]) for letter in IMAGE_KEYS}
        say({"set": number, "mode": mode, "condition": condition, "picture": f"set-{number:03d}.png"})
        token = state["next"]
    target = options.screenshot_dir / "scores.json"
    if target.exists():
        raise Problem(f"{target} is there already and was left as it is; move it away to have a blank one")
    target.write_text(json.dumps(blanks, indent=1) + "\n", encoding="utf-8")
    return len(blanks)


def score(page: Page, options: argparse.Namespace) -> int:
    """Score the next sets; returns how many."""
    rng = random.Random(options.seed)
    scores = read_scores(options.scores) if options.scores else None
    n_done = 0
    while n_done < options.n and not at_the_end(page):
        number, mode, condition = shown_set(page)
        save_picture(page, options.screenshot_dir, number)
        chosen = chosen_scores(number, mode, scores, rng)
        started = time.monotonic()
        type_scores(page, chosen, options.pace_seconds, rng)
        submit(page, number)
        n_done += 1
        seconds = round(time.monotonic() - started, 1)
        say({"set": number, "mode": mode, "condition": condition, "scores": chosen, "seconds": seconds})
    page.wait_for_function(
        "() => document.querySelector('[data-testid=save-state]').textContent === 'Saved'", timeout=TIMEOUT_MS
    )
    return n_done


def say(line: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def find_browser(given: str | None) -> str | None:
    """The browser to start; None leaves it to playwright's own."""
    return given or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parse(arguments)
    flags = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(options.chromium), headless=not options.show, args=flags
        )
        try:
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            log_in(page, options.url, options.user, options.password)
            n_done = (look if options.look else score)(page, options)
        except (Problem, PlaywrightError) as problem:
            sys.stderr.write(f"score_in_browser: {str(problem).splitlines()[0]}\n")
            return 2
        finally:
            browser.close()
    say({"looked_at" if options.look else "scored": n_done})
    return 0


if __name__ == "__main__":
    sys.exit(main())
