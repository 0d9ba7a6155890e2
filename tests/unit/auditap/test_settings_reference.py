from __future__ import annotations

from pathlib import Path

from auditap.settings_reference import markdown, settings_reference

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_of_the_documentation_is_the_programs_own() -> None:
    assert PAGE.read_text() == markdown(settings_reference()), (
        "auditap settings --markdown > docs/settings.md"
    )


def test_settings_of_every_depth_are_listed_with_their_meaning() -> None:
    entries = {entry.name: entry for entry in settings_reference()}
    depth = entries["redaction.limits.depth_max"]
    assert (depth.variable, depth.default) == ("AUDITAP_REDACTION__LIMITS__DEPTH_MAX", "64")
    assert "too_deep" in depth.meaning
    assert entries["enrich.look_ups[].url"].variable == ""
    assert entries["collector.address.port"].default == "8400"
