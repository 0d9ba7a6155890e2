"""Receivers of a collector, as its settings name them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from auditap.runtime.receivers import Receivers
from auditap.settings import load_settings
from schemas.errors import StartupError
from tests.settings_mistakes import mistake


def receiver(**changes: object) -> dict[str, object]:
    return {"format": "haproxy", "socket": Path("/run/a.sock"), "tap_id": "edge", **changes}


@pytest.mark.parametrize(
    ("receivers", "sentence"),
    [
        ([receiver(format="f5")], "collector.receivers.0.format"),
        ([receiver(tap_id="-edge")], "write 1 to 64 letters"),
        ([receiver(tap_id="e" * 65)], "write 1 to 64 letters"),
        ([receiver(), receiver(tap_id="other")], "give each receiver a socket or file of its own"),
        ([receiver(), receiver(socket=Path("/run/b.sock"))], "give each receiver a tap_id of its own"),
        ([{"format": "haproxy", "tap_id": "edge"}], "with format haproxy, write socket and not file"),
        ([receiver(format="caddy")], "with format caddy, write file and not socket"),
        ([receiver(file=Path("/run/a.log"))], "with format haproxy, write socket and not file"),
    ],
)
def test_wrong_receivers_end_the_start_with_one_sentence(receivers: list[object], sentence: str) -> None:
    said = mistake(collector={"receivers": receivers})
    assert sentence in said
    assert len(said.splitlines()) == 1


async def test_a_receiver_that_fails_ends_the_others(tmp_path: Path) -> None:
    fine, taken = tmp_path / "a.sock", tmp_path / "b.sock"
    taken.mkdir()
    receivers = [receiver(socket=fine), receiver(format="envoy", socket=taken, tap_id="other")]
    settings = load_settings(data_dir=tmp_path, collector={"receivers": receivers})
    with pytest.raises(StartupError, match=r"b\.sock") as failure:
        await Receivers(settings, settings.collector.receivers).run()
    assert "\n" not in str(failure.value)
    # None of them goes on without its tap.
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not fine.exists()
