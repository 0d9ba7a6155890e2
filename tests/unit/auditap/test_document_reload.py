from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from auditap.runtime.document_reload import DocumentReloader
from redactor.compile.compiler import Compiler
from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import OpenApiDocument
from schemas.capture import Headers
from schemas.errors import StartupError
from schemas.metric_defs import Metrics
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.pairs import a_pair, event_of
from tests.unit.redactor.schemas import MARKED, TEXT, Node, an_object


def written(path: Path, **properties: Any) -> None:
    text = json.dumps(a_document({"/things": {"post": an_operation(an_object(**properties))}}))
    replaced(path, text)


def replaced(path: Path, text: str) -> None:
    """Write a file as careful people do: beside the old one, then in its place."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def count(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"auditap_openapi_documents_{name}_total")


class Documents:
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path = folder / "d.json"
        written(self.path, a=MARKED, b=TEXT)
        self.metrics = Metrics()
        config = RedactionConfig(documents=(DocumentConfig(self.path),), **settings)
        self.current = DocumentReloader(config, self.metrics)

    def kept(self) -> Any:
        body = {"a": "1", "b": "2"}
        recorded = event_of(self.current.redactor, a_pair(body=body)).resource.request
        return json.loads(bytes(recorded)) if recorded else None

    async def check(self, times: int = 2) -> None:
        for _ in range(times):
            await self.current.check()


async def test_a_changed_document_is_taken_up(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    before = documents.current.redactor
    written(documents.path, a=TEXT, b=MARKED)
    await documents.check()
    assert documents.kept() == {"b": "2"}
    assert documents.current.redactor.documents[0].digest != before.documents[0].digest
    assert count(documents.metrics, "reloaded") == 1
    assert not documents.current.stale


async def test_one_that_is_still_being_written_is_not_read_yet(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    for size in (1, 2, 3):
        documents.path.write_text(json.dumps(a_document({}))[: size * 10])
        await documents.check(1)
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
        await documents.check(4)
    assert documents.kept() == {"a": "1"}
    assert count(documents.metrics, "refused") == 1
    assert documents.current.stale
    assert [(each["event"], each["still"]) for each in logs] == [("documents_not_reloaded", [digest])]
    assert str(documents.path) in logs[0]["reason"]
    written(documents.path, a=TEXT, b=MARKED)
    await documents.check()
    assert documents.kept() == {"b": "2"}
    assert not documents.current.stale


async def test_one_whose_loading_fails_otherwise_is_broken_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = Documents(tmp_path)
    monkeypatch.setattr(documents.current, "_load", lambda: 1 // 0)
    written(documents.path, a=TEXT, b=MARKED)
    await documents.check()
    assert documents.kept() == {"a": "1"}
    assert documents.current.stale


async def test_the_same_text_again_is_no_change(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    before = documents.current.redactor
    written(documents.path, a=MARKED, b=TEXT)
    await documents.check(3)
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
    await documents.check()
    assert documents.kept() == {"a": "1"}
    await documents.check()
    assert documents.kept() == {"b": "2"}


async def test_one_without_an_operation_that_a_setting_names_is_not_taken_up(tmp_path: Path) -> None:
    documents = Documents(tmp_path, excluded_operations=frozenset({"op"}))
    replaced(documents.path, json.dumps(a_document({})))
    await documents.check()
    assert documents.current.stale


async def test_looking_goes_on_by_itself(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    written(documents.path, a=TEXT, b=MARKED)
    watching = asyncio.create_task(documents.current.run(1))
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
        (
            {"path_parameters_kept": {"gone"}},
            "path_parameters_kept names gone, which is not a path parameter",
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


async def test_a_reloaded_document_is_compiled_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = Documents(tmp_path)
    written(documents.path, a=TEXT, b=MARKED)
    await documents.check()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("compiled while a pair waits")

    monkeypatch.setattr(Compiler, "compile", fail)
    assert documents.kept() == {"b": "2"}


def test_loading_leaves_the_interpreter_as_it_was(tmp_path: Path) -> None:
    before = sys.getswitchinterval(), gc.isenabled()
    Documents(tmp_path)
    assert (sys.getswitchinterval(), gc.isenabled()) == before


def test_a_document_is_searched_for_misspelt_marks_in_short_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intervals: list[float] = []

    def observed(document: OpenApiDocument) -> Iterator[tuple[str, str]]:
        intervals.append(sys.getswitchinterval())
        yield from ()

    monkeypatch.setattr("auditap.runtime.document_reload.misspelt_keywords", observed)
    Documents(tmp_path)
    assert [each < sys.getswitchinterval() for each in intervals] == [True]


def test_what_matches_nothing_as_written_and_what_is_refused_are_counted(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    sent: list[tuple[str, Headers]] = [
        ("/things", {}),
        ("//things", {"x-actor-id": "a\nb"}),
        ("/things?_method=DELETE", {"x-actor-id": ["a", "b"], "x-account-id": "x" * 300}),
        ("/nothing", {}),
    ]
    for url, headers in sent:
        event_of(documents.current.redactor, a_pair(url=url, response_headers=headers))
    unmatched, refused = documents.metrics.captures_unmatched, documents.metrics.identifiers_refused
    assert samples(unmatched) == {
        ("true", "invalid_path"): 1,
        ("true", "method_override"): 1,
        ("false", "no_path"): 1,
    }
    assert samples(refused) == {("actor.id",): 2, ("account.id",): 1}


def test_captures_without_an_account_are_counted_and_logged_at_once(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    operation = an_operation(an_object(a=MARKED))
    owned = ("/accounts/{account_id}/things", "/zones/{zone_id}/things")
    path.write_text(json.dumps(a_document({each: {"post": operation} for each in ("/things", *owned)})))
    metrics = Metrics()
    redactor = DocumentReloader(RedactionConfig(documents=(DocumentConfig(path),)), metrics).redactor
    sent: list[tuple[str, Headers]] = [
        ("/accounts/a/things", {}),
        ("/zones/z/things", {}),
        ("/things", {"x-account-id": "a"}),
        ("/nothing", {}),
        ("/things", {}),
        ("/things", {"x-account-id": "a\nb"}),
    ]
    with capture_logs() as logs:
        for url, headers in sent:
            event_of(redactor, a_pair(url=url, response_headers=headers))
    assert samples(metrics.captures_without_account) == {(): 2}
    assert [each["event"] for each in logs] == ["captures_without_account"]


def test_parts_of_a_document_that_are_denied_are_logged_at_start(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    schema = an_object(a={"$ref": "other.yaml#/A"}, b={"$ref": "#/nowhere"}, c={**TEXT, "x-audtable": True})
    path.write_text(json.dumps(a_document({"/things": {"post": an_operation(schema)}})))
    with capture_logs() as logs:
        DocumentReloader(RedactionConfig(documents=(DocumentConfig(path),)), Metrics())
    [logged] = logs
    assert logged["event"] == "document_has_findings"
    assert (logged["findings"], logged["misspelt_marks"], logged["references_to_other_files"]) == (3, 1, 1)
    assert logged["remedy"].startswith("bundle it into one file first")


@pytest.mark.parametrize(
    "document",
    [
        a_document({}),
        a_document({"/things": {"post": an_operation()}}, servers=[{"url": "/{d}{"}]),
    ],
)
def test_a_document_of_which_nothing_can_match_is_logged_at_start(tmp_path: Path, document: Node) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps(document))
    with capture_logs() as logs:
        DocumentReloader(RedactionConfig(documents=(DocumentConfig(path),)), Metrics())
    assert "document_matches_nothing" in {each["event"] for each in logs}
    path.write_text(json.dumps(a_document({"/things": {"post": an_operation()}})))
    with capture_logs() as logs:
        DocumentReloader(RedactionConfig(documents=(DocumentConfig(path),)), Metrics())
    assert logs == []


def samples(counter: Any) -> dict[tuple[str, ...], float]:
    [family] = counter.collect()
    return {
        tuple(value for _, value in sorted(each.labels.items())): each.value
        for each in family.samples
        if each.name.endswith("_total")
    }
