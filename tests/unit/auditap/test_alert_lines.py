"""Alerts on a terminal: a line each, and never more than fit."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from auditap.runtime.alert_lines import AlertLines


def alert(number: int, **actor: Any) -> dict[str, Any]:
    return {"id": f"{number:032x}", "severity": "high", "title": "Something", "record": {"actor": actor}}


def test_a_flood_is_counted_and_not_shown() -> None:
    shown: list[Text] = []
    now_s = 0.0
    lines = AlertLines(shown.append, 3, lambda: now_s)
    for number in range(10):
        lines.add(alert(number, email="ana@example.com"))
    texts = [line.plain for line in shown]
    assert texts[0] == f"ALERT high: Something (ana@example.com) {0:032x}"
    assert len(texts) == 4
    assert "auditap alerts list" in texts[3]
    now_s = 60.0
    lines.add(alert(10))
    assert shown[4].plain.startswith("7 alerts were not shown")
    assert shown[5].plain.endswith(f"(unknown) {10:032x}")
    assert len(shown) == 6


def test_what_an_actor_is_called_moves_no_cursor() -> None:
    shown: list[Text] = []
    AlertLines(shown.append, 1, lambda: 0.0).add(alert(1, id="a\x1b[2J\nb"))
    assert "\x1b" not in shown[0].plain
    assert "\n" not in shown[0].plain


def test_none_may_be_shown() -> None:
    shown: list[Text] = []
    AlertLines(shown.append, 0, lambda: 0.0).add(alert(1))
    assert len(shown) == 1
    assert "auditap alerts list" in shown[0].plain
