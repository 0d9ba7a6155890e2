"""`auditap explain`: why a pair is recorded as it is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.tree import Tree

from auditap.plain_text import plain
from schemas.errors import RefusedCapture, StartupError

if TYPE_CHECKING:
    from redactor.decisions import Decision
    from redactor.explain import BodyShown, Explanation, Part
    from redactor.explain_tree import Node
    from schemas.capture import Capture
    from schemas.event import BodyReceipt

_EXPLAIN_ID = "0" * 12 + "7" + "0" * 3 + "8" + "0" * 15  # nothing of the event but its content is shown
_LINE_CHARS_MAX = 1_000_000
_CAPTURES_BYTES_MAX = 67_108_864
_SIGNS = {"kept": "[green]●[/green]", "presence": "[yellow]◐[/yellow]", "dropped": "[red]○[/red]"}


@click.command("explain")
@click.option("--spec", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--envelope", help="The property of responses that is recorded in their place, such as result.")
@click.option(
    "--operation", "name", help="Explain this operation (its id, or 'METHOD /path') and no capture."
)
@click.option(
    "--line", type=click.IntRange(1), default=1, show_default=True, help="Which capture of several."
)
@click.option("--kept", "kept_only", is_flag=True, help="Show only what is kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
@click.argument("capture", type=click.File("rb"), default="-")
def explain_command(
    spec: Path,
    envelope: str | None,
    name: str | None,
    line: int,
    *,
    kept_only: bool,
    as_json: bool,
    capture: IO[bytes],
) -> None:
    """Tell, part by part, what is recorded of CAPTURE (JSON or NDJSON, or standard input) and by which rule.

    Only names that the document declares are shown, never a value or another name of the traffic: the output may
    be shown to whoever may read the document.
    """
    from redactor.config import DocumentConfig, RedactionConfig  # noqa: PLC0415
    from redactor.document import load_document  # noqa: PLC0415
    from redactor.explain import explain_capture, explain_operation, find_operation  # noqa: PLC0415
    from redactor.redact import Redactor  # noqa: PLC0415
    from redactor.surface import Surface  # noqa: PLC0415

    config = RedactionConfig(documents=(DocumentConfig(spec, envelope=envelope),))
    document = load_document(config.documents[0])
    surface = Surface(document, config)
    if name is None:
        pair = _capture(capture, line)
        explanation = explain_capture(surface, Redactor([document], config), pair, _EXPLAIN_ID)
    else:
        operation = find_operation(surface, name)
        if operation is None:
            raise StartupError("The document has no operation with this id, or of this method and path.")
        explanation = explain_operation(surface, operation)
    if as_json:
        click.echo(json.dumps(asdict(explanation), default=_as_json))
    else:
        _show(_console(), explanation, kept_only=kept_only)


def _console() -> Console:
    """On a terminal lines go on below, elsewhere each stays whole: none is cut."""
    console = Console()
    return console if console.is_terminal else Console(width=_LINE_CHARS_MAX)


def _capture(file: IO[bytes], line: int) -> Capture:
    """Return the only capture of a file, on however many lines, or the one on a line."""
    from schemas.capture import decode_capture, split_ndjson  # noqa: PLC0415

    text = file.read(_CAPTURES_BYTES_MAX + 1)
    if len(text) > _CAPTURES_BYTES_MAX:
        raise StartupError(f"The file of captures is larger than {_CAPTURES_BYTES_MAX} bytes.")
    lines = list(split_ndjson(text))
    if line == 1:
        try:
            return decode_capture(text)
        except RefusedCapture:
            pass
    if line > len(lines):
        raise StartupError(f"The file holds {len(lines)} captures.")
    return decode_capture(lines[line - 1])


def _as_json(value: Any) -> Any:
    from msgspec import to_builtins  # noqa: PLC0415

    return to_builtins(value)


def _show(console: Console, explanation: Explanation, *, kept_only: bool) -> None:
    root = Tree(_match_line(explanation), guide_style="dim")
    for title, parts in (
        ("path", explanation.path),
        ("query", explanation.query),
        ("headers", explanation.headers),
    ):
        shown = [
            each
            for each in parts
            if each.present is not False and not (kept_only and _is_dropped(each.decision))
        ]
        if shown:
            branch = root.add(f"[bold]{title}[/bold]")
            for each in shown:
                branch.add(_part_line(each))
    for body in explanation.bodies:
        branch = root.add(_body_line(body))
        if body.tree is not None and not (kept_only and _is_dropped(body.tree.decision)):
            _add(branch, body.tree, body.pointer or "", kept_only=kept_only)
    console.print(root, highlight=False)
    receipt = explanation.receipt
    if receipt is not None:
        told = f"request {_receipt_words(receipt.request)}, response {_receipt_words(receipt.response)}"
        console.print(f"\nreceipt: {told}", highlight=False)


def _is_dropped(decision: Decision) -> bool:
    return decision.verdict == "dropped"


def _match_line(explanation: Explanation) -> str:
    match = explanation.match
    if match.unmatched is not None:
        known = "" if match.known_path is None else f", recorded as {plain(match.known_path)}"
        return f"[bold]{match.method}[/bold] no operation: {match.unmatched}{known}"
    names = " | ".join(map(plain, match.operations))
    templates = " | ".join(dict.fromkeys(map(plain, match.templates)))
    tie = "  [yellow]these tie: only what all keep is kept[/yellow]" if len(match.operations) > 1 else ""
    return f"[bold]{match.method} {templates}[/bold]  {names}{tie}  [dim]document {match.document}[/dim]"


def _part_line(part: Part) -> str:
    return f"{_SIGNS[part.decision.verdict]} {plain(part.label)}  {_rule(part.decision)}"


def _rule(decision: Decision, base: str = "") -> str:
    """Return the rule and its schema path; one below `base` is written from there."""
    path = decision.pointer
    if base and path.startswith(base + "/"):
        path = "…" + path.removeprefix(base)
    pointer = f"  [dim]{plain(path)}[/dim]" if path else ""
    return f"[cyan]rule {decision.rule}[/cyan] {plain(decision.words)}{pointer}"


def _body_line(body: BodyShown) -> str:
    words = [f"[bold]{body.side}[/bold]", body.status or "", plain(body.media_type or "")]
    if body.pointer and body.closed is None:
        words.append(f"[dim]{plain(body.pointer)}[/dim]")
    if body.receipt is not None:
        words.append(_receipt_words(body.receipt))
    if body.closed is not None:
        words.append(_rule(body.closed))
    return "  ".join(filter(None, words))


def _receipt_words(receipt: BodyReceipt) -> str:
    if receipt.reason is not None:
        return f"[red]nothing: {receipt.reason}[/red]"
    return "[dim]no body[/dim]" if receipt.kept is None else f"[green]{receipt.kept} scalars[/green]"


def _add(branch: Tree, node: Node, base: str, *, kept_only: bool) -> None:
    waiting = [(branch, node)]
    while waiting:
        above, each = waiting.pop()
        below = above.add(_node_line(each, base))
        if each.cut:
            below.add("[dim]… more than is shown[/dim]")
        parts = [part for part in each.children if not (kept_only and _is_dropped(part.decision))]
        # Added from the last, as a stack hands them out: rich keeps the order in which branches are added.
        waiting.extend((below, part) for part in reversed(parts))


def _node_line(node: Node, base: str) -> str:
    kind = f" [dim]{plain(node.kind)}[/dim]" if node.kind else ""
    count = f" [green]{node.kept}[/green]" if node.kept else ""
    again = " [dim]↺ as above[/dim]" if node.repeats else ""
    return f"{_SIGNS[node.decision.verdict]} {plain(node.label)}{kind}{count}  {_rule(node.decision, base)}{again}"
