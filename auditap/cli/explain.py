"""`auditap explain`: what is recorded of a capture or an operation, part by part, and by which rule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import click
from msgspec import to_builtins
from rich.console import Console
from rich.tree import Tree

from auditap.cli.options import number_option
from auditap.cli.preview import Preview, spec_options
from auditap.plain_text import plain
from auditap.runtime.lifecycle import clock_ms
from redactor.report.decisions import Decision, ExplainedPart
from redactor.report.explain import (
    ExplainedBody,
    Explanation,
    explain_capture,
    explain_operation,
    find_operation,
)
from redactor.report.explain_headers import ExplainedField
from redactor.report.explain_tree import Node
from redactor.report.operation_fields import DocumentFields
from schemas.capture import Capture, decode_capture
from schemas.capture_id import capture_id
from schemas.errors import RefusedCapture, StartupError
from schemas.event import BodyReceipt, Identity, IdentitySource, decode_event

_OF_IDENTITY = "identity."
# A width that no line reaches: in a pipe, rich would cut lines at 80 columns.
_LINE_CHARS_MAX = 1_000_000
_SIGNS = {"kept": "[green]●[/green]", "presence": "[yellow]◐[/yellow]", "dropped": "[red]○[/red]"}


@click.command("explain")
@spec_options
@click.option(
    "--operation",
    "name",
    help="Explain an operation instead of a capture: its operationId, or 'METHOD /path/{template}'.",
)
@number_option("--line", default=1, meaning="Which line of CAPTURE, or element of its array, to explain.")
@click.option("--kept", "kept_only", is_flag=True, help="Show only what is recorded.")
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
@click.argument("capture", type=click.File("rb"), default="-")
def explain_command(
    spec: Path | None,
    envelope: str | None,
    name: str | None,
    line: int,
    *,
    kept_only: bool,
    as_json: bool,
    capture: BinaryIO,
) -> None:
    """Explain what a collector with the same settings records of CAPTURE, part by part, and which rule decides.

    CAPTURE is NDJSON or a JSON array, plain or compressed with gzip; without it, standard input is read. The output contains no values, and only
    names that the document declares, so anyone who may read the document may read it.
    """
    preview = Preview.load(spec, envelope)
    if name is None:
        explanation = _explain_capture(preview, *_capture(preview, capture, line))
    else:
        explanation = _explain_operation(preview, name)
    if as_json:
        click.echo(json.dumps(asdict(explanation), default=_as_json))
    else:
        _show(_console(), explanation, kept_only=kept_only)


def _console() -> Console:
    """Return a console that cuts no line: on a terminal long lines wrap, elsewhere they stay whole."""
    console = Console()
    return console if console.is_terminal else Console(width=_LINE_CHARS_MAX)


def _capture(preview: Preview, file: BinaryIO, number: int) -> tuple[Capture, str]:
    """Return the capture on a line of a file, or its only one, and the id of its event.

    Raises StartupError if the file has no such line, or a collector would refuse what stands there.
    """

    def refuse(refused_number: int, reason: RefusedCapture) -> None:
        if refused_number == number:
            raise StartupError(f"line {number}: {reason}")

    last = 0
    for line in preview.captures(file, refuse):
        last = line.number
        if last == number:
            try:
                capture = decode_capture(line.text)
                # The id itself is not shown, but by its time a token counts or not.
                event_id = capture_id(capture, preview.identity_key, clock_ms())
            except RefusedCapture as reason:
                raise StartupError(f"line {number}: {reason}") from None
            return capture, event_id
    raise StartupError(
        f"There is no capture on line {number} of the file of captures; the last one is on line {last}."
    )


def _explain_capture(preview: Preview, capture: Capture, event_id: str) -> Explanation:
    value = preview.redactor.redact(capture, event_id)
    if value is None:
        raise StartupError("Its operation is one of redaction.excluded_operations: no record is made of it.")
    digest = decode_event(value).receipt.document
    document = next((each for each in preview.documents if each.digest == digest), preview.documents[0])
    return explain_capture(DocumentFields(document, preview.config), preview.redactor, capture, event_id)


def _explain_operation(preview: Preview, name: str) -> Explanation:
    for document in preview.documents:
        document_fields = DocumentFields(document, preview.config)
        operation = find_operation(document_fields, name)
        if operation is not None:
            return explain_operation(document_fields, operation)
    raise StartupError("No document has an operation with this id, or this method and path.")


def _as_json(value: Any) -> Any:
    return to_builtins(value)


def _show(console: Console, explanation: Explanation, *, kept_only: bool) -> None:
    root = Tree(_match_line(explanation), guide_style="dim")
    _add_parts(root, "path", explanation.path, kept_only=kept_only)
    _add_parts(root, "query", explanation.query, kept_only=kept_only)
    _add_parts(root, "headers", explanation.headers, kept_only=kept_only)
    for body in explanation.bodies:
        branch = root.add(_body_line(body))
        if body.tree is not None and not (kept_only and _is_dropped(body.tree.decision)):
            _add_tree(branch, body.tree, body.pointer or "", kept_only=kept_only)
    console.print(root, highlight=False)
    receipt = explanation.receipt
    if receipt is not None:
        counts = f"request {_receipt_text(receipt.request)}, response {_receipt_text(receipt.response)}"
        console.print(f"\n{_account_line(explanation.fields)}", highlight=False)
        console.print(_actor_line(explanation.fields), highlight=False)
        if receipt.identity is not None:
            console.print(_token_line(receipt.identity, explanation.fields), highlight=False)
        console.print(f"receipt: {counts}", highlight=False)


def _account_line(fields: Sequence[ExplainedField]) -> str:
    account = next(each for each in fields if each.name == "account.id")
    source = "none" if account.source is None else f"from {plain(account.source)}"
    others = [each for each in fields if not (_is_of_actor(each) or each.name.startswith(_OF_IDENTITY))]
    return f"account: {source}{_refused_text(others)}"


def _actor_line(fields: Sequence[ExplainedField]) -> str:
    of_actor = [each for each in fields if _is_of_actor(each)]
    filled = [
        f"{each.name.removeprefix('actor.')} from {plain(each.source)}"
        for each in of_actor
        if each.source is not None
    ]
    return f"actor: {', '.join(filled) or 'none'}{_refused_text(of_actor)}"


def _token_line(identity: Identity, fields: Sequence[ExplainedField]) -> str:
    """Return what became of the request's token. Values of its claims are not shown."""
    if identity.reason is not None:
        return f"token: [red]not verified: {identity.reason}[/red]"
    if identity.source is not IdentitySource.TOKEN:
        return "token: none"
    more = [each for each in fields if each.name.startswith(_OF_IDENTITY)]
    filled = [
        f"{each.name.removeprefix(_OF_IDENTITY)} from {plain(each.source)}"
        for each in more
        if each.source is not None
    ]
    texts = ", ".join([f"verified, of a {identity.kind}", *filled])
    return f"token: {texts}{_refused_text(more)}"


def _is_of_actor(field: ExplainedField) -> bool:
    return field.name.startswith("actor.")


def _refused_text(fields: Sequence[ExplainedField]) -> str:
    refused = [each.name for each in fields if each.refused]
    return f"; [red]refused: {', '.join(refused)}[/red]" if refused else ""


def _add_parts(root: Tree, title: str, parts: Sequence[ExplainedPart], *, kept_only: bool) -> None:
    shown = [each for each in parts if each.present is not False]
    if kept_only:
        shown = [each for each in shown if not _is_dropped(each.decision)]
    if shown:
        branch = root.add(f"[bold]{title}[/bold]")
        for each in shown:
            branch.add(_part_line(each))


def _is_dropped(decision: Decision) -> bool:
    return decision.outcome == "dropped"


def _match_line(explanation: Explanation) -> str:
    match = explanation.match
    if match.unmatched is not None:
        known = "" if match.known_path is None else f", recorded as {plain(match.known_path)}"
        whose = "" if match.attributed_to is None else f", attributed to {plain(match.attributed_to)}"
        return f"[bold]{match.method}[/bold] no operation: {match.unmatched}{whose}{known}"
    names = " | ".join(map(plain, match.operations))
    templates = " | ".join(dict.fromkeys(map(plain, match.templates)))
    tie = ""
    if len(match.operations) > 1:
        tie = "  [yellow]all of these match: only what all of them record is recorded[/yellow]"
    return f"[bold]{match.method} {templates}[/bold]  {names}{tie}  [dim]document {match.document}[/dim]"


def _part_line(part: ExplainedPart) -> str:
    return f"{_SIGNS[part.decision.outcome]} {plain(part.label)}  {_rule(part.decision)}"


def _rule(decision: Decision, base: str = "") -> str:
    """Return the rule, its reason and its schema path, which is abbreviated if it is below `base`."""
    path = decision.pointer
    if base and path.startswith(base + "/"):
        path = "…" + path.removeprefix(base)
    pointer = f"  [dim]{plain(path)}[/dim]" if path else ""
    return f"[cyan]rule {decision.rule}[/cyan] {plain(decision.reason)}{pointer}"


def _body_line(body: ExplainedBody) -> str:
    texts = [f"[bold]{body.side}[/bold]", body.status or "", plain(body.media_type or "")]
    if body.pointer and body.closed is None:
        texts.append(f"[dim]{plain(body.pointer)}[/dim]")
    if body.receipt is not None:
        texts.append(_receipt_text(body.receipt))
    if body.closed is not None:
        texts.append(_rule(body.closed))
    return "  ".join(filter(None, texts))


def _receipt_text(receipt: BodyReceipt) -> str:
    if receipt.reason is not None:
        return f"[red]nothing: {receipt.reason}[/red]"
    if receipt.kept is None:
        return "[dim]no body[/dim]"
    noun = "scalar" if receipt.kept == 1 else "scalars"
    return f"[green]{receipt.kept} {noun}[/green]"


def _add_tree(branch: Tree, node: Node, base: str, *, kept_only: bool) -> None:
    waiting = [(branch, node)]
    while waiting:
        above, each = waiting.pop()
        below = above.add(_node_line(each, base))
        if each.cut:
            below.add("[dim]… more parts are not shown[/dim]")
        parts = [part for part in each.children if not (kept_only and _is_dropped(part.decision))]
        # A stack returns the last first, and rich shows branches in the order in which they are added.
        waiting.extend((below, part) for part in reversed(parts))


def _node_line(node: Node, base: str) -> str:
    kind = f" [dim]{plain(node.kind)}[/dim]" if node.kind else ""
    count = f" [green]{node.kept}[/green]" if node.kept else ""
    again = " [dim]↺ repeats from above[/dim]" if node.repeats else ""
    return f"{_SIGNS[node.decision.outcome]} {plain(node.label)}{kind}{count}  {_rule(node.decision, base)}{again}"
