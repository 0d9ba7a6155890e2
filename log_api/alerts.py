"""The records behind an alert, as far as its window and key tell them."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_interface
from typing import Any

from log_api.sql_builder import FILTERS, Condition, FilterValue, ListQuery
from log_api.timestamps import parse_timestamp_ms

# Alerting cuts longer values, so one of this length may be the start of another.
_KEY_CHARS_MAX = 512
_NAMES = {"receipt.unmatched": "unmatched", "receipt.altered": "altered"}


def alert_records_query(account: str, alert: Mapping[str, Any], limit: int) -> ListQuery:
    """Return the query for the account's records in the alert's window that have the values of its key.

    The rule's other conditions are not stored with an alert, so more records than it counted may match. Parts of the key that no
    filter compares are left out.
    """
    since_ms, before_ms = (parse_timestamp_ms(alert["window"][end]) or 0 for end in ("start", "end"))
    found = (_condition(name, value) for name, value in alert["key"].items())
    conditions = tuple(one for one in found if one is not None)
    return ListQuery((account,), since_ms, max(before_ms, since_ms + 1), limit=limit, conditions=conditions)


def _condition(name: str, values: object) -> Condition | None:
    column = _NAMES.get(name, name.replace(".", "_"))
    if column not in FILTERS:
        return None
    texts = values if isinstance(values, list) else [values]
    compared = [_value(FILTERS[column].sql_type, text) for text in texts]
    known = tuple(one for one in compared if one is not None)
    return Condition(column, False, known) if known and len(known) == len(compared) else None


def _value(sql_type: str, value: object) -> FilterValue | None:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if value is None or "\0" in text or len(text) >= _KEY_CHARS_MAX:
        return None
    try:
        match sql_type:
            case "text":
                return text
            case "smallint":
                return int(text)
            case "inet":
                return ip_interface(text)
    except ValueError:
        return None
    return None
