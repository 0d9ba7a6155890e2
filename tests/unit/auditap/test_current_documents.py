from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from auditap.current_documents import CurrentDocuments
from redactor.config import DocumentConfig, RedactionConfig
from schemas.errors import StartupError
from schemas.metric_defs import Metrics
from tests.unit.redactor.pairs import MARKED, TEXT, a_document, a_pair, an_object, an_operation, event_of


def written(path: Path, **properties: Any) -> None:
    text = json.dumps(a_document({"/things": {"post": an_operation(an_object(**properties))}}))
    replaced(path, text)


def replaced(path: Path, text: str) -> None:
    """Write a file as careful people do: beside the old one, then in its place."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def count(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"auditap_documents_{name}_total")


class Documents:
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path = folder / "d.json"
        written(self.path, a=MARKED, b=TEXT)
        self.metrics = Metrics()
        config = RedactionConfig(documents=(DocumentConfig(self.path),), **settings)
        self.current = CurrentDocuments(config, self.metrics)

    def kept(self) -> Any:
        body = {"a": "1", "b": "2"}
        recorded = event_of(self.current.redactor, a_pair(body=body)).resource.request
        return json.loads(bytes(recorded)) if recorded else None

    async def look(self, times: int = 2) -> None:
        for _ in range(times):
            await self.current.look()


async def test_a_changed_document_is_taken_up(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    before = documents.current.redactor
    written(documents.path, a=TEXT, b=MARKED)
    await documents.look()
    assert documents.kept() == {"b": "2"}
    assert documents.current.redactor.documents[0].digest != before.documents[0].digest
    assert count(documents.metrics, "reloaded") == 1
    assert not documents.current.stale


async def test_one_that_is_still_being_written_is_not_read_yet(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    for size in (1, 2, 3):
        documents.path.write_text(json.dumps(a_document({}))[: size * 10])
        await documents.look(1)
    assert documents.kept() == {"a": "1"}
    assert count(documents.metrics, "refused") == 0


@pytest.mark.parametrize("broken", ["{", "[]", '{"openapi": "2.0"}', "", None])
async def test_a_broken_document_leaves_the_old_one_running_and_says_so(
    tmp_path: Path, broken: str | None
) -> None:
    documents = Documents(tmp_path)
    digest = documents.current.redactor.documents[0].digest
    if broken is None:
        documents.path.unlink()
    else:
        replaced(documents.path, broken)
    with capture_logs() as logs:
        await documents.look(4)
    assert documents.kept() == {"a": "1"}
    assert count(documents.metrics, "refused") == 1
    assert documents.current.stale
    assert [(each["event"], each["still"]) for each in logs] == [("documents_not_reloaded", [digest])]
    assert str(documents.path) in logs[0]["reason"]
    written(documents.path, a=TEXT, b=MARKED)
    await documents.look()
    assert documents.kept() == {"b": "2"}
    assert not documents.current.stale


async def test_one_whose_loading_fails_otherwise_is_broken_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = Documents(tmp_path)
    monkeypatch.setattr(documents.current, "_load", lambda: 1 // 0)
    written(documents.path, a=TEXT, b=MARKED)
    await documents.look()
    assert documents.kept() == {"a": "1"}
    assert documents.current.stale


async def test_the_same_text_again_is_no_change(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    before = documents.current.redactor
    written(documents.path, a=MARKED, b=TEXT)
    await documents.look(3)
    assert documents.current.redactor is before
    assert count(documents.metrics, "reloaded") == 0


async def test_one_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = Documents(tmp_path)
    load = documents.current._load

    def load_late() -> Any:
        found = load()
        monkeypatch.setattr(documents.current, "_load", load)
        written(documents.path, a=TEXT, b=MARKED)
        return found

    monkeypatch.setattr(documents.current, "_load", load_late)
    written(documents.path, a=TEXT, b=TEXT)
    await documents.look()
    assert documents.kept() == {"a": "1"}
    await documents.look()
    assert documents.kept() == {"b": "2"}


async def test_one_without_an_operation_that_a_setting_names_is_not_taken_up(tmp_path: Path) -> None:
    documents = Documents(tmp_path, excluded_operations=frozenset({"op"}))
    replaced(documents.path, json.dumps(a_document({})))
    await documents.look()
    assert documents.current.stale


async def test_looking_goes_on_by_itself_unless_the_interval_is_0(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    written(documents.path, a=TEXT, b=MARKED)
    await documents.current.watch(0)
    watching = asyncio.create_task(documents.current.watch(1))
    while documents.kept() != {"b": "2"}:
        await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"excluded_operations": {"op", "gone"}},
            "excluded_operations names gone, which is not an operation",
        ),
        ({"get_responses_kept": {"gone"}}, "get_responses_kept names gone, which is not the id of a GET"),
        ({"get_responses_kept": {"op"}}, "get_responses_kept names op, which is not the id of a GET"),
    ],
)
def test_a_setting_that_names_no_operation_ends_the_start(
    tmp_path: Path, settings: dict[str, set[str]], sentence: str
) -> None:
    with pytest.raises(StartupError, match=sentence) as caught:
        Documents(tmp_path, **{name: frozenset(each) for name, each in settings.items()})
    assert str(caught.value).count("\n") == 0
