"""Where alerts are told: webhooks (signed), Slack's shape, standard output."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from watcher.ports import Channel, DueDelivery, Untold
from watcher.rules import Channel as StatedChannel

SIGNATURE_HEADER = "Auditap-Signature"
TIMESTAMP_HEADER = "Auditap-Timestamp"
_FILE_BYTES_MAX = 16_384
_GONE = 410


class Channels:
    """The channels of a file of rules, by name. `write`: takes a line for standard output."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        stated: Callable[[], Mapping[str, StatedChannel]],
        write: Callable[[Mapping[str, Any]], None],
        clock_s: Callable[[], float],
    ) -> None:
        self._client = client
        self._stated = stated
        self._write = write
        self._clock_s = clock_s

    def find(self, name: str) -> Channel | None:
        """Return a channel, None where there is none of this name."""
        stated = self._stated().get(name)
        if stated is None:
            return None
        if stated.type == "stdout":
            return _Output(self._write)
        if stated.type == "slack":
            return _Slack(self._client, stated)
        return _Webhook(self._client, stated, self._clock_s)


class _Output:
    def __init__(self, write: Callable[[Mapping[str, Any]], None]) -> None:
        self._write = write

    async def tell(self, delivery: DueDelivery) -> None:
        try:
            self._write(delivery.document)
        except OSError:
            raise Untold("standard output does not take it") from None


class _Webhook:
    """POST of the alert's document. The signature is of the time and the body, so that neither can be another's."""

    def __init__(
        self, client: httpx.AsyncClient, stated: StatedChannel, clock_s: Callable[[], float]
    ) -> None:
        self._client = client
        self._stated = stated
        self._clock_s = clock_s

    async def tell(self, delivery: DueDelivery) -> None:
        body = msgspec.json.encode(delivery.document)
        timestamp = str(int(self._clock_s()))
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": f"{delivery.alert_id.hex}-{delivery.channel}",
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: signature(_text_of(self._stated.secret_file).encode(), timestamp, body),
        }
        await _post(self._client, _url(self._stated), body, headers)


class _Slack:
    """POST of `{"text": …}`, which Slack's incoming webhooks and those modelled on them take."""

    def __init__(self, client: httpx.AsyncClient, stated: StatedChannel) -> None:
        self._client = client
        self._stated = stated

    async def tell(self, delivery: DueDelivery) -> None:
        body = msgspec.json.encode({"text": slack_text(delivery.document)})
        await _post(self._client, _url(self._stated), body, {"Content-Type": "application/json"})


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return `v1=` and the hex HMAC-SHA-256 of the timestamp, a dot and the body."""
    return "v1=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def slack_text(document: Mapping[str, Any]) -> str:
    """Return an alert in a few lines, its values as plain text: they mention nobody and link nowhere."""
    record = document["record"]
    actor = record.get("actor", {})
    who = actor.get("email") or actor.get("id") or actor.get("type") or "unknown"
    lines = [
        f"*{_plain(document['severity'].upper())}* {_plain(document['title'])}",
        f"account {_plain(document['account']['id'] or 'unknown')}, actor {_plain(who)}",
        f"{document['records']} since {document['window']['start']}, alert {document['id']}",
    ]
    return "\n".join(lines)


def _plain(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return printable.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def why_unusable(stated: StatedChannel) -> str | None:
    """Return why nothing can be told on a channel, as far as this machine can say; None where nothing is wrong."""
    try:
        if stated.type != "stdout":
            _url(stated)
        if stated.secret_file is not None:
            _text_of(stated.secret_file)
    except Untold as untold:
        return untold.outcome
    return None


def _url(stated: StatedChannel) -> str:
    url = stated.url if stated.url is not None else _text_of(stated.url_file)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise Untold("its address cannot be read", final=True) from None
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return url
    raise Untold("its address is not https", final=True)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _text_of(file: str | None) -> str:
    """Return what a file holds; read each time, so that a new secret is in force at once."""
    try:
        with Path(file or "").open("rb") as opened:
            text = opened.read(_FILE_BYTES_MAX).decode().strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text:
        raise Untold(f"{_shown(file)} cannot be read or is empty")
    return text


def _shown(file: str | None) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in file or "")


async def _post(client: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str]) -> None:
    try:
        # The answer's body is not read: nothing of it is of use, and it may be of any size.
        async with client.stream("POST", url, content=body, headers=dict(headers)) as answer:
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Untold(type(error).__name__) from None
    if not 200 <= status < 300:
        raise Untold(f"status {status}", final=status == _GONE)
