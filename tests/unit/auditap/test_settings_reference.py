from __future__ import annotations

from pathlib import Path

from auditap.settings_reference import alike, markdown, settings_reference, settings_tables

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_of_the_documentation_is_the_programs_own() -> None:
    assert PAGE.read_text() == markdown(settings_tables()), "auditap settings --markdown > docs/settings.md"


def test_settings_of_every_depth_are_listed_with_their_meaning() -> None:
    entries = {entry.name: entry for entry in settings_reference()}
    limit = entries["redaction.limits.body_bytes_max"]
    assert (limit.variable, limit.default) == ("AUDITAP_REDACTION__LIMITS__BODY_BYTES_MAX", "1048576")
    assert "too_large" in limit.description
    assert entries["enrich.http_lookups[].url"].variable == ""
    assert entries["enrich.http_lookups[].url"].default == "required"
    assert entries["api.product_categories.<name>.label"].variable == ""
    assert entries["api.organizations"].default == ""
    assert entries["collector.address.port"].default == "8400"


def test_every_setting_and_every_table_has_a_description() -> None:
    assert [table.name for table in settings_tables() if not table.description.endswith(".")] == []
    assert [entry.name for entry in settings_reference() if not entry.description.endswith(".")] == []


def test_tables_of_the_same_settings_are_shown_once() -> None:
    titles = [[table.name for table in group] for group in alike(settings_tables())]
    assert ["enrich.http_lookups[].cache", "enrich.postgres_lookups[].cache"] in titles
    assert ["api.address"] in titles
    assert "AUDITAP_ALERTING__ADDRESS__TLS__KEY" in PAGE.read_text()


def test_constants_are_not_listed() -> None:
    names = {entry.name for entry in settings_reference()}
    assert "ingest.bounds.batch_events_max" in names
    assert "ingest.bounds.commit_interval_ms" not in names
    assert not any(name.startswith("alerting.limits.") for name in names)
