from __future__ import annotations

import pytest

from schemas.event import Exchange, RawRequest
from schemas.http_requests import http_request
from schemas.identity import new_id

AT_MS = 1_769_192_714_749
ID = new_id(AT_MS)
RAW = RawRequest("ray-1", "GET", 200, "/accounts/a1/things/{name}?q=kept", "curl/8")


def test_a_line_has_the_names_and_forms_of_the_dataset() -> None:
    line = http_request(
        ID, RAW, Exchange("api.example.com", 12, 812), user="ana@example.com", client_ip="203.0.113.9"
    )
    assert line == {
        "ClientIP": "203.0.113.9",
        "ClientRequestHost": "api.example.com",
        "ClientRequestMethod": "GET",
        "ClientRequestURI": "/accounts/a1/things/{name}?q=kept",
        "ClientRequestUserAgent": "curl/8",
        "EdgeStartTimestamp": 1_769_192_714_749_000_000,
        "EdgeEndTimestamp": 1_769_192_714_761_000_000,
        "EdgeResponseBytes": 812,
        "EdgeResponseStatus": 200,
        "RayID": "ray-1",
        "RequestHeaders": {"cf-access-user": "ana@example.com"},
        "auditap": {"id": ID},
    }


def test_what_is_not_known_is_null_but_what_identifies_the_line() -> None:
    line = http_request(ID, RawRequest(), None, user=None, client_ip=None)
    assert line["RayID"] == ID
    assert line["RequestHeaders"] == {}
    assert {name for name, value in line.items() if value is None} == {
        "ClientIP",
        "ClientRequestHost",
        "ClientRequestMethod",
        "ClientRequestURI",
        "ClientRequestUserAgent",
        "EdgeEndTimestamp",
        "EdgeResponseBytes",
        "EdgeResponseStatus",
    }


@pytest.mark.parametrize(
    ("duration_ms", "taken_ns"), [(0, 0), (1, 1_000_000), ((1 << 31) - 1, 2147483647000000)]
)
def test_a_request_ends_after_its_duration(duration_ms: int, taken_ns: int) -> None:
    line = http_request(
        ID, RAW, Exchange(duration_ms=duration_ms, response_bytes=0), user="u", client_ip=None
    )
    assert line["EdgeEndTimestamp"] - line["EdgeStartTimestamp"] == taken_ns
    assert line["EdgeResponseBytes"] == 0
