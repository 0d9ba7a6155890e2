"""What the taps that run inside a gateway have in common beside the contract of all taps: they copy what the middleware copies."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from auditap_tap.config import REQUEST_HEADERS
from tests.gateways.contract import Bench, GatewayContract
from tests.gateways.exchanges import JSON, WIDGET

_NEVER_COPIED = {"authorization": "Bearer t0ken", "cookie": "session=1", "x-other": "1"}


class InsideContract(GatewayContract):
    """The contract of a tap inside a gateway. A gateway's test is a subclass that names the gateway."""

    double_slashed = "/"
    """What the gateway leaves of the first of two slashes before the tap sees them."""
    underscored: str | None = "PUT"
    """What a tap sees of a method override that is written with underscores: None where the gateway drops such names."""
    passes_long_targets = True
    """Whether the gateway reads a target of 30,000 characters."""

    async def test_copies_the_headers_that_the_middleware_copies(self, bench: Bench) -> None:
        sent = {name: f"of {name}" for name in REQUEST_HEADERS}
        sent |= {"host": "api.example", "x-request-id": "copied", "content-type": JSON} | _NEVER_COPIED
        del sent["content-encoding"]
        async with bench.through("copied").client() as client:
            await client.post("/widgets", content=WIDGET, headers=sent)
        capture = await bench.collected.one_of("copied")
        copied = {name: value for name, value in sent.items() if name not in _NEVER_COPIED}
        assert capture.request.headers == copied
        assert capture.request.url == "http://api.example/widgets"
        assert set(capture.response.headers) == {"content-length", "content-type", "x-actor-email"}

    async def test_keeps_repeated_lines_and_bytes_beyond_ascii(self, bench: Bench) -> None:
        names = [b"x-request-id: repeated", b"user-agent: caf\xe9", b"cf-ray: caf\xc3\xa9"]
        chain = [b"x-forwarded-for: 192.0.2.7", b"x-forwarded-for: 198.51.100.9, 203.0.113.4"]
        methods = [b"x-http-method: PUT", b"x-http-method: DELETE"]
        await send(bench, b"/widgets?a|b=%ff", *names, *chain, *methods)
        capture = await bench.collected.one_of("repeated")
        headers = capture.request.headers
        assert capture.request.url == "http://api.example/widgets?a%7Cb=%ff"
        assert headers["user-agent"] == "café"
        assert headers["cf-ray"] == "café"
        assert headers["x-http-method"] == ["PUT", "DELETE"]
        forwarded = headers["x-forwarded-for"]
        joined = forwarded if isinstance(forwarded, str) else ", ".join(forwarded)
        assert [address.strip() for address in joined.split(",")] == [
            "192.0.2.7",
            "198.51.100.9",
            "203.0.113.4",
        ]

    async def test_copies_a_method_override_that_is_written_with_underscores(self, bench: Bench) -> None:
        """A WSGI service reads it as the one with dashes."""
        await send(
            bench, b"/widgets", b"x-request-id: underscores", b"X_HTTP_Method_Override: PUT", b"X_Other: 1"
        )
        headers = (await bench.collected.one_of("underscores")).request.headers
        assert headers.get("x_http_method_override") == self.underscored
        assert "x_other" not in headers

    @pytest.mark.parametrize("place", ["path", "query"])
    async def test_a_url_that_is_too_long_keeps_its_account(self, bench: Bench, place: str) -> None:
        if not self.passes_long_targets:
            return
        long = b'"' * 30_000
        target = b"/accounts/1/" + long if place == "path" else b"/accounts/1?a=1&b=" + long
        await send(bench, target, b"x-request-id: long-" + place.encode(), status=None)
        url = (await bench.collected.one_of(f"long-{place}")).request.url
        # With the segment `.`, nothing applies as it is written: what was cut off may ask for another method.
        path = "" if place == "query" else f"/{'%22' * 30_000}"
        assert url == f"http://api.example/accounts/1{path}"[:32_768] + "/."

    async def test_a_host_or_target_cannot_pass_for_another_part_of_the_url(self, bench: Bench) -> None:
        await send(bench, b"//evil.example/widgets", b"x-request-id: double-slash")
        url = (await bench.collected.one_of("double-slash")).request.url
        assert url == f"http://api.example{self.double_slashed}/evil.example/widgets"

    async def test_a_connection_that_changes_its_protocol_passes(self, bench: Bench) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.running.port)
        lines = (b"host: a", b"x-request-id: upgrade", b"connection: upgrade", b"upgrade: websocket")
        writer.write(b"GET /upgrade HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 101")
        assert answer.endswith(b"hello")
        capture = await bench.collected.one_of("upgrade")
        assert (capture.response.status, capture.response.complete) == (101, True)

    async def test_a_response_that_the_service_cuts_is_incomplete(self, bench: Bench) -> None:
        async with bench.through("cut").client() as client:
            with pytest.raises(httpx.HTTPError):
                await client.post("/cut", content=WIDGET, headers={"content-type": JSON})
        capture = await bench.collected.one_of("cut")
        assert capture.response.status in (200, 502)
        assert not capture.response.complete


async def send(bench: Bench, target: bytes, *lines: bytes, status: int | None = 200) -> None:
    """Send a GET with these header lines as they are, which no client library would. `status`: None if any will do."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.running.port)
    head = [b"GET " + target + b" HTTP/1.1", b"host: api.example", *lines, b"connection: close"]
    writer.write(b"\r\n".join(head) + b"\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 " + (b"" if status is None else b"%d" % status))
