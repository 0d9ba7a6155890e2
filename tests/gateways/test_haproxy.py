"""HAProxy, whose log goes through a ring to a receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway_tap.formats.haproxy import HAPROXY
from gateway_tap.receivers.line_stream import LineStream
from schemas.capture import body_bytes
from tests.gateways.contract import Bench, GatewayContract
from tests.gateways.exchanges import EXCHANGES, WIDGET
from tests.gateways.faults import FaultBench, ReceiverFaultContract
from tests.gateways.gateway import Abilities, Place, Running, filled, installed, process, without_tap
from tests.gateways.receiving import RECEIVER_SOCKET, receiving
from tests.ports import free_port

_FOLDER = Path(__file__).parents[2] / "deploy" / "auditap_gateways" / "haproxy"
_RING_BYTES = 67_108_864
_AWAY_S = 2


class HaproxyGateway:
    """HAProxy with the configuration of deploy/auditap_gateways/haproxy; or without the tap, to compare with.

    `receives`: whether it brings its receiver with it. `ring_bytes`: how much it keeps while the receiver is away.
    """

    name = "haproxy"
    abilities = Abilities(body_bytes_max=16_000, sees_client_leave=False)

    def __init__(
        self, *, receives: bool = True, is_tapped: bool = True, ring_bytes: int = _RING_BYTES
    ) -> None:
        self._receives = receives and is_tapped
        self._ring_bytes = ring_bytes
        self._is_tapped = is_tapped

    @asynccontextmanager
    async def running(self, place: Place) -> AsyncIterator[Running]:
        haproxy = installed("haproxy", "haproxy")
        port, h2_port = free_port(), free_port()
        receiver = place.folder / RECEIVER_SOCKET
        values = {
            "LUA": _FOLDER / "auditap.lua",
            "RECEIVER_SOCKET": receiver,
            "RELAY_SOCKET": place.folder / "relay.sock",
            "PORT": port,
            "H2_PORT": h2_port,
            "UPSTREAM_PORT": place.upstream_port,
        }
        configuration = place.folder / "haproxy.cfg"
        text = filled(_FOLDER / "haproxy.cfg", values)
        assert str(_RING_BYTES) in text
        text = text.replace(str(_RING_BYTES), str(self._ring_bytes))
        configuration.write_text(text if self._is_tapped else without_tap(text))
        command = (haproxy, "-db", "-f", configuration)
        async with (
            receiving(LineStream(receiver, HAPROXY) if self._receives else None, self.name, place),
            process(command, place.folder, [port, h2_port]) as server,
        ):
            yield Running(port, h2_port, server.pid)


class TestHaproxy(GatewayContract):
    gateway = HaproxyGateway()

    @pytest.mark.parametrize(
        ("name", "sent"),
        [
            ("no HTTP", b"nonsense\r\n\r\n"),
            ("a wrong header", b"GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n"),
            ("a long URL", b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n"),
            ("a long header", b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 100_000 + b"\r\n\r\n"),
            ("two lengths", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 6\r\n\r\n"),
        ],
        ids=lambda given: given if isinstance(given, str) else "",
    )
    async def test_what_haproxy_cannot_read_makes_no_gap(self, bench: Bench, name: str, sent: bytes) -> None:
        async def number_of(marker: str) -> int:
            await EXCHANGES[0].send(bench.through(marker))
            tap = (await bench.collected.one_of(marker)).tap
            assert tap is not None
            return tap.seq or 0

        before = await number_of(f"before {name}")
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.running.port)
        writer.write(sent)
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 60)
        writer.close()
        assert await number_of(f"after {name}") == before + 1

    @pytest.mark.parametrize("size", [12_000, 12_287, 12_288, 15_000, 16_000])
    async def test_bodies_up_to_the_limit_arrive_in_both_directions(self, bench: Bench, size: int) -> None:
        body = b'"' + b"x" * (size - 2) + b'"'
        headers = {"content-type": "application/json"}
        async with bench.through(f"size-{size}").client() as client:
            await client.post("/echo", content=body, headers=headers)
        capture = await bench.collected.one_of(f"size-{size}")
        assert body_bytes(capture.request) == body
        assert body_bytes(capture.response) == body

    @pytest.mark.parametrize("padding", [12_400, 14_800, 50_000])
    async def test_a_client_cannot_push_its_headers_out(self, bench: Bench, padding: int) -> None:
        marker = f"padded-{padding}"
        headers = {"x-http-method-override": "PUT", "pad": "p" * padding, "content-type": "application/json"}
        async with bench.through(marker).client() as client:
            await client.post("/widgets", content=WIDGET, headers=headers)
        capture = await bench.collected.one_of(marker)
        assert capture.request.headers["x-http-method-override"] == "PUT"
        assert capture.request.headers["content-type"] == "application/json"

    async def test_no_spelling_of_an_override_hides_another(self, bench: Bench) -> None:
        spellings = ["x-method-override", "x_method-override", "x-method_override", "x_method_override"]
        for number, taken in enumerate(spellings):
            marker = f"spelled-{number}"
            lines = [(name, method) for name in spellings for method in ("POST", "POST", "POST")]
            lines[lines.index((taken, "POST")) + 1] = (taken, "DELETE")
            async with bench.through(marker).client() as client:
                await client.post("/widgets", content=WIDGET, headers=lines)
            headers = (await bench.collected.one_of(marker)).request.headers
            assert headers["x-method-override"] == "DELETE"

    @pytest.mark.parametrize("asked", ["post", ""])
    async def test_an_override_that_asks_for_no_other_method_is_none(self, bench: Bench, asked: str) -> None:
        marker = f"same-{len(asked)}"
        async with bench.through(marker).client() as client:
            await client.post("/widgets", content=WIDGET, headers={"x-http-method-override": asked})
        assert "x-http-method-override" not in (await bench.collected.one_of(marker)).request.headers

    async def test_another_spelling_is_not_taken_for_a_header(self, bench: Bench) -> None:
        """A proxy before HAProxy appends to x-forwarded-for, and passes on what a client sends under other names."""
        others = ["x_forwarded-for", "x-forwarded_for", "x_forwarded_for"]
        headers = [("x-forwarded-for", "192.0.2.1"), *((name, "203.0.113.9") for name in others)]
        headers += [("content-type", "application/json"), ("content_type", "text/plain")]
        async with bench.through("respelled").client() as client:
            await client.post("/widgets", content=WIDGET, headers=headers)
        capture = await bench.collected.one_of("respelled")
        assert capture.request.headers["x-forwarded-for"] == "192.0.2.1"
        assert capture.request.headers["content-type"] == "application/json"

    async def test_headers_that_are_copied_cannot_push_one_another_out(self, bench: Bench) -> None:
        repeated = [
            ("x-forwarded-for", "192.0.2.1," * 400),
            ("user-agent", "a" * 9_000),
            ("cf-ray", "b" * 9_000),
        ] * 2
        headers = [*repeated, ("x_http_method_override", "PUT"), ("content-type", "application/json")]
        async with bench.through("crowded").client() as client:
            await client.post("/echo", content=b"1" * 16_000, headers=headers)
        capture = await bench.collected.one_of("crowded")
        assert capture.request.headers["x-http-method-override"] == "PUT"
        assert body_bytes(capture.response) == b"1" * 16_000

    @pytest.mark.parametrize(
        "query", ['"' * 9_000, "a=1&b=" + "x" * 20_000, "%00" * 9_000], ids=["quotes", "long", "encoded"]
    )
    async def test_a_query_that_is_too_long_costs_the_bodies(self, bench: Bench, query: str) -> None:
        """What is cut off may ask for another method."""
        marker = f"query-{len(query)}"
        async with bench.through(marker).client() as client:
            await client.post(f"/widgets?{query}", content=WIDGET)
        url = (await bench.collected.one_of(marker)).request.url
        assert url.endswith("/widgets/.")

    async def test_a_path_that_is_too_long_matches_nothing_as_it_is_written(self, bench: Bench) -> None:
        async with bench.through("long-path").client() as client:
            await client.post("/widgets/" + "x" * 20_000, content=WIDGET)
        url = (await bench.collected.one_of("long-path")).request.url
        assert "/widgets/xxx" in url
        assert url.endswith("/.")


class TestHaproxyReceiverFaults(ReceiverFaultContract):
    gateway = HaproxyGateway(receives=False, ring_bytes=1_000_000)

    async def test_what_the_ring_cannot_hold_is_a_gap(self, receiver_faults: FaultBench) -> None:
        sent = await self.exceed_what_the_gateway_keeps(receiver_faults, b"x" * 15_000)
        await self.all_are_accounted_for(receiver_faults, sent)

    async def test_haproxy_waits_for_its_receiver_without_taking_a_core(
        self, receiver_faults: FaultBench
    ) -> None:
        faults = receiver_faults
        await faults.kill_collector()
        before_s = faults.running.cpu_s()
        sent = await faults.send("waiting", 100, b"{}")
        # Time without anything to do, of which a process that tries again and again takes all it gets.
        await asyncio.sleep(_AWAY_S)
        assert faults.running.cpu_s() - before_s < _AWAY_S / 5
        await faults.start_collector()
        sent |= await self._send_until_one_arrives(faults)
        await self.all_are_accounted_for(faults, sent)
