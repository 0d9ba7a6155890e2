"""The documentation is true where a program can check it: links lead somewhere, metrics and settings exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from auditap.database.roles import ROLES
from auditap.settings_reference import settings_reference
from schemas.heartbeat import TapState, decode_heartbeat

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
COMPLETENESS = ROOT / "docs" / "completeness.md"
PACKAGES = {"auditap_tap", "auditap_example"}
METRICS = set(re.findall(r"`(auditap_[a-z_]+)`", (ROOT / "docs" / "metrics.md").read_text()))
# The changelog and decision records keep names as they were.
TODAY = [page for page in PAGES if page.name != "CHANGELOG.md" and page.parent.name not in {"adr", "chaos"}]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", TODAY, ids=named)
def test_metrics_exist(page: Path) -> None:
    written = set(re.findall(r"`(auditap_[a-z_]+)(?:\{[^}]*\})?`", page.read_text()))
    assert {
        name
        for name in written - set(ROLES) - PACKAGES
        if not {name, name.removesuffix("_total"), f"{name}_total"} & METRICS
    } == set()


@pytest.mark.parametrize("page", TODAY, ids=named)
def test_variables_exist(page: Path) -> None:
    written = set(re.findall(r"\bAUDITAP_[A-Z_]+[A-Z]\b", page.read_text()))
    # A list as a whole has a variable too, and an example may stop at a group.
    names = {entry.name.partition("[]")[0].replace(".", "__").upper() for entry in settings_reference()}
    no_settings = {"AUDITAP_CONFIG", "AUDITAP_TOKEN", "AUDITAP_REAL_SPECS", "AUDITAP_CASES"}
    known = {f"AUDITAP_{name}" for name in names} | no_settings
    unknown = {name for name in written - known if not name.startswith("AUDITAP_TEST_")}
    assert {name for name in unknown if not any(each.startswith(f"{name}__") for each in known)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_rows_of_a_table_have_as_many_cells_as_its_head(page: Path) -> None:
    """A bar ends a cell even in code, unless a backslash stands before it."""
    for table in re.findall(r"(?m)(?:^\|.*\n)+", page.read_text()):
        head, *rows = table.splitlines()
        assert [row for row in rows if _cells(row) != _cells(head)] == []


def _cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row)) - 1


def test_the_heartbeats_that_a_reader_may_send_are_accepted() -> None:
    """Posted as they stand, after the shell has put in the times."""
    texts = re.findall(r"(?ms)^curl [^\n]+<<JSON$(.*?)^JSON$", COMPLETENESS.read_text())
    now_ms = 1_800_000_000_000
    timed = [
        re.sub(r"\$\(\(NOW - (\d+)\)\)|\$NOW", lambda found: str(now_ms - int(found[1] or 0)), text)
        for text in texts
    ]
    assert [decode_heartbeat(text.encode()).state for text in timed] == [TapState.ALIVE, TapState.KILLED]


def test_every_state_of_a_tap_is_explained() -> None:
    page = COMPLETENESS.read_text()
    explained = set(
        re.findall(r"(?m)^\| `([a-z]+)` \|", page.partition("| state | meaning |")[2].partition("\n\n")[0])
    )
    assert explained == {*TapState, "silent", "expired", "late"}
