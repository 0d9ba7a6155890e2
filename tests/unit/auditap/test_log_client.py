"""What `auditap query` and `auditap tail` make of their arguments."""

from __future__ import annotations

import click
import pytest

from auditap.log_client import filters
from log_api.config import LogApiConfig
from log_api.contract import contract_document

_NO_FILTERS = {"since", "before", "direction", "limit", "cursor"}


def _documented() -> list[str]:
    document = contract_document(LogApiConfig(cursor_key=b"k" * 32))
    [listing] = [
        operation
        for item in document["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict) and operation.get("operationId") == "listAuditLogs"
    ]
    named = [
        document["components"]["parameters"][each["$ref"].rsplit("/")[-1]] for each in listing["parameters"]
    ]
    return [each["name"] for each in named if each["in"] == "query" and each["name"] not in _NO_FILTERS]


@pytest.mark.parametrize("name", _documented())
@pytest.mark.parametrize("spelling", ["{}", "{}[]"])
def test_every_filter_of_the_list_is_taken(name: str, spelling: str) -> None:
    asked = spelling.format(name)
    assert filters([f"{asked}=x=y"]) == [(asked, "x=y")]


def test_a_filter_is_negated_in_brackets_too() -> None:
    assert filters(["actor_id[not]=a"]) == [("actor_id[not]", "a")]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("action_typ=delete", "did you mean action_type?"),
        ("action_type.nt=delete", "There is no filter action_type.nt"),
        ("zzz=1", "there are account_name"),
        ("action_type", "name=value"),
        ("=delete", "name=value"),
    ],
)
def test_a_filter_that_is_none_is_refused(given: str, told: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        filters([given])
    assert told in refused.value.message
