from __future__ import annotations

from auditap_tap import TapStats
from tests.unit.auditap_tap.apps import echo, one_route
from tests.unit.auditap_tap.tapped import Collector, Wrap, client_of, eventually, held_bytes


async def test_a_full_buffer_drops_counts_and_reports(collector: Collector, wrap: Wrap) -> None:
    collector.sink.gate.clear()
    tap = wrap(one_route(echo), queue_bytes_max=20_000)
    async with client_of(tap) as client:
        for _ in range(30):
            assert len((await client.post("/", content=b"x" * 900)).content) == 900
        dropped = tap.stats.dropped
        assert 0 < dropped < 30
        collector.sink.gate.set()
        await eventually(lambda: collector.drops_reported == dropped)
        await client.get("/")
        await eventually(lambda: tap.stats.accepted == 31 - dropped)
    assert collector.drops_reported == dropped
    assert tap.stats == TapStats(captured=31, accepted=31 - dropped, dropped=dropped)
    await eventually(lambda: held_bytes(tap) == 0)
    seqs = [capture.tap.seq for capture in collector.captures if capture.tap]
    assert len(set(seqs)) == len(seqs) == 31 - dropped
