"""Behind a real nginx with TLS, as docs/deploy.md says it: at the root of a name, and under a path of another site."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from benchmarks.room import Server, free_port, serving
from tests.support import ROOT
from tests.support.annotate import PASSWORD, add_people, make_study
from tests.support.browser import PATIENCE_MS, open_browser, saved

pytestmark = [pytest.mark.browser, pytest.mark.slow]
DEPLOY = ROOT / "docs" / "deploy.md"


def example(number: int) -> str:
    """The ``number``-th nginx example of docs/deploy.md."""
    return re.findall(r"```nginx\n(.*?)```", DEPLOY.read_text(encoding="utf-8"), re.S)[number]


def configuration(folder: Path, backend: int, tls: int) -> str:
    """An nginx.conf that holds both examples with this test's ports and files, the path inside the site of the root."""
    site = example(0).replace("    location / {", example(1) + "\n    location / {")
    for old, new in {
        "127.0.0.1:7860": f"127.0.0.1:{backend}",
        "listen 443 ssl": f"listen 127.0.0.1:{tls} ssl",
        "/etc/ssl/": f"{folder}/",
    }.items():
        assert old in site, f"docs/deploy.md no longer holds {old}"
        site = site.replace(old, new)
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1; daemon off;\n"
        f"events {{ worker_connections 256; }}\nhttp {{ access_log {folder}/access.log; {temporary}\n{site}\n}}\n"
    )


@dataclass(frozen=True)
class Site:
    """nginx in front of a server process."""

    root: str
    backend: Server
    folder: Path

    @property
    def bases(self) -> dict[str, str]:
        return {"root": self.root, "path": f"{self.root}reading/"}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        pytest.fail("no nginx found; `make test` installs it (scripts/install_nginx.sh)")
    folder, tls = tmp_path_factory.mktemp("nginx"), free_port()
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(
        [*command, "-keyout", str(folder / "reading.key"), "-out", str(folder / "reading.pem")],
        check=True,
        capture_output=True,
    )
    study = make_study(folder)
    add_people(study)
    study.db.close()
    with serving(study.root, "--behind-proxy") as backend:
        (folder / "nginx.conf").write_text(configuration(folder, backend.port, tls))
        proxy = subprocess.Popen([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.PIPE)
        try:
            end = time.monotonic() + PATIENCE_MS / 1000
            while not listens(tls):
                assert proxy.poll() is None, proxy.communicate()[1].decode()
                assert time.monotonic() < end, "nginx did not answer"
                time.sleep(0.05)
            yield Site(f"https://127.0.0.1:{tls}/", backend, folder)
        finally:
            proxy.terminate()
            proxy.communicate()


def client(site: Site, address: str = "127.0.0.1") -> httpx.Client:
    """A client with the test's certificate and a chosen address of its own."""
    trust = ssl.create_default_context(cafile=str(site.folder / "reading.pem"))
    return httpx.Client(transport=httpx.HTTPTransport(verify=trust, local_address=address), timeout=30)


def log_in(to: httpx.Client, base: str, name: str = "ann", password: str = PASSWORD, **headers: str) -> httpx.Response:
    return to.post(f"{base}login", json={"username": name, "password": password}, headers=headers)


@pytest.mark.parametrize("where", ["root", "path"])
def test_login_cookie_origin_and_redirects(site: Site, where: str) -> None:
    base = site.bases[where]
    with client(site) as browser:
        for path in ("", "read", "read/", "report/"):
            at = browser.get(base + path)
            while at.is_redirect:  # every step stays here, and on https
                assert at.next_request is not None
                step = str(at.next_request.url)
                assert step.startswith(base), (path, step)
                at = browser.get(step)
            assert str(at.url) == f"{base}login"
        origin = base.removesuffix("/reading/") if where == "path" else base.removesuffix("/")
        assert log_in(browser, base, origin="https://evil.example").status_code == 403
        answer = log_in(browser, base, origin=origin)
        assert answer.status_code == 200
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-radpref_session=")
        assert {"secure", "httponly", "path=/", "samesite=strict"} <= {
            part.strip().lower() for part in cookie.split(";")
        }
        assert "domain=" not in cookie.lower()
        slash = browser.get(f"{base}read")
        assert str(slash.next_request and slash.next_request.url) == f"{base}read/"
        home = browser.get(base)
        assert str(home.next_request and home.next_request.url) == f"{base}read/"
        state = browser.get(f"{base}api/next").json()["set"]
        body = {"uuid": "0" * 8 + "-0000-4000-8000-" + ("0" * 11) + ("1" if where == "root" else "2"), "seen": 0}
        event = {**body, "tab": "t", "kind": "comment", "comment": "through the proxy"}
        path = f"{base}api/sets/{state['token']}/events"
        assert browser.post(path, json=event, headers={"origin": "https://evil.example"}).status_code == 403
        assert browser.post(path, json=event, headers={"origin": origin}).status_code == 200
        assert (
            browser.post(path, content=b"x" * 100_000, headers={"content-type": "application/json"}).status_code == 413
        )
        assert "strict-transport-security" in browser.get(f"{base}login").headers
    log = (site.folder / "access.log").read_text()
    assert "through the proxy" not in log
    assert "radpref_session" not in log


def test_http_cookie_is_not_the_secure_one(site: Site) -> None:
    with httpx.Client() as direct:
        answer = log_in(direct, f"http://127.0.0.1:{site.backend.port}/")
    assert answer.headers["set-cookie"].startswith("radpref_session=")


def guess(to: httpx.Client, base: str, headers: Callable[[int], dict[str, str]]) -> int:
    """Guess at other people's passwords until even ann's right one is not looked at; how many guesses were.

    The waiting time is a second at first, doubled with every guess: a busy machine may take that long for the next
    request, and then one more guess is looked at.
    """
    looked_at = 0
    for number in range(40):
        status = log_in(to, base, f"nobody-{number}", "wrong", **headers(number)).status_code
        assert status == 401 if number < 20 else status in (401, 429)
        looked_at += status == 401
        if status == 429 and log_in(to, base, **headers(number)).status_code == 429:
            return looked_at
    raise AssertionError("40 guesses, and no waiting time")


def test_waiting_times_follow_the_clients_own_address(site: Site) -> None:
    with client(site, "127.0.0.2") as guesser, client(site, "127.0.0.3") as other:
        spoof = {"x-forwarded-for": "203.0.113.9", "forwarded": "for=203.0.113.9"}
        assert guess(guesser, site.root, lambda _: spoof) < 30
        assert log_in(other, site.root).status_code == 200, "another address waits for nobody's failures"


def test_without_a_proxy_nobody_chooses_an_address(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    add_people(study)
    study.db.close()
    with serving(study.root) as server, httpx.Client(timeout=30) as direct:
        base = f"http://127.0.0.1:{server.port}/"
        https = {"x-forwarded-proto": "https"}
        assert guess(direct, base, lambda n: {"x-forwarded-for": f"203.0.113.{n}", **https}) < 30
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), timeout=30) as elsewhere:
            answer = log_in(elsewhere, base, **https)
        assert answer.status_code == 200
        assert answer.headers["set-cookie"].startswith("radpref_session=")


def trust(certificate: Path) -> str:
    """The flag by which Chromium takes the key of this certificate, and no other, for that of a known authority.

    Playwright's ``ignore_https_errors`` will not do. With it Chromium refuses every new connection and starts the
    request anew, which may then be given another connection that was opened before the first refusal and is refused
    in turn; after 32 times it gives up with ERR_TOO_MANY_RETRIES, and a style sheet is missing.
    """
    key = subprocess.run(["openssl", "x509", "-in", certificate, "-noout", "-pubkey"], check=True, capture_output=True)
    body = "".join(line for line in key.stdout.decode().splitlines() if not line.startswith("-----"))
    digest = hashlib.sha256(base64.b64decode(body)).digest()
    return f"--ignore-certificate-errors-spki-list={base64.b64encode(digest).decode()}"


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Browser]:
    with open_browser(trust(site.folder / "reading.pem")) as opened:
        yield opened


def watched(context: BrowserContext, problems: list[str], base: str) -> Page:
    """A page whose errors, violations of the policy, and requests to elsewhere are noted."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script("addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.blockedURI))")

    def console(message: ConsoleMessage) -> None:
        if message.type == "error":
            problems.append(f"{message.text} ({message.location.get('url', '')})")

    page.on("console", console)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "response", lambda answer: problems.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
    )

    def outside(request: Any) -> None:
        if not request.url.startswith((base, "data:", f"blob:{base.split('/', 3)[0]}")):
            problems.append(f"outside: {request.url}")

    page.on("request", outside)
    return page


@pytest.mark.parametrize("where", ["root", "path"])
@pytest.mark.parametrize("name", ["bob", "office"])
def test_pages_open_in_a_browser(site: Site, browser: Browser, where: str, name: str) -> None:
    base, problems = site.bases[where], []  # type: tuple[str, list[str]]
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = watched(context, problems, base)
    page.goto(base)
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")
    if name == "bob":
        page.wait_for_url(f"{base}read/")
        expect(page.locator("canvas").first).to_be_visible()
        page.keyboard.press("3")
        saved(page)
    else:
        page.wait_for_url(f"{base}admin/")
        expect(page.get_by_text("bob", exact=True).first).to_be_visible()
    page.wait_for_load_state("networkidle")
    cookie = next(cookie for cookie in context.cookies() if "radpref" in str(cookie.get("name")))
    assert cookie.get("name") == "__Host-radpref_session"
    assert cookie.get("secure")
    assert cookie.get("httpOnly")
    context.close()
    assert problems == []
