"""Shared by the commands that read the log API: its address, token and accounts, the parsing of arguments, table cells."""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import click
import httpx
import msgspec
from rich.text import Text

from auditap.plain_text import plain_line
from auditap.settings import DATA_DIR_HINT, Settings, load_settings
from auditap.settings_mistakes import TOKEN_VARIABLE
from auditap_example.cast import accounts as example_accounts
from log_api.path_segments import ALL_ACCOUNTS
from log_api.sql_builder import FILTERS
from log_api.timestamps import parse_timestamp_ms
from schemas.errors import RetryableError, StartupError
from schemas.http_requests import USER_HEADER
from schemas.identity import rfc3339_ms
from schemas.private_files import SECRET_CHARS_MIN, read_token
from schemas.urls import has_unencoded_login

# Besides the columns: a deprecated name of `id`, and a category that stands for several products.
_FILTERS = frozenset(FILTERS) | {"audit_log_id", "product_category"}
_MODIFIERS = re.compile(r"(\.not)?(\[\])?\Z|\[not\]\Z", re.ASCII)
_AGO = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_TIMEOUT_S = 30
_NS = 1_000_000
_ACCOUNTS_NAMED_MAX = 20
_STYLES = {"create": "green", "update": "yellow", "delete": "red", "view": "dim"}


class _ShownResource(msgspec.Struct):
    # Without the bodies: a number in one may be out of range.
    id: str | None = None
    product: str | None = None
    type: str | None = None


class _ShownProvenance(msgspec.Struct):
    actor_email: str | None = None


class _ShownRecord(msgspec.Struct):
    action: dict[str, Any]
    actor: dict[str, Any]
    resource: _ShownResource
    auditap: _ShownProvenance = msgspec.field(default_factory=_ShownProvenance)


class _ShownRequest(msgspec.Struct, rename="pascal"):
    client_request_host: str | None
    client_request_method: str | None
    client_request_uri: str | None = msgspec.field(name="ClientRequestURI")
    edge_start_timestamp: int
    edge_end_timestamp: int | None
    edge_response_bytes: int | None
    edge_response_status: int | None
    request_headers: dict[str, str]


class _Info(msgspec.Struct):
    cursor: str | None = None


class _Account(msgspec.Struct):
    id: str


class _Accounts(msgspec.Struct):
    result: list[_Account]


class _Page(msgspec.Struct):
    # Records are printed as they were received, without a change of number formats.
    result: list[msgspec.Raw]
    result_info: _Info


class LogReader(NamedTuple):
    """Reads the log of one account, or of all. `url` is that of the list, `headers` hold the token."""

    url: str
    headers: Mapping[str, str]

    def of_requests(self) -> LogReader:
        """Return the reader of the same log's requests."""
        return self._replace(url=self.url.removesuffix("/audit") + "/requests")

    def fetch(self, path: str, query: Sequence[tuple[str, str]]) -> bytes:
        """Return the JSON text of what stands at `path` below the list. Raises StartupError, RetryableError."""
        with httpx.Client(headers=dict(self.headers), timeout=_TIMEOUT_S) as client:
            return _get(client, self.url + path, query)

    def pages(self, query: Sequence[tuple[str, str]]) -> Iterator[list[msgspec.Raw]]:
        """Yield pages of records as JSON text. Raises StartupError, RetryableError."""
        cursor: str | None = None
        with httpx.Client(headers=dict(self.headers), timeout=_TIMEOUT_S) as client:
            while True:
                parameters = [*query, ("cursor", cursor)] if cursor else list(query)
                page = msgspec.json.decode(_get(client, self.url, parameters), type=_Page)
                yield page.result
                cursor = page.result_info.cursor
                if cursor is None:
                    return


def _get(client: httpx.Client, url: str, query: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return the body of a response with status 200. Raises StartupError, RetryableError."""
    try:
        response = client.get(url, params=urlencode(query))
    except httpx.HTTPError:
        raise RetryableError(unreachable(url)) from None
    raise_for_status(response.status_code, response.content)
    return response.content


def reading_the_log(
    *, default_account: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options that say which log API to read, and pass the reader that they give to the command as `source`.

    `default_account` is read where no option names one; None: the only one that there is.
    """

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_source(
            *,
            account: str | None,
            all_accounts: bool,
            api: str | None,
            token_file: Path | None,
            **given: Any,
        ) -> None:
            if click.get_current_context().invoked_subcommand is not None:
                # The subcommand reads something else.
                return
            if account is not None and all_accounts:
                raise click.UsageError("Give either --account or --all-accounts.")
            account = ALL_ACCOUNTS if all_accounts else account or default_account
            command(source=log_reader(load_settings(), account, api, token_file), **given)

        token_help = (
            f"File of a token of the log API.  [default: {TOKEN_VARIABLE}, or the token of `auditap up`]"
        )
        account_help = "The account to read.  [default: the only one, or that of the example of `auditap up`]"
        for option in (
            click.option(
                "--token-file",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help=token_help,
            ),
            click.option("--api", help="The log API, such as https://audit.internal/client/v4."),
            click.option(
                "--all-accounts",
                is_flag=True,
                help="Read all accounts of the token; if it is for every account, also records without one.",
            ),
            click.option("--account", help=None if default_account else account_help),
        ):
            with_source = option(with_source)
        return with_source

    return with_options


def log_reader(
    settings: Settings, account: str | None, api: str | None, token_file: Path | None
) -> LogReader:
    """Return the reader for the options; options that are None come from the settings. Raises StartupError.

    The default token is that of the environment, else the one that `auditap up` keeps in `data_dir`. The default account is
    the first one of the example if that is what `auditap up` runs here, else the only one that the log API lists.
    """
    address = settings.api.address
    host = f"[{address.host}]" if ":" in address.host else address.host
    scheme = "http" if address.tls is None else "https"
    base = (api or f"{scheme}://{host}:{address.port}{settings.api.prefix}").rstrip("/")
    _refuse_wrong_address(base)
    headers = {"Authorization": f"Bearer {_token(settings, token_file)}"}
    if account is None:
        may_have_example = api is None and not settings.redaction.documents
        account = _default_account(base, headers, example_accounts()[0].id if may_have_example else None)
    return LogReader(f"{base}/accounts/{quote(account, safe='')}/logs/audit", headers)


def _token(settings: Settings, given: Path | None) -> str:
    """Return the token in the file given, else in the environment, else in `data_dir`. Raises StartupError."""
    if given is None and TOKEN_VARIABLE in os.environ:
        token = os.environ[TOKEN_VARIABLE].strip()
        # Another character cannot be part of a header.
        if len(token) < SECRET_CHARS_MIN or not (token.isascii() and token.isprintable()):
            raise StartupError(
                f"Environment variable {TOKEN_VARIABLE} holds no whole token: give one of `auditap tokens create` or unset it."
            )
        return token
    file = given or settings.data_dir / "api.token"
    try:
        return read_token(file, "give the file of a token of `auditap tokens create` with --token-file")
    except FileNotFoundError:
        raise StartupError(_no_token(file, is_given=given is not None)) from None


def _default_account(base: str, headers: Mapping[str, str], preferred: str | None) -> str:
    """Return the account to read where none is named: the preferred one if it is listed, else the only one; all where none is.

    Raises StartupError, which names them, where there are several; RetryableError.
    """
    with httpx.Client(headers=dict(headers), timeout=_TIMEOUT_S) as client:
        listed = msgspec.json.decode(_get(client, f"{base}/accounts"), type=_Accounts).result
    ids = [each.id for each in listed]
    if preferred in ids:
        return preferred
    if len(ids) == 1:
        return ids[0]
    if not ids:
        # Of an API whose records name no account, these are all that there are.
        return ALL_ACCOUNTS
    raise StartupError(f"Give --account or --all-accounts: there are {_names(listed)}.")


def _names(accounts: Sequence[_Account]) -> str:
    named = ", ".join(plain_line(each.id) for each in accounts[:_ACCOUNTS_NAMED_MAX])
    more = len(accounts) - _ACCOUNTS_NAMED_MAX
    if more > 0:
        return f"{named} and {more} more"
    return named


def _refuse_wrong_address(base: str) -> None:
    try:
        url = httpx.URL(base)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or has_unencoded_login(base):
        raise StartupError(
            "--api must be http:// or https://, a host and a path, without a user or password."
        )


def _no_token(file: Path, *, is_given: bool) -> str:
    if is_given:
        return f"{file.absolute()} cannot be read: give another --token-file."
    return f"{file.absolute()} holds no token: start everything with `auditap up`, {DATA_DIR_HINT}, or give --token-file or {TOKEN_VARIABLE}."


def parse_filters(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return `name=value` arguments as pairs. Raises click.UsageError.

    Unknown filters are rejected here, because the log API ignores them as the original does.
    """
    pairs = [tuple(one.partition("=")[::2]) for one in arguments]
    if not all(name and value for name, value in pairs):
        raise click.UsageError("A filter is written name=value, such as action_type=delete.")
    for name, _ in pairs:
        base = _MODIFIERS.sub("", name)
        if base not in _FILTERS:
            near = difflib.get_close_matches(base, _FILTERS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(_FILTERS))}."
            raise click.UsageError(f"There is no filter {base}: {hint}")
    return [(name, value) for name, value in pairs]


def parse_time(text: str, now: datetime) -> str:
    """Return an RFC 3339 time for `now` and for ages such as `2h` (two hours ago); any other text as it is."""
    if text == "now":
        return f"{now:%Y-%m-%dT%H:%M:%S.%fZ}"
    ago = _AGO.fullmatch(text)
    if ago is None:
        return text
    return f"{now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}):%Y-%m-%dT%H:%M:%S.%fZ}"


def time_range(since: str, before: str) -> list[tuple[str, str]]:
    """Return the parameters of a range that `--since` and `--before` name. Warns on stderr if it can hold no record.

    Raises click.UsageError for what is no time.
    """
    now = datetime.now(UTC)
    # `now` includes the records of the current second.
    parameters = [
        ("since", parse_time(since, now)),
        ("before", parse_time(before, now + timedelta(seconds=1))),
    ]
    since_ms, before_ms = (_milliseconds(*parameter) for parameter in parameters)
    if since_ms >= before_ms:
        click.echo("--since is not earlier than --before: no record is in between.", err=True)
    elif since_ms > now.timestamp() * 1000:
        click.echo("--since is in the future: there are no records yet.", err=True)
    return parameters


def _milliseconds(option: str, text: str) -> int:
    milliseconds = parse_timestamp_ms(text)
    if milliseconds is None:
        raise click.UsageError(
            f"--{option} is no time: write 2026-01-23, 2026-01-23T18:25:14Z, or 2h or 7d for an age."
        )
    return milliseconds


def raise_for_status(status: int, body: bytes, wait_s: float | None = None) -> None:
    """Raise an error with the API's message unless the status is 200: RetryableError for 429 and 503, else StartupError."""
    if status == 200:
        return
    try:
        message = msgspec.json.decode(body)["errors"][0]["message"]
    except (msgspec.DecodeError, KeyError, IndexError, TypeError):
        message = f"status {status}"
    if status in {429, 503}:
        raise RetryableError(f"The log API responded: {message}", asked_to_wait_s=wait_s)
    raise StartupError(f"The log API responded: {message}")


def unreachable(url: str) -> str:
    """Return the message for a log API that does not respond."""
    return f"The log API at {httpx.URL(url).netloc.decode()} does not respond: start it with `auditap up` or `auditap serve`."


def is_interactive(*, as_json: bool) -> bool:
    """Return whether to format the output for a terminal: it is one, and --json was not given."""
    return not as_json and sys.stdout.isatty()


def table_cells(text: bytes | msgspec.Raw) -> tuple[Text, ...]:
    """Return the cells of the row for a record in JSON: time, action, actor, resource, description."""
    record = msgspec.json.decode(text, type=_ShownRecord)
    action, actor, resource = record.action, record.actor, record.resource
    email = actor.get("email") or record.auditap.actor_email
    who = email or actor.get("id") or actor.get("type") or ""
    what = "/".join(part for part in (resource.product, resource.type) if part)
    kind = action["type"] if action["result"] == "success" else f"{action['type']} failed"
    return (
        Text(action["time"]),
        Text(kind, style=_STYLES.get(action["type"], "")),
        Text(_one_line(who)),
        Text(_one_line(f"{what} {resource.id or ''}".strip())),
        Text(_one_line(action.get("description") or "")),
    )


def request_cells(text: bytes | msgspec.Raw) -> tuple[Text, ...]:
    """Return the cells of the row for a request in JSON: time, user, method, host, URI, status, bytes, milliseconds."""
    shown = msgspec.json.decode(text, type=_ShownRequest)
    start_ns, end_ns, status = (
        shown.edge_start_timestamp,
        shown.edge_end_timestamp,
        shown.edge_response_status,
    )
    taken_ms = None if end_ns is None else (end_ns - start_ns) // _NS
    cells = (
        shown.request_headers.get(USER_HEADER),
        shown.client_request_method,
        shown.client_request_host,
        shown.client_request_uri,
        status,
        shown.edge_response_bytes,
        taken_ms,
    )
    style = "red" if status is not None and status >= 400 else ""
    return (
        Text(rfc3339_ms(start_ns // _NS)),
        *(Text("" if each is None else _one_line(str(each)), style=style) for each in cells),
    )


def _one_line(text: str) -> str:
    """Return the text without control characters, which a terminal would interpret."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def now_rfc3339() -> str:
    return rfc3339_ms(int(datetime.now(UTC).timestamp() * 1000))
