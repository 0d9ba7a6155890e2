"""Cases that `auditap redact` and `auditap explain` show."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.cases.case import Bench, counted
from tests.unit.auditap.commands import run

ANY_PATH = """
openapi: 3.0.3
info: {title: t, version: '1'}
paths:
  /x: {post: &create {operationId: create, responses: {200: {description: ok}}}}
  /accounts/{account_id}/items: {post: *create}
"""
"""For captures that bring no document of their own."""
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"


async def events(
    bench: Bench, captures: str | Path = "captures.ndjson", spec: str | Path = "spec.yaml"
) -> list[dict[str, Any]]:
    """Return the events that `auditap redact` makes of the captures in a file, in order."""
    paths = ("--spec", str(bench.inputs / spec), str(bench.inputs / captures))
    _, out, errors = await run(bench.scratch, NO_DATABASE, "redact", *paths)
    if not out:
        raise AssertionError(errors)
    return [json.loads(line) for line in out.splitlines()]


async def program_output(program: Path, *arguments: str) -> str:
    """Return what a program of the case's folder prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(program), *arguments), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return out.decode()


def _request_bodies(found: list[dict[str, Any]]) -> str:
    return " ".join(json.dumps(each["resource"].get("request", "nothing")) for each in found)


async def request_bodies(bench: Bench) -> str:
    """Run the folder's captures against its document, and show what is recorded of the requests' bodies."""
    return _request_bodies(await events(bench))


async def evasion(bench: Bench) -> str:
    """The client's spellings: each action is in the list of its account, as `auditap redact` attributes it."""
    captures = bench.scratch / "captures.ndjson"
    captures.write_text(await program_output(bench.inputs / "mk.py"))
    found = await events(bench, captures)
    listed = [
        each for each in found if (each["account"].get("id"), each["actor"].get("id")) == ("accE", "mallory")
    ]
    # Also the spellings that no gateway normalises are the account's, if only in the list of what is unmatched.
    return counted(len(listed), len(found), "in the account's list")


async def server_variable(bench: Bench) -> str:
    [event] = await events(bench, "c.ndjson", "openapi.yaml")
    return f"operation {event['receipt'].get('operation')}, {json.dumps(event['resource'].get('request'))}"


async def actor_ids(bench: Bench) -> str:
    spec = bench.scratch / "any.yaml"
    spec.write_text(ANY_PATH)
    captures = (bench.inputs / "c.ndjson").read_text()
    given = [json.loads(line)["response"]["headers"]["x-actor-id"] for line in captures.splitlines()]
    found = await events(bench, "c.ndjson", spec)
    recorded = sum(
        each["actor"].get("id") == each["account"].get("id") == actor.strip()
        for each, actor in zip(found, given, strict=True)
    )
    refused = sum("refused" in each["receipt"] for each in found if not each["actor"].get("id"))
    return f"{recorded} recorded, {refused} refused and named, {len(given) - recorded - refused} gone"


async def partial_segment(bench: Bench) -> str:
    [event] = await events(bench, "c.ndjson", "openapi.yaml")
    spec, capture = (str(bench.inputs / name) for name in ("openapi.yaml", "c.ndjson"))
    _, explained, _ = await run(bench.scratch, NO_DATABASE, "explain", "--spec", spec, capture)
    marked = "not marked" if "neither marked" in explained else "marked"
    return f"{event['raw']['uri']}, explained as {marked}"


async def unencoded_passwords(bench: Bench) -> str:
    """Each DSN of the script is refused in one sentence that says so, with nothing of its password."""
    dsns = re.findall(r"'(postgresql://[^']*)'", (bench.inputs / "run.sh").read_text())
    fine = 0
    for dsn in dsns:
        code, out, errors = await run(bench.scratch, dsn, "tokens", "list")
        # The short ones stand in any sentence.
        pieces = re.findall(r"[^/@]{4,}", dsn.partition("postgres:")[2].rpartition("@")[0])
        said = " ".join((out + errors).split())
        fine += code != 0 and "percent-encode" in said and not any(piece in said for piece in pieces)
    return counted(fine, len(dsns), "refused in a sentence without the password")


async def order(bench: Bench) -> str:
    """The last capture gives the same event alone and after all others."""
    spec = bench.inputs.parent.parent / "data" / "stripe-all-marked.openapi.json"
    lines = (bench.inputs / "captures.ndjson").read_text().splitlines()
    alone = bench.scratch / "last.ndjson"
    alone.write_text(lines[-1])
    [first], [*_, last] = await asyncio.gather(
        events(bench, alone, spec), events(bench, "captures.ndjson", spec)
    )
    response = first["resource"].get("response") or {}
    kept = [name for name in ("amount", "id", "object") if name in response]
    return f"{'the same' if first == last else 'another'} event, with {', '.join(kept)}"


async def twins(bench: Bench) -> str:
    found = await events(bench)
    leaks = sum("SECRET" in json.dumps(each) for each in found)
    return f"{leaks} leaks; {_request_bodies(found)}"


async def path_value(bench: Bench) -> str:
    [event] = await events(bench)
    return f"{event['raw']['uri']}, resource id {event['resource'].get('id')}"
