from __future__ import annotations

import pytest

from redactor.report.secret_fields import secrecy_of_name
from tests.unit.redactor.report.reports import report_of, things
from tests.unit.redactor.schemas import DENIED, MARKED, TEXT, Node, an_object


@pytest.mark.parametrize(
    ("name", "secrecy"),
    [
        ("password", "sure"),
        ("db_password", "sure"),
        ("clientSecret", "sure"),
        ("APIKey", "sure"),
        ("private_key", "sure"),
        ("Authorization", "sure"),
        ("aws_credentials", "sure"),
        ("token", "likely"),
        ("key", "likely"),
        ("public_key", None),
        ("token_id", None),
        ("key_name", None),
        ("password_updated_at", None),
        ("secret_version", None),
        ("keyboard", None),
        ("tokenizer", None),
        ("name", None),
        ("", None),
    ],
)
def test_secrecy_is_judged_by_name(name: str, secrecy: str | None) -> None:
    assert secrecy_of_name(name) == secrecy


@pytest.mark.parametrize("schema", [{"type": "boolean"}, {"type": "integer"}, TEXT | {"enum": ["a"]}])
def test_types_and_enums_that_cannot_hold_a_secret_are_not_reported(schema: Node) -> None:
    assert report_of(things(an_object(password=schema | {"x-auditable": True}))).findings == ()


def test_a_secret_that_is_not_recorded_is_not_reported() -> None:
    assert report_of(things(an_object(name=MARKED, password=TEXT, token=DENIED))).findings == ()
