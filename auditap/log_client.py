"""What `auditap query` and `auditap tail` share: where the log API is, who asks, and how a record looks to people."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import click
import httpx
import msgspec
from rich.text import Text

from auditap.settings import ANOTHER_FOLDER, Settings
from log_api.listing import FILTERS
from schemas.errors import RetryableError, StartupError
from schemas.identity import rfc3339_ms

_FILTERS = frozenset(FILTERS) | {"audit_log_id", "product_category"}
_MODIFIERS = re.compile(r"(\.not)?(\[\])?\Z|\[not\]\Z", re.ASCII)
_AGO = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_TIMEOUT_S = 30
_STYLES = {"create": "green", "update": "yellow", "delete": "red", "view": "dim"}


class _Info(msgspec.Struct):
    cursor: str | None = None


class _Page(msgspec.Struct):
    # Records are passed on as they came, number for number.
    result: list[msgspec.Raw]
    result_info: _Info


class Reading(NamedTuple):
    """One account's log at an address, and the headers that open it."""

    url: str
    headers: Mapping[str, str]

    def pages(self, query: Sequence[tuple[str, str]]) -> Iterator[list[msgspec.Raw]]:
        """Yield page after page of records as JSON text. Raises StartupError, RetryableError."""
        cursor: str | None = None
        with httpx.Client(headers=dict(self.headers), timeout=_TIMEOUT_S) as client:
            while True:
                asked = [*query, ("cursor", cursor)] if cursor else list(query)
                try:
                    answer = client.get(self.url, params=urlencode(asked))
                except httpx.HTTPError:
                    raise RetryableError(away(self.url)) from None
                check(answer.status_code, answer.content)
                page = msgspec.json.decode(answer.content, type=_Page)
                yield page.result
                cursor = page.result_info.cursor
                if cursor is None:
                    return


def reading(settings: Settings, account: str | None, api: str | None, token_file: Path | None) -> Reading:
    """Return what the options say and, where they say nothing, the settings. Raises StartupError.

    Without a token file it is the token that `auditap up` keeps in the data folder; without an account, where nothing
    is configured, the first one of its example.
    """
    address = settings.api.address
    host = f"[{address.host}]" if ":" in address.host else address.host
    scheme = "http" if address.tls is None else "https"
    base = (api or f"{scheme}://{host}:{address.port}{settings.api.prefix}").rstrip("/")
    file = token_file or settings.data_dir / "api.token"
    try:
        token = file.read_text().strip()
    except OSError:
        raise StartupError(_no_token(file, is_given=token_file is not None)) from None
    if account is None:
        account = _example_account(settings)
    return Reading(f"{base}/accounts/{account}/logs/audit", {"Authorization": f"Bearer {token}"})


def _no_token(file: Path, *, is_given: bool) -> str:
    if is_given:
        return f"{file.absolute()} cannot be read: give another --token-file."
    return f"{file.absolute()} holds no token: start everything with `auditap up`, {ANOTHER_FOLDER}, or give --token-file."


def _example_account(settings: Settings) -> str:
    if settings.redaction.documents:
        raise StartupError("Give --account: whose log is to be read.")
    from auditap.example_api.cast import accounts  # noqa: PLC0415  only where the example is meant

    return accounts()[0].id


def filters(given: Sequence[str]) -> list[tuple[str, str]]:
    """Return `name=value` arguments as pairs. Raises click.UsageError, also where the log API has no such filter: it
    passes over what it does not know, as the original does.
    """
    pairs = [tuple(one.partition("=")[::2]) for one in given]
    if not all(name and value for name, value in pairs):
        raise click.UsageError("A filter is written name=value, such as action_type=delete.")
    for name, _ in pairs:
        base = _MODIFIERS.sub("", name)
        if base not in _FILTERS:
            near = difflib.get_close_matches(base, _FILTERS, 1)
            told = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(_FILTERS))}."
            raise click.UsageError(f"There is no filter {base}: {told}")
    return [(name, value) for name, value in pairs]


def moment(text: str, now: datetime) -> str:
    """Return a moment as the API takes it: `2h` is two hours ago, `now` is now, anything else stays."""
    if text == "now":
        return f"{now:%Y-%m-%dT%H:%M:%S.%fZ}"
    ago = _AGO.fullmatch(text)
    if ago is None:
        return text
    return f"{now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}):%Y-%m-%dT%H:%M:%S.%fZ}"


def check(status: int, body: bytes) -> None:
    """Raise StartupError with what the API says, RetryableError where it says to try later."""
    if status == 200:
        return
    try:
        message = msgspec.json.decode(body)["errors"][0]["message"]
    except (msgspec.DecodeError, KeyError, IndexError, TypeError):
        message = f"status {status}"
    if status in {429, 503}:
        raise RetryableError(f"The log API answers: {message}")
    raise StartupError(f"The log API answers: {message}")


def away(url: str) -> str:
    """Return the sentence for a log API that is not there."""
    return f"The log API at {httpx.URL(url).netloc.decode()} does not answer: start it with `auditap up` or `auditap serve`."


def for_people(*, as_json: bool) -> bool:
    """Return whether a person reads: a terminal, and JSON was not asked for."""
    return not as_json and sys.stdout.isatty()


def cells(record: Mapping[str, Any]) -> tuple[Text, ...]:
    """Return a record as the cells time, action, actor, resource, description."""
    action, actor, resource = record["action"], record["actor"], record["resource"]
    who = actor.get("email") or actor.get("id") or actor.get("type") or ""
    what = "/".join(part for part in (resource.get("product"), resource.get("type")) if part)
    kind = action["type"] if action["result"] == "success" else f"{action['type']} failed"
    return (
        Text(action["time"]),
        Text(kind, style=_STYLES.get(action["type"], "")),
        Text(_one_line(who)),
        Text(_one_line(f"{what} {resource.get('id') or ''}".strip())),
        Text(_one_line(action.get("description") or "")),
    )


def _one_line(text: str) -> str:
    """Return the text without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def now_text() -> str:
    """Return the present moment as the API takes it."""
    return rfc3339_ms(int(datetime.now(UTC).timestamp() * 1000))
