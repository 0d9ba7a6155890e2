from __future__ import annotations

import pytest

from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.report.reports import CLEAN, report_of


@pytest.mark.parametrize(
    ("code", "paths"),
    [
        ("route_twins", {"/a/{b}": "post", "/a/{c}": "post"}),
        ("route_crosswise", {"/a/{b}/c": "post", "/a/d/{e}": "post"}),
        ("route_method_gap", {"/a/{b}": "delete", "/a/c": "post"}),
        (None, {"/a/{b}": "post", "/a/c": "post"}),
        (None, {"/a/{b}/c": "post", "/a/d/{e}": "put"}),
        (None, {"/a/{b}": "post", "/a/{b}/c": "post"}),
        (None, {"/a/{b}.png": "post", "/a/c.jpg": "post"}),
        ("route_method_gap", {"/a/{b}.png": "post", "/a/c.png": "put"}),
        ("route_twins", {"/a/{b}.{c}": "post", "/a/{b}.png": "post"}),
    ],
)
def test_ambiguous_path_templates_are_reported(code: str | None, paths: dict[str, str]) -> None:
    document = a_document(
        {path: {method: an_operation(CLEAN, operationId=path)} for path, method in paths.items()}
    )
    assert {each.code for each in report_of(document).findings} == ({code} if code else set())
