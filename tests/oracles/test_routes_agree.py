"""Routes agree with openapi-core's path finder on every operation of both real documents.

It is used with validation off, which refuses both documents for their `4xx` keys.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from jsonschema_path import SchemaPath
from openapi_core.templating.paths.exceptions import PathError
from openapi_core.templating.paths.finders import APICallPathFinder

from redactor.config import DocumentConfig
from redactor.decode.url import split_path, split_url
from redactor.openapi.document import load_document
from redactor.openapi.operations import Operation, operations_of
from redactor.openapi.routes import Routes
from tests.canary.test_canary_redactor import FUZZING, real

SERVER = "https://api.cloudflare.com/client/v4"

# Where openapi-core answers otherwise, by document. Each has its reason.
TWINS = "it takes the first of two templates of one shape; here both apply"
DOUBLED = "it does not find a template that has one variable twice where the two have different values"
KNOWN: dict[str, dict[str, str]] = {
    "cloudflare-auditable": {
        "PUT /accounts/{account_id}/addressing/address_maps/{address_map_id}/accounts/{account_id}": DOUBLED,
        "DELETE /accounts/{account_id}/addressing/address_maps/{address_map_id}/accounts/{account_id}": DOUBLED,
    },
    "cloudflare-2024": {
        "PUT /accounts/{account_id}/addressing/address_maps/{address_map_id}/accounts/{account_id}": DOUBLED,
        "DELETE /accounts/{account_id}/addressing/address_maps/{address_map_id}/accounts/{account_id}": DOUBLED,
        "GET /zones/{zone_identifier}/logs/control/retention/flag": TWINS,
        "POST /zones/{zone_identifier}/logs/control/retention/flag": TWINS,
        "GET /zones/{zone_id}/logs/control/retention/flag": TWINS,
        "POST /zones/{zone_id}/logs/control/retention/flag": TWINS,
    },
}


class Both(NamedTuple):
    """The results for one request: the templates of all that apply, and the one that is found."""

    ours: frozenset[str]
    theirs: str


class Judges:
    """The route table and the path finder of one document."""

    def __init__(self, folder: Path, name: str) -> None:
        document = load_document(DocumentConfig(folder / f"{name}.openapi.json"))
        self.operations = operations_of(document)
        self._routes = Routes([document], trailing_slash_allowed=False)
        self._finder = APICallPathFinder(SchemaPath.from_dict(real(folder, name)))

    def judge(self, method: str, path: str) -> Both:
        url = split_url(SERVER + path)
        match = self._routes.match(url, None, method, split_path(url.path))
        ours = frozenset(route.operation.template for route in match.routes)
        try:
            theirs = str(self._finder.find(method.lower(), SERVER + path).path_result.pattern)
        except (PathError, re.error) as failure:
            theirs = type(failure).__name__
        return Both(ours, theirs)


def with_values(template: str) -> str:
    """Return a path of the template whose variables all have values of their own."""
    values = count()
    return re.sub(r"\{[^{}]+\}", lambda _: f"0value{next(values)}", template)


def colliding_paths(operations: list[Operation], seed: int) -> Iterator[tuple[Operation, str]]:
    """Yield paths of operations whose variables take a value that another template has as a literal at that place."""
    literals: dict[tuple[str, int, int], set[str]] = defaultdict(set)
    for each in operations:
        parts = each.template.split("/")
        for index, part in enumerate(parts):
            if "{" not in part:
                literals[each.method, len(parts), index].add(part)
    rng = random.Random(seed)
    for each in operations:
        parts = each.template.split("/")
        found = [sorted(literals[each.method, len(parts), index]) for index in range(len(parts))]
        for index, part in enumerate(parts):
            if re.fullmatch(r"\{[^{}]+\}", part) and found[index]:
                written = with_values(each.template).split("/")
                written[index] = rng.choice(found[index])
                yield each, "/".join(written)


def asked_about(operations: list[Operation], name: str) -> list[Operation]:
    """Return all operations in the long runs, else some, and those where the two are known to differ."""
    if FUZZING:
        return operations
    known = [each for each in operations if f"{each.method} {each.template}" in KNOWN[name]]
    return known + random.Random(3).sample([each for each in operations if each not in known], 500)


@pytest.mark.parametrize("name", KNOWN)
def test_every_operation_is_the_one_that_openapi_core_finds(real_specs: Path, name: str) -> None:
    judges = Judges(real_specs, name)
    differing = {}
    for operation in asked_about(judges.operations, name):
        both = judges.judge(operation.method, with_values(operation.template))
        assert operation.template in both.ours
        if both.ours != {both.theirs}:
            differing[f"{operation.method} {operation.template}"] = both
    assert differing.keys() == KNOWN[name].keys(), differing


@pytest.mark.parametrize("name", KNOWN)
def test_where_templates_collide_the_operation_that_openapi_core_finds_applies(
    real_specs: Path, name: str
) -> None:
    judges = Judges(real_specs, name)
    paths = list(colliding_paths(judges.operations, seed=1))
    differing = {}
    for operation, path in random.Random(2).sample(paths, 400):
        both = judges.judge(operation.method, path)
        is_known = KNOWN[name].get(f"{operation.method} {operation.template}") == DOUBLED
        if both.theirs not in both.ours and not is_known:
            differing[f"{operation.method} {path}"] = both
    assert differing == {}
