"""Channels that alerts are sent on: signed webhooks, Slack's incoming webhooks, standard output."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from alerting.ports import Channel, DeliveryFailed, DueDelivery
from alerting.rules import ChannelConfig
from schemas.errors import StartupError
from schemas.private_files import SECRET_CHARS_MIN, read_secret
from schemas.retry_after import asked_to_wait_s
from schemas.urls import PERCENT_ENCODE, has_unencoded_login

SIGNATURE_HEADER = "Auditap-Signature"
TIMESTAMP_HEADER = "Auditap-Timestamp"
# 410 Gone: the receiver asks not to be called again.
_GONE = 410


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels of the rules in force, by name.

    `configs` returns their configuration. `write` prints a payload for channels of type `stdout`.
    """

    client: httpx.AsyncClient
    configs: Callable[[], Mapping[str, ChannelConfig]]
    write: Callable[[Mapping[str, Any]], None]
    clock_s: Callable[[], float]

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Return once the other side has accepted the body. Raises DeliveryFailed."""
        try:
            # The response's body is not read: it is of no use here, and may be of any size.
            async with self.client.stream("POST", url, content=body, headers=dict(headers)) as response:
                status, response_headers = response.status_code, response.headers
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Its type alone: the message may hold the URL, which for Slack is the secret.
            raise DeliveryFailed(type(error).__name__) from None
        # A redirect is a failure: to follow it would take the alert and its signature to another address.
        if not 200 <= status < 300:
            wait_s = asked_to_wait_s(status, response_headers, self.clock_s())
            raise DeliveryFailed(f"status {status}", final=status == _GONE, asked_to_wait_s=wait_s)

    def find(self, name: str) -> Channel | None:
        """Return the channel of this name; None where there is none."""
        config = self.configs().get(name)
        if config is None:
            return None
        match config.type:
            case "stdout":
                return _StandardOutput(self.write)
            case "slack":
                return _Slack(self, config)
            case _:
                return _Webhook(self, config)


class _StandardOutput:
    def __init__(self, write: Callable[[Mapping[str, Any]], None]) -> None:
        self._write = write

    async def send(self, delivery: DueDelivery) -> None:
        try:
            self._write(delivery.payload)
        except OSError:
            raise DeliveryFailed("standard output cannot be written") from None


class _Webhook:
    """POST of the alert's payload, with a signature over timestamp and body, so that neither can be exchanged."""

    def __init__(self, channels: Channels, config: ChannelConfig) -> None:
        self._channels = channels
        self._config = config

    async def send(self, delivery: DueDelivery) -> None:
        body = msgspec.json.encode(delivery.payload)
        timestamp = str(int(self._channels.clock_s()))
        # Every attempt has the same key, and a timestamp of its own.
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": f"{delivery.alert_id.hex}-{delivery.channel}",
            TIMESTAMP_HEADER: timestamp,
            SIGNATURE_HEADER: signature(_secret_of(self._config.secret_file), timestamp, body),
        }
        await self._channels.post(_url(self._config), body, headers)


class _Slack:
    """POST of `{"text": …}`, the format of Slack's incoming webhooks."""

    def __init__(self, channels: Channels, config: ChannelConfig) -> None:
        self._channels = channels
        self._config = config

    async def send(self, delivery: DueDelivery) -> None:
        body = msgspec.json.encode({"text": slack_text(delivery.payload)})
        await self._channels.post(_url(self._config), body, {"Content-Type": "application/json"})


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return `v1=` and the hex HMAC-SHA-256 of timestamp, a dot and body."""
    return "v1=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def slack_text(payload: Mapping[str, Any]) -> str:
    """Return an alert in three lines. Its values are escaped, so that they can neither mention anybody nor link."""
    record = payload["record"]
    actor = record.get("actor", {})
    who = actor.get("email") or actor.get("id") or actor.get("type") or "unknown"
    lines = [
        f"*{_plain(payload['severity'].upper())}* {_plain(payload['title'])}",
        f"account {_plain(payload['account']['id'] or 'unknown')}, actor {_plain(who)}",
        f"{payload['records']} since {payload['window']['start']}, alert {payload['id']}",
    ]
    return "\n".join(lines)


def _plain(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return printable.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def why_unusable(config: ChannelConfig) -> str | None:
    """Return why nothing can be sent on a channel, as far as its URL and files show; None if nothing is wrong."""
    try:
        if config.type != "stdout":
            _url(config)
        if config.secret_file is not None:
            _secret_of(config.secret_file)
    except DeliveryFailed as failed:
        return failed.outcome
    return None


def _url(config: ChannelConfig) -> str:
    url = config.url if config.url is not None else _text_of(config.url_file)
    if has_unencoded_login(url):
        raise DeliveryFailed(f"its address cannot be read: {PERCENT_ENCODE}, and @ in its path", final=True)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise DeliveryFailed("its address cannot be read", final=True) from None
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return url
    raise DeliveryFailed("its address is not https", final=True)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _text_of(file: str | None, *, chars_min: int = 1) -> str:
    """Return a file's content, without blanks around it. Read on every use, so that a new secret applies at once."""
    try:
        return read_secret(Path(file or ""), "", chars_min=chars_min)
    except (OSError, StartupError):
        pass
    short = f", or has fewer than {chars_min} characters" if chars_min > 1 else ""
    raise DeliveryFailed(f"{_shown(file)} cannot be read or is empty{short}")


def _secret_of(file: str | None) -> bytes:
    return _text_of(file, chars_min=SECRET_CHARS_MIN).encode()


def _shown(file: str | None) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in file or "")
