"""`auditap init`: settings for a gateway of choice, and the files that the gateway loads."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, NamedTuple

import click
from rich.console import Console

from schemas.errors import StartupError
from schemas.private_files import create_private_file

_SETTINGS: Final = Path("auditap.toml")
_TOKEN: Final = Path("tap.token")
_PAGES: Final = "docs/gateways"
_CADDY_FILE: Final = "/run/auditap-caddy/caddy.log"
_PORT: Final = 8080
_UPSTREAM_PORT: Final = 3000


class _Gateway(NamedTuple):
    """How a gateway sends. `receives`: it needs a receiver. `needs_token`: it sends over TCP.

    Its files, if any, lie in `folder`; `start` is the command that runs it with them.
    """

    what: str
    receives: bool = False
    needs_token: bool = False
    folder: str = ""
    start: str = ""


_GATEWAYS: Final = {
    "envoy": _Gateway(
        "Envoy, by its ext_proc filter", receives=True, folder="envoy", start="envoy -c envoy/envoy.yaml"
    ),
    "nginx": _Gateway("nginx, by njs", folder="nginx", start='nginx -p "$PWD/nginx" -c nginx.conf'),
    "openresty": _Gateway(
        "OpenResty, or nginx with Lua, by a Lua module",
        folder="openresty",
        start='nginx -p "$PWD/openresty" -c nginx.conf',
    ),
    "traefik": _Gateway(
        "Traefik, by a local plugin",
        folder="traefik",
        start="(cd traefik && traefik --configFile=traefik.yml)",
    ),
    "caddy": _Gateway(
        "Caddy, by its access log",
        receives=True,
        folder="caddy",
        start="caddy run --config caddy/Caddyfile --adapter caddyfile",
    ),
    "haproxy": _Gateway(
        "HAProxy, by a Lua filter and its log",
        receives=True,
        folder="haproxy",
        start="haproxy -f haproxy/haproxy.cfg",
    ),
    "kong": _Gateway("Kong, by its http-log plugin", needs_token=True),
    "apisix": _Gateway("APISIX, by its http-logger plugin", needs_token=True),
    "tyk": _Gateway("Tyk, by Tyk Pump", needs_token=True),
    "middleware": _Gateway("a Python service, by the middleware"),
}


@click.command("init")
@click.argument("gateway", type=click.Choice(list(_GATEWAYS)), metavar="GATEWAY")
@click.option(
    "--spec",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("openapi.yaml"),
    show_default=True,
    help="The OpenAPI document that says what is recorded.",
)
def init_command(gateway: str, spec: Path) -> None:
    """Write auditap.toml for GATEWAY into this folder, and what the gateway has to load.

    GATEWAY is one of envoy, nginx, openresty, traefik, caddy, haproxy, kong, apisix, tyk and middleware. Nothing that is there already is changed.
    """
    chosen = _GATEWAYS[gateway]
    loaded = _gateway_files(chosen)
    if _SETTINGS.exists():
        raise _settings_exist()
    written = [*_write_token(chosen), *_write_settings(gateway, chosen, spec), *_write_files(chosen, loaded)]
    console = Console()
    for path, what in written:
        console.print(f"[green]wrote[/green] {path}  {what}", highlight=False, soft_wrap=True)
    console.print("\nNext:", style="bold")
    for number, step in enumerate(_steps(gateway, chosen, spec), 1):
        console.print(f"{number}. {step}", highlight=False, markup=False, soft_wrap=True)


def _steps(gateway: str, chosen: _Gateway, spec: Path) -> Iterator[str]:
    if not spec.exists():
        yield f"Put your OpenAPI document at {spec}, or correct redaction.documents in {_SETTINGS}."
    yield f"See what it lets auditap record: auditap lint {spec}"
    if not chosen.start:
        yield f"Set {chosen.what.partition(',')[0]} up: {_page(gateway)}"
    yield "Start everything on this machine: auditap up"
    if chosen.start:
        yield f"In another terminal, adapt {chosen.folder}/ by {_page(gateway)}, or put its parts into a configuration of yours."
        yield f"Start the gateway: {chosen.start}    # port {_PORT}, in front of 127.0.0.1:{_UPSTREAM_PORT}"
    address = f"http://127.0.0.1:{_PORT}/PATH" if chosen.start else "URL"
    yield f"Follow a request through the gateway to its record: auditap doctor {address}"


def _page(gateway: str) -> str:
    return f"{_PAGES}/{gateway}.md" if gateway != "middleware" else "docs/tutorial.md, step 5"


def _settings_exist() -> StartupError:
    return StartupError(f"{_SETTINGS} is there already: move it away, or go to another folder.")


def _gateway_files(chosen: _Gateway) -> list[tuple[Path, Traversable]]:
    """Return what the gateway loads, by its path in this folder. Raises StartupError if this installation has no such files."""
    if not chosen.folder:
        return []
    try:
        return list(_files_below(Path(chosen.folder), files("auditap_gateways") / chosen.folder))
    except (ModuleNotFoundError, OSError):
        raise StartupError(
            "this installation lacks the files that gateways load: install auditap again."
        ) from None


def _write_token(chosen: _Gateway) -> Iterator[tuple[Path, str]]:
    if chosen.needs_token and not _TOKEN.exists():
        create_private_file(_TOKEN, secrets.token_urlsafe(32))
        yield _TOKEN, "the gateway's token: readable by you alone"


def _write_settings(gateway: str, chosen: _Gateway, spec: Path) -> Iterator[tuple[Path, str]]:
    """Write the settings file. Raises StartupError if there is one."""
    try:
        with _SETTINGS.open("x") as file:
            file.write("\n".join(_settings(gateway, chosen, spec)) + "\n")
    except FileExistsError:
        raise _settings_exist() from None
    except OSError as failure:
        raise StartupError(
            f"cannot write {_SETTINGS} ({failure.strerror}): choose a writable folder."
        ) from None
    yield _SETTINGS, "settings, with comments"


def _write_files(chosen: _Gateway, loaded: list[tuple[Path, Traversable]]) -> Iterator[tuple[Path, str]]:
    for path, entry in loaded:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_filled(entry.read_text(), chosen.folder))
            yield path, "for the gateway"


def _filled(text: str, gateway: str) -> str:
    """Return a configuration with the paths of this folder, and ports to begin with, where it has places for them."""
    here = Path.cwd()
    data_dir = here / "auditap-data"
    values = {
        "COLLECTOR_SOCKET": data_dir / "collector.sock",
        "RECEIVER_SOCKET": data_dir / f"{gateway}.sock",
        "RELAY_SOCKET": here / "haproxy" / "relay.sock",
        "LUA": here / "haproxy" / "auditap.lua",
        "LUA_FOLDER": here / "openresty",
        "JS_FOLDER": here / "nginx",
        "SETTINGS": here / "nginx" / "auditap.json",
        "DYNAMIC": here / "traefik" / "dynamic.yml",
        "LOG_FILE": _CADDY_FILE,
        "MODULES": "/usr/lib/nginx/modules",
        "PORT": _PORT,
        "H2_PORT": 8081,
        "UPSTREAM_PORT": _UPSTREAM_PORT,
    }
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", str(value))
    return text.replace("/run/auditap/collector.sock", str(data_dir / "collector.sock"))


def _files_below(folder: Path, entries: Traversable) -> Iterator[tuple[Path, Traversable]]:
    for entry in sorted(entries.iterdir(), key=lambda each: each.name):
        path = folder / entry.name
        if entry.is_dir():
            yield from _files_below(path, entry)
        else:
            yield path, entry


def _quoted(text: str) -> str:
    """Return a text as TOML's basic string, which differs from JSON's in one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _settings(gateway: str, chosen: _Gateway, spec: Path) -> Iterator[str]:
    """Yield the lines of the settings file."""
    yield from (
        f"# auditap behind {chosen.what}. {_page(gateway)} explains it, `auditap settings` lists every setting.",
        "",
        "# Here are the event log, the database and the keys, unless `kafka` and `postgres` below name servers.",
        'data_dir = "auditap-data"',
        "",
        "# What is recorded: exactly what this document marks `x-auditable`.",
        "[[redaction.documents]]",
        f"path = {_quoted(spec.as_posix())}",
        '# envelope = "result"    # the property of responses that holds the resource, if they have one',
        "",
        "# Who acted. Only headers of the response count, which the client cannot forge.",
        "[redaction.headers]",
        '# actor_id = "x-actor-id"',
        '# actor_email = "x-actor-email"',
        '# account_id = "x-account-id"    # unless the path has /accounts/{account_id}',
        "",
    )
    if chosen.receives:
        yield from (
            "# Where the gateway sends to.",
            "[[collector.receivers]]",
            f'format = "{gateway}"',
            f'file = "{_CADDY_FILE}"    # in memory, not on a disk'
            if gateway == "caddy"
            else f'socket = "auditap-data/{gateway}.sock"',
            f'tap_id = "edge-{gateway}"',
            "",
        )
    if chosen.needs_token:
        digest = hashlib.sha256(_TOKEN.read_text().strip().encode()).hexdigest()
        yield from (
            f"# The token in {_TOKEN}, which the gateway sends as `Authorization: Bearer …`.",
            "[[collector.tokens]]",
            f'sha256 = "{digest}"',
            f'taps = ["{gateway}"]',
            "",
        )
    yield from (
        "# In production, Kafka and Postgres, and a process each: auditap collect, ingest, serve (docs/deployment.md).",
        "# [kafka]",
        '# bootstrap_servers = "kafka-1:9092,kafka-2:9092"',
        "# [postgres]",
        '# writer_dsn = "postgresql://auditap_writer@db/auditap"',
        '# reader_dsn = "postgresql://auditap_reader@db/auditap"',
    )
