"""What nginx does to requests and responses by itself, and what its taps have to make of that."""

from __future__ import annotations

from schemas.capture import CapturedRequest, CapturedResponse, body_bytes
from tests.gateways.contract import Bench
from tests.gateways.exchanges import JSON, WIDGET
from tests.gateways.inside import InsideContract, send

LOCATIONS = """
    underscores_in_headers on;
    large_client_header_buffers 4 64k;
    location /zipped/ {
      ${HOOKS}
      gzip on;
      gzip_types application/json;
      gzip_min_length 1;
      proxy_pass http://service/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
    location /replaced/ {
      ${HOOKS}
      error_page 503 = /widgets;
      proxy_intercept_errors on;
      proxy_pass http://service/unavailable;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
    location /unbuffered/ {
      ${HOOKS}
      proxy_request_buffering off;
      proxy_pass http://service/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
    location /upgrade {
      ${HOOKS}
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
    }
    location /forbidden/ {
      ${HOOKS}
      return 403;
    }
"""
"""What a test adds to the server of the example; `${HOOKS}` is what a tap needs in each location."""


def with_locations(configuration: str, hooks: str) -> str:
    """Return the configuration with LOCATIONS in its server."""
    before, place, after = configuration.partition("    location / {")
    assert place
    return before + LOCATIONS.replace("${HOOKS}", hooks) + place + after


class NginxContract(InsideContract):
    """The contract of a tap inside nginx. A gateway's test is a subclass that names the gateway."""

    async def test_what_nginx_compresses_is_kept_as_the_service_sent_it(self, bench: Bench) -> None:
        async with bench.through("zipped").client() as client:
            response = await client.put("/zipped/widgets", content=WIDGET, headers={"content-type": JSON})
        assert response.headers["content-encoding"] == "gzip"
        capture = await bench.collected.one_of("zipped")
        assert "content-encoding" not in capture.response.headers
        assert body_of(capture.response) == response.content

    async def test_a_response_that_nginx_replaces_is_kept_with_the_request_as_received(
        self, bench: Bench
    ) -> None:
        async with bench.through("replaced").client() as client:
            response = await client.post("/replaced/", content=WIDGET, headers={"content-type": JSON})
        assert response.status_code == 200
        capture = await bench.collected.one_of("replaced")
        assert (capture.request.method, capture.response.status) == ("POST", 200)
        assert capture.request.url.endswith("/replaced/")
        assert body_of(capture.request) == WIDGET
        assert body_of(capture.response) == response.content

    async def test_a_hash_in_the_target_is_kept_as_nginx_passes_it_on(self, bench: Bench) -> None:
        await send(bench, b"/widgets#/..?a=1", b"x-request-id: hash", status=None)
        url = (await bench.collected.one_of("hash")).request.url
        assert url == "http://api.example/widgets%23/..?a=1"

    async def test_a_part_of_a_body_does_not_pass_for_it(self, bench: Bench) -> None:
        large = b'{"filler":"' + b"x" * 100_000 + b'"}'
        async with bench.through("unbuffered").client() as client:
            response = await client.post("/unbuffered/widgets", content=large, headers={"content-type": JSON})
        assert response.json()["received_bytes"] == len(large)
        capture = await bench.collected.one_of("unbuffered")
        # If all of it was there at once, nginx still holds it.
        assert capture.request.truncated or body_of(capture.request) == large
        assert not capture.request.not_read

    async def test_a_body_that_nobody_read_is_not_read(self, bench: Bench) -> None:
        async with bench.through("forbidden").client() as client:
            response = await client.post("/forbidden/", content=WIDGET, headers={"content-type": JSON})
        assert response.status_code == 403
        capture = await bench.collected.one_of("forbidden")
        assert (capture.request.truncated, capture.request.not_read) == (True, True)


def body_of(message: CapturedRequest | CapturedResponse) -> bytes:
    return body_bytes(message) or b""
