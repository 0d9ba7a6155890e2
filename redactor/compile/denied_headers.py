"""Which headers of a pair the document denies: those that it declares and denies, by header, parameter or response (rule 5).

Only headers that the configuration reads can be recorded at all, so nothing is compiled for others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from redactor.compile.compiler import Compiler
from redactor.compile.json_types import SCALAR_TYPES
from redactor.compile.parameters import declared_parameters
from redactor.openapi.document import Place
from redactor.openapi.marks import is_denied, may_deny
from redactor.openapi.operations import Operation


class DeniedHeaders(NamedTuple):
    """The names of headers that may not be recorded although they are configured, in lower case."""

    of_request: frozenset[str] = frozenset()
    of_response: frozenset[str] = frozenset()

    def combined_with(self, other: DeniedHeaders) -> DeniedHeaders:
        """Return what either of two operations denies."""
        return DeniedHeaders(self.of_request | other.of_request, self.of_response | other.of_response)


NO_HEADERS: Final = DeniedHeaders()


def denied_request_headers(operation: Operation, compiler: Compiler, read: Collection[str]) -> frozenset[str]:
    """Return the headers among those that are `read` that a parameter of the operation denies."""
    if not any(name in read for name in _header_parameters(operation)):
        return frozenset()
    parameters = declared_parameters(operation, compiler).by_key.values()
    denied = (
        each.name.lower()
        for each in parameters
        if each.location == "header" and (each.denied or operation.path_denied)
    )
    return frozenset(denied) & frozenset(read)


def _header_parameters(operation: Operation) -> Iterator[str]:
    """Yield the names of the header parameters that path item and operation list, in lower case."""
    for level in (*operation.path_items, operation.place):
        listed = level.child("parameters")
        for index in range(len(listed.node) if isinstance(listed.node, list) else 0):
            chain = operation.document.follow(listed.child(index))
            node = chain[-1].node if chain else {}
            if node.get("in") == "header":
                yield str(node.get("name")).lower()


def denied_response_headers(
    operation: Operation, response: Place, compiler: Compiler, read: Collection[str]
) -> frozenset[str]:
    """Return the headers among those that are `read` that a response declares and denies."""
    document = operation.document
    if not isinstance(response.node, dict):
        return frozenset()
    chain = document.follow(response)
    listed = chain[-1].child("headers") if chain else Place(None, "")
    if not isinstance(listed.node, dict):
        return frozenset()
    all_denied = operation.path_denied or any(is_denied(each.node) for each in (*chain, listed))
    return frozenset(
        name.lower()
        for name in map(str, listed.node)
        if name.lower() in read and (all_denied or _is_denied(operation, listed.child(name), compiler))
    )


def _is_denied(operation: Operation, header: Place, compiler: Compiler) -> bool:
    document = operation.document
    chain = document.follow(header)
    if not chain or any(is_denied(each.node) for each in chain):
        return True
    schema = chain[-1].child("schema")
    if may_deny(document, chain[-1].node.get("content")):
        return True
    if schema.node is None:
        return False
    applicable = compiler.applicable_schemas(schema)
    is_scalar = applicable.types is not None and applicable.types <= SCALAR_TYPES
    # A header is recorded as a whole, so what is denied in a part of it denies all of it.
    return applicable.denied or (not is_scalar and may_deny(document, schema.node))
