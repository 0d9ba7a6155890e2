from __future__ import annotations

import re
from pathlib import Path

import pytest

from redactor.config import DocumentConfig, RedactionConfig
from redactor.openapi.document import load_document
from redactor.openapi.operations import Operation, operations_of
from schemas.capture import Capture, CapturedRequest, CapturedResponse
from tests.agreeing import AgreeingRedactor as Redactor
from tests.unit.redactor.pairs import event_of, fail

# Two templates of one shape that differ in their variables' names alone: both apply, by rule.
TWINS = {
    "logs-received-get-log-retention-flag|get-zones-zone_id-logs-control-retention-flag",
    "logs-received-update-log-retention-flag|post-zones-zone_id-logs-control-retention-flag",
}


def a_pair_for(operation: Operation) -> Capture:
    path = re.sub(r"\{[^}]+\}", "value", operation.template)
    json = {"content-type": "application/json"}
    return Capture(
        CapturedRequest(operation.method, "https://api.cloudflare.com/client/v4" + path, dict(json), "{}"),
        CapturedResponse(200, dict(json), '{"result": {}}'),
    )


@pytest.mark.parametrize(
    ("name", "operations", "twins"),
    [("cloudflare-auditable.openapi.json", 2745, set()), ("cloudflare-2024.openapi.json", 1535, TWINS)],
)
def test_every_operation_is_found_by_a_request_to_it(
    real_specs: Path, name: str, operations: int, twins: set[str]
) -> None:
    config = DocumentConfig(real_specs / name, envelope="result")
    document = load_document(config)
    redactor = Redactor([document], RedactionConfig(documents=(config,)), on_failure=fail)
    declared = operations_of(document)
    assert len(declared) == operations
    tied = set()
    for operation in declared:
        found = event_of(redactor, a_pair_for(operation)).receipt.operation
        assert found is not None
        if found != operation.id:
            assert operation.id in found.split("|")
            tied.add(found)
    assert tied == twins
    assert not [finding for finding in document.findings if finding.code == "too_complex"]


@pytest.mark.parametrize(
    "name",
    ["cloudflare-auditable.openapi.json", "cloudflare-2024.openapi.json", "stripe-all-marked.openapi.json"],
)
def test_no_operation_of_these_documents_is_too_complex(real_specs: Path, name: str) -> None:
    redactor = Redactor.from_config(RedactionConfig(documents=(DocumentConfig(real_specs / name),)))
    redactor.prepare()
    codes = {finding.code for document in redactor.documents for finding in document.findings}
    assert "too_complex" not in codes
