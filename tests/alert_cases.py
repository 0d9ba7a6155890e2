"""Rules and records for tests of alerting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import yaml

from alerting.engine import Alert, evaluate, match_rules, required_state
from alerting.memory_store import MemoryAlertStore
from alerting.ports import AlertStore, UnitOfWork
from alerting.rules import RuleSet
from alerting.rules_parser import parse_rules
from schemas.identity import new_id
from schemas.record import Record
from tests.records import record

# A Tuesday, 10:00 UTC.
AT_MS = 1_767_693_600_000
ACCOUNT = "1f0c2b7d9e8a4c3b8d6e5f4a3b2c1d0e"


def rules(*stated: dict[str, Any], **channels: dict[str, Any]) -> RuleSet:
    """Rules as a file would hold them; a name, a title and a severity are added where there are none."""
    whole = [
        ({} if each.get("severity") == "drop" else {"title": "Something"})
        | {"name": f"rule-{number}", "severity": "low"}
        | each
        for number, each in enumerate(stated)
    ]
    return parse_rules(yaml.safe_dump({"rules": whole, "channels": channels}).encode(), "rules.yaml")


def action(at_ms: int = AT_MS, **changes: Any) -> Record:
    """A record of the account, with an id of its own."""
    return record(at_ms, **{"id": UUID(new_id(at_ms)), "account_id": ACCOUNT, "actor_id": "ana"} | changes)


async def raised(
    held: RuleSet, records: Iterable[Record], store: AlertStore | None = None
) -> Sequence[Alert]:
    """What the rules raise of records that come one by one."""
    keeping = store or MemoryAlertStore()
    found: list[Alert] = []
    for one in records:
        seen = match_rules(held, one)
        found += await keeping.commit(UnitOfWork(required_state(seen), partial(evaluate, seen)))
    return found
