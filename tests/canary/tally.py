"""Runs pairs with tokens through the redactor and counts what became of the tokens, rule by rule."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import parse_document
from schemas.capture import decode_capture
from schemas.event import AuditEvent, BodyReceipt, decode_event
from schemas.identity import new_id
from tests.agreeing import AgreeingRedactor as Redactor
from tests.canary import pairs, reading, values
from tests.canary.pairs import Operation, Pair, PairWriter
from tests.canary.reading import Verdict
from tests.canary.tokens import Mint, secrets_in, shown_in

EVENT_ID = new_id(1_769_192_714_749)
TWINS = "matching: operations of one shape keep what all of them keep"
ENVELOPE = "result"
OPEN_RULES = frozenset(
    each.rule
    for module in (pairs, reading, values)
    for each in vars(module).values()
    if isinstance(each, Verdict) and each.recorded is None
)


@dataclass
class Tally:
    """What a run over many operations came to. `secrets` and `shown` count tokens by rule."""

    operations: int = 0
    pairs: int = 0
    secrets: Counter[str] = field(default_factory=Counter)
    shown: Counter[str] = field(default_factory=Counter)
    absent: Counter[str] = field(default_factory=Counter)
    """Tokens that might have left and did not, by the rule that leaves it open."""
    leaked: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    miscounted: list[str] = field(default_factory=list)

    def take(self, pair: Pair, output: bytes, mint: Mint) -> None:
        """Compare what left of one pair with what the mint made for it, and empty the mint."""
        event = decode_event(output)
        what = f"{pair.operation.id} {pair.capture['response']['status']} fitting={pair.fitting}"
        self.leaked += [f"{what}: {token}" for token in sorted(secrets_in(output))]
        tied = event.receipt.operation != pair.operation.id
        self._compare(what, shown_in(output), mint, tied=tied)
        if not tied:
            self._count(what, pair, event)
        self.pairs += 1
        self.secrets += mint.secret
        mint.secret.clear()
        mint.shown.clear()

    def _compare(self, what: str, found: set[str], mint: Mint, *, tied: bool) -> None:
        for token, rule in mint.shown.items():
            if token in found:
                self.shown[rule] += 1
            elif tied:
                self.absent[TWINS] += 1
            elif rule in OPEN_RULES:
                self.absent[rule] += 1
            else:
                self.lost.append(f"{what}: {token} ({rule})")

    def _count(self, what: str, pair: Pair, event: AuditEvent) -> None:
        for side, expected in (("request", pair.request_kept), ("response", pair.response_kept)):
            receipt: BodyReceipt = getattr(event.receipt, side)
            if expected is not None and receipt.kept != expected:
                self.miscounted.append(f"{what} {side}: {receipt} instead of {expected}")


def fail() -> None:
    raise AssertionError("redacting failed")


def a_redactor(root: dict[str, Any], **settings: Any) -> Redactor:
    """Return a redactor for one document that does not hide its failures."""
    config = DocumentConfig(Path("document.json"), envelope=ENVELOPE, **settings)
    document = parse_document(config, json.dumps(root).encode())
    return Redactor([document], RedactionConfig(documents=(config,)), on_failure=fail)


def run(root: dict[str, Any], operations: Iterable[Operation], *, seed: int, **settings: Any) -> Tally:
    """Redact pairs with tokens for the operations given."""
    redactor = a_redactor(root, **settings)
    mint, tally = Mint(), Tally()
    writer = PairWriter(root, mint, seed, envelope=ENVELOPE)
    for operation in operations:
        tally.operations += 1
        for pair in writer.pairs(operation):
            output = redactor.redact(decode_capture(json.dumps(pair.capture).encode()), EVENT_ID)
            assert output is not None
            tally.take(pair, output, mint)
    return tally
