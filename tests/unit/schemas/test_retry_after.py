from __future__ import annotations

from email.utils import formatdate

import pytest

from auditap_tap import client
from schemas.retry_after import asked_to_wait_s, retry_after_s

NOW_S = 1_700_000_000.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 400, 999_999_999.0),
        (formatdate(NOW_S + 90, usegmt=True), 90.0),
        (formatdate(NOW_S - 90, usegmt=True), 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\u0665", None),
        ("Wed, 99 Nov 2023 22:13:20 GMT", None),
    ],
)
def test_a_number_of_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after_s(header, NOW_S) == seconds
    assert client.retry_after_s(header, NOW_S) == seconds


@pytest.mark.parametrize(("status", "seconds"), [(429, 7.0), (503, 7.0), (500, None), (200, None)])
def test_only_429_and_503_ask_to_wait(status: int, seconds: float | None) -> None:
    assert asked_to_wait_s(status, {"retry-after": "7"}, NOW_S) == seconds
    assert asked_to_wait_s(status, {}, NOW_S) is None
