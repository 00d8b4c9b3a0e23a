"""Score sets in the real reading room, in a real browser, by keyboard: a tool for rehearsals.

    python docs/examples/score_in_browser.py --url http://127.0.0.1:7860 --user ann --n 10 --look --screenshot-dir look
    python docs/examples/score_in_browser.py --url http://127.0.0.1:7860 --user ann --n 10 --scores look/scores.json

``--look`` writes nothing to the study: it saves the page of each of the next sets as ``set-001.png``, ... and an empty
``scores.json`` beside them. A person looks at the pictures and fills in 0 to 5 for every null; the second command then
logs in as that rater and types those scores, with pauses, one key at a time, as anybody would. It can be stopped and
run again: the page itself knows which set comes next.

``scores.json`` maps the number that the page shows ("Set 3 / 40"; with a T before it in the training) to scores by
position:

    {"3": {"A": {"text": 4}, "B": {"text": 2}, "C": {"text": 0}, "D": {"text": 5}}}

    python docs/examples/score_in_browser.py --url http://127.0.0.1:7860 --user rehearsal --timings timings.json

scores everything there is at the pace of a fast reader (some 12 s for a set with text and mask) and writes what the
page itself measured: login to first set, key to mark, event to answer, Enter to the next set on the screen; with
errors on the console, failed requests and requests to other addresses, of which there should be none.

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
import math
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
from playwright.sync_api import Page, Request, Route, sync_playwright

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
    parser.add_argument("--n", type=int, default=100_000, help="sets to look at or to score; default: all")
    parser.add_argument("--scores", type=Path, help="JSON of scores by set number and position")
    parser.add_argument(
        "--look", action="store_true", help="only save pictures and an empty scores.json; score nothing"
    )
    parser.add_argument("--screenshot-dir", type=Path, help="folder for a picture of each set's page")
    parser.add_argument(
        "--pace-seconds",
        type=float,
        default=1.1,
        help="mean pause before a score, thrice that before the first of a set; 1.1: 12 s for text and mask",
    )
    parser.add_argument("--timings", type=Path, help="JSON file for what the page measured")
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


def chosen_scores(number: str, mode: str, scores: dict[str, Scores] | None, rng: random.Random) -> Scores:
    """The scores to type for one set: those of the file, or drawn (1 to 4) where there is no file.

    Raises:
        Problem: the file lacks one of them.
    """
    if scores is None:
        return {letter: {name: rng.randint(1, 4) for name in CRITERIA[mode]} for letter in IMAGE_KEYS}
    own = scores.get(number, {})
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


STATE = """() => {
    const root = document.querySelector('.radpref-root[data-mode]');
    if (!root) return null;
    const named = name => root.querySelector(`[data-testid=${name}]`);
    const seen = name => Boolean(named(name)) && !named(name).hidden;
    const page = ['pending', 'begin', 'gate', 'waiting', 'closed', 'broken', 'end'].find(seen);
    const number = ((named('place') || {}).textContent || '').split(' ')[1] || '';
    if (!page && !number) return null;
    return {
        page: document.querySelector('dialog[open]') ? 'dialog' : page || (seen('tie') ? 'tie' : null)
            || (root.hasAttribute('data-reading') ? 'feedback' : 'set'),
        mode: root.dataset.mode, number: (seen('training') ? 'T' : '') + number,
    };
}"""
"""What the page shows: a set, its feedback, a question, or one of the pages without images."""
STOPS = ("end", "gate", "waiting", "closed", "broken")


def wait_for_page(page: Page) -> dict[str, str]:
    """Wait until the page shows something; returns it."""
    found = page.wait_for_function(f"() => {{ const s = ({STATE})(); return s && s.page !== 'pending' && s; }}")
    return dict(found.json_value())


def at_the_end(page: Page) -> bool:
    """True where nothing is left to score here."""
    return wait_for_page(page)["page"] in STOPS


def shown_set(page: Page) -> tuple[str, str, str]:
    """(number, mode, condition in words) of the set on the page."""
    state = wait_for_page(page)
    return state["number"], state["mode"], " ".join(page.locator("[data-testid=condition]").inner_text().split())


def picture_name(number: str) -> str:
    """File name of a set's picture: set-003.png, or training-003.png."""
    return f"{'training' if number.startswith('T') else 'set'}-{int(number.lstrip('T')):03d}.png"


def save_picture(page: Page, folder: Path | None, number: str) -> None:
    """Save the page as a picture, if a folder is given."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(300)  # the canvases are drawn after the set's text
        page.screenshot(path=str(folder / picture_name(number)))


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


def submit(page: Page, pace: float, rng: random.Random) -> None:
    """Press Enter until the next set, or a page that ends the scoring: feedback is read, breaks are cut short."""
    before = wait_for_page(page)
    done = before["number"]
    page.keyboard.press("Enter")
    while True:
        page.wait_for_function(
            f"([before, done]) => {{ const s = ({STATE})(); return s && s.page !== 'pending'"
            " && (s.page !== 'set' || s.number !== done)"
            " && ['page', 'mode', 'number'].some(key => s[key] !== before[key]); }",
            arg=[before, done],
            timeout=TIMEOUT_MS,
        )
        before = wait_for_page(page)
        if before["page"] == "set" or before["page"] in STOPS:
            return
        pause(FIRST_LOOK * pace, rng)
        page.keyboard.press("Enter")


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
        instead = {**first, "set": state, "n_done": first["n_done"] + len(blanks)}  # of the first open set
        page.route("**/api/next", partial(_answer, instead))
        page.reload()
        wait_for_page(page)
        number, mode, condition = shown_set(page)
        save_picture(page, options.screenshot_dir, number)
        page.unroute("**/api/next")
        blanks[number] = {letter: dict.fromkeys(CRITERIA[mode]) for letter in IMAGE_KEYS}
        say({"set": number, "mode": mode, "condition": condition, "picture": picture_name(number)})
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
        submit(page, options.pace_seconds, rng)
        n_done += 1
        seconds = round(time.monotonic() - started, 1)
        say({"set": number, "mode": mode, "condition": condition, "scores": chosen, "seconds": seconds})
    page.wait_for_function(
        "() => document.querySelector('[data-testid=save-state]').textContent === 'Saved'", timeout=TIMEOUT_MS
    )
    return n_done


class Watch:
    """What went wrong in the browser while scoring."""

    def __init__(self, page: Page, url: str) -> None:
        self.console: list[str] = []
        self.failed = self.external = self.requests = 0
        self.url = url
        page.on("console", lambda message: self.console.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("requestfailed", self._fail)
        page.on("request", self._count)

    def _fail(self, _: Request) -> None:
        self.failed += 1

    def _count(self, request: Request) -> None:
        self.requests += 1
        self.external += not request.url.startswith((self.url, "data:", "blob:"))


def spread(values: list[float]) -> dict[str, float | int]:
    """Number, median, 95th percentile (nearest rank) and maximum, milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return {"n": 0}
    ranks = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    found = {name: round(ordered[math.ceil(share * len(ordered)) - 1], 1) for name, share in ranks.items()}
    return {"n": len(ordered), **found}


def timings(page: Page, watch: Watch) -> dict[str, Any]:
    """The page's own measures; see annotate_app/static/timing.js."""
    found = page.evaluate("performance.getEntriesByType('measure').map(one => [one.name, one.duration])")
    names = {"cold": "login_to_first_set_ms", "next-set": "enter_to_next_set_ms", "echo": "key_to_mark_ms"}
    names["ack"] = "event_to_answer_ms"
    measured = {words: spread([ms for known, ms in found if known == name]) for name, words in names.items()}
    return {
        **measured,
        "browser": page.evaluate("navigator.userAgent"),
        "requests": watch.requests,
        "failed_requests": watch.failed,
        "external_requests": watch.external,
        "console_errors": watch.console,
    }


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
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(TIMEOUT_MS)
            watch = Watch(page, options.url)
            log_in(page, options.url, options.user, options.password)
            started = time.monotonic()
            n_done = (look if options.look else score)(page, options)
            if options.timings:
                run = {"sets": n_done, "seconds": round(time.monotonic() - started, 1), "pace_s": options.pace_seconds}
                text = json.dumps({**run, **timings(page, watch)}, indent=1)
                options.timings.write_text(text + "\n", encoding="utf-8")
        except (Problem, PlaywrightError) as problem:
            sys.stderr.write(f"score_in_browser: {str(problem).splitlines()[0]}\n")
            return 2
        finally:
            browser.close()
    say({"looked_at" if options.look else "scored": n_done})
    return 0


if __name__ == "__main__":
    sys.exit(main())
