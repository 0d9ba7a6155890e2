"""Receivers of a collector, as its settings name them."""

from __future__ import annotations

from pathlib import Path

import pytest

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
