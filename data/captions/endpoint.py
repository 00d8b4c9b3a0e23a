"""A chat endpoint: any server that speaks OpenAI's ``/chat/completions`` (vLLM, llama.cpp, Ollama, hosted ones).

Input: ``[captions]`` of study.toml and messages. Output: an :class:`Answer`. What may pass (429, 5xx, timeouts, an
answer that is not a chat completion) is tried again after Retry-After, or twice as long a wait each time; what does not
pass is one line. The key comes from the environment and is in no message, file or hash.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from radpref.data.core.errors import InvalidInput, RadprefError

if TYPE_CHECKING:
    import httpx

    from radpref.data.config.data import CaptionsConfig

Message = dict[str, str]
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Status codes after which the same request may succeed."""
LONGEST_WAIT_S = 120.0
_MEANING = {
    401: "refused the key (401); set the variable that captions.key_env names to a valid key",
    402: "wants to be paid (402); check the account",
    403: "refused access (403); check the key's rights",
    404: "has no such address or model (404); captions.base_url usually ends in /v1, check captions.model",
}


class EndpointFailed(RadprefError):
    """The endpoint cannot be used now; what it answered before is kept, the same command goes on from there."""


@dataclass(frozen=True)
class Answer:
    """What the endpoint wrote, and the tokens it counted (None where it does not say)."""

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def where(base_url: str) -> str:
    """ "this machine", "private network" or "remote": by address or name; nothing is looked up.

    Raises:
        InvalidInput: not an http(s) address.
    """
    parts = urlsplit(base_url)
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidInput(f"captions.base_url = {base_url!r} is not an address; write e.g. http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise InvalidInput("captions.base_url holds a name or password; put the key into a variable, see key_env")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if host == "localhost" or host.endswith(".localhost"):
            return "this machine"
        private = "." not in host or host.endswith((".local", ".lan", ".internal", ".intranet", ".home.arpa"))
        return "private network" if private else "remote"
    if address.is_loopback:
        return "this machine"
    return "private network" if address.is_private or address.is_link_local else "remote"


class ChatEndpoint:
    """One endpoint with one model; usable from several threads."""

    def __init__(
        self,
        settings: CaptionsConfig,
        environ: Mapping[str, str],
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Check the settings; nothing is sent yet.

        Raises:
            InvalidInput: base_url, model or key are missing, or reports would leave the machine unasked.
        """
        if not settings.base_url or not settings.model:
            missing = "base_url" if not settings.base_url else "model"
            raise InvalidInput(f"captions.{missing} is not set; name the endpoint in study.toml, or use --source rules")
        self.settings, self.sleep, self.now = settings, sleep, now
        self.place = where(settings.base_url)
        if self.place == "remote" and not settings.allow_remote:
            raise InvalidInput(
                f"captions.base_url {settings.base_url} is neither on this machine nor in a private network: the "
                "impressions of all reports would leave it; if they may, set captions.allow_remote = true"
            )
        if self.place == "remote" and settings.base_url.startswith("http://"):
            raise InvalidInput(f"captions.base_url {settings.base_url} would send reports unencrypted; use https")
        self.headers = {"Content-Type": "application/json"}
        if settings.key_env:
            key = environ.get(settings.key_env, "").strip()
            if not key:
                raise InvalidInput(f"captions.key_env names {settings.key_env}, which is not set; export it first")
            self.headers["Authorization"] = f"Bearer {key}"
        base = settings.base_url.rstrip("/")
        self.url = base if base.endswith("/chat/completions") else f"{base}/chat/completions"
        self._client: httpx.Client | None = None

    def __enter__(self) -> ChatEndpoint:
        import httpx

        # A proxy from the environment must not see what is meant for this machine.
        proxied = self.place != "this machine"
        self._client = httpx.Client(timeout=self.settings.timeout_s, headers=self.headers, trust_env=proxied)
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def request(self, messages: Sequence[Message]) -> dict[str, Any]:
        """The body of a request; equal bodies are equal questions."""
        settings = self.settings
        body: dict[str, Any] = {
            "model": settings.model,
            "messages": list(messages),
            "temperature": settings.temperature,
        }
        if settings.max_tokens:
            body["max_tokens"] = settings.max_tokens
        return body | {name: value for name, value in settings.body.items() if name not in ("model", "messages")}

    def key(self, messages: Sequence[Message]) -> str:
        """SHA-256 of the question: model, prompt, (scrubbed) report and settings; not the address, not the key."""
        return hashlib.sha256(json.dumps(self.request(messages), sort_keys=True).encode()).hexdigest()

    def ask(self, messages: Sequence[Message]) -> Answer:
        """One answer.

        Raises:
            EndpointFailed: it is down, refuses, or does not speak this language; one line.
        """
        import httpx

        assert self._client is not None, "use the endpoint in a with block"
        body, trouble, wait = self.request(messages), "", 0.0
        for attempt in range(self.settings.max_retries + 1):
            if attempt:
                self.sleep(wait)
            wait = min(2.0**attempt, LONGEST_WAIT_S)
            try:
                response = self._client.post(self.url, json=body)
            except httpx.TimeoutException:
                trouble = f"did not answer within {self.settings.timeout_s:g} s"
                continue
            except httpx.TransportError as error:
                trouble = f"cannot be reached ({' '.join(str(error).split()) or type(error).__name__})"
                continue
            if response.status_code in PASSING:
                trouble = f"answered {response.status_code}: {_excerpt(response.text)}"
                wait = self._retry_after(response.headers.get("Retry-After"), wait)
                continue
            if response.status_code != 200:
                meaning = _MEANING.get(response.status_code)
                said = f"answered {response.status_code}: {_excerpt(response.text)}; check [captions] in study.toml"
                raise EndpointFailed(f"the endpoint {self.url} {meaning or said}")
            try:
                return _read(response.json())
            except (ValueError, KeyError, IndexError, TypeError, AttributeError):
                trouble = f"does not answer as a chat endpoint: {_excerpt(response.text)}; check captions.base_url"
        raise EndpointFailed(
            f"the endpoint {self.url} {trouble} ({self.settings.max_retries + 1} tries); "
            "what was answered is kept, run the same command again"
        )

    def _retry_after(self, header: str | None, otherwise: float) -> float:
        """Seconds that the server asks to wait: a number or a date; at most `LONGEST_WAIT_S`."""
        if not header:
            return otherwise
        try:
            seconds = float(header)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(header).timestamp() - self.now()
            except (ValueError, TypeError):
                return otherwise
        return min(max(seconds, 0.0), LONGEST_WAIT_S) if math.isfinite(seconds) else otherwise


def _read(content: Any) -> Answer:
    """The text of the first choice; content may be a list of parts, and what a model thinks aloud is cut off."""
    message = content["choices"][0]["message"]
    text = message["content"]
    if isinstance(text, list):
        text = "".join(part["text"] for part in text if part.get("type", "text") == "text")
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise TypeError("content is not text")
    text = re.sub(r"<think>.*?(?:</think>|$)", "", text, flags=re.S)
    usage = content.get("usage") or {}
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    return Answer(text, *(value if isinstance(value, int) else None for value in counts))


def _excerpt(text: str) -> str:
    """The beginning of an answer on one line: the server's own message where it is JSON."""
    try:
        inner = json.loads(text)
        inner = inner.get("error", inner) if isinstance(inner, dict) else inner
        text = inner.get("message", text) if isinstance(inner, dict) else str(inner)
    except ValueError:
        pass
    plain = " ".join(str(text).split())
    return repr(plain[:117] + "...") if len(plain) > 120 else repr(plain)
