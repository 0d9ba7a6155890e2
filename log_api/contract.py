"""The contract document, and requests held to it by openapi-core."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, NamedTuple, cast

import yaml
from cachetools import LRUCache
from jsonschema_path import SchemaPath
from openapi_core import V31RequestValidator
from openapi_core.datatypes import Parameters, RequestParameters
from openapi_core.validation.request.exceptions import (
    MissingRequiredParameter,
    ParameterValidationError,
    SecurityValidationError,
)
from starlette.datastructures import Headers, ImmutableMultiDict

from log_api.config import LogApiConfig
from log_api.failures import ApiFailure, bad_parameter, failed, not_found, unauthenticated

QueryPairs = Sequence[tuple[str, str]]

_ACCEPTED_MAX = 4_096
_ACCEPTED_CHARACTERS_MAX = 128
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}(\.0*)?", re.ASCII)
_OFFSET_AFTER_SPACE = re.compile(r" (?=\d\d:\d\d$)", re.ASCII)


class Operation(NamedTuple):
    """One route of the document. `path` is the template below the prefix, `permission` what its token must have.

    `public`: it takes no token.
    """

    id: str
    method: str
    path: str
    permission: str | None = None
    public: bool = False


class _Parameter(NamedTuple):
    name: str
    location: str
    required: bool
    schema: Mapping[str, Any]

    @property
    def allowed(self) -> str:
        """What the document says is allowed."""
        return str(self.schema["x-allowed"])

    @property
    def repeatable(self) -> bool:
        return self.schema.get("type") == "array"


class _DocumentRequest:
    """A request whose route is known, as openapi-core wants to see it. It has no body."""

    body = None
    content_type = ""
    host_url = ""

    def __init__(
        self, method: str, path: str, path_values: Mapping[str, str], query: QueryPairs, headers: Headers
    ) -> None:
        self.method = method
        self.path = path
        self.parameters = RequestParameters(query=ImmutableMultiDict(query), header=headers, path=path_values)


class _PresentParametersValidator(V31RequestValidator):
    """Looks only at parameters that are there or must be, and at the same value once.

    An absent one costs openapi-core 0.3 ms, a present one 1 ms, and clients ask for the same account and range again.
    """

    @cached_property
    def _declared(self) -> Mapping[str, Sequence[tuple[str, str, bool, SchemaPath]]]:
        return {
            (operation / "operationId").read_str(): [
                (one["name"], one["in"], one.get("required", False), one)
                for one in operation.get("parameters", None) or ()
            ]
            for _, methods in (self.spec / "paths").str_items()
            for _, operation in methods.str_items()
        }

    @cached_property
    def _accepted(self) -> LRUCache[_Given, bool]:
        return LRUCache(_ACCEPTED_MAX)

    def _get_parameters(
        self, parameters: RequestParameters, operation: SchemaPath, path: SchemaPath
    ) -> Parameters:
        operation_id = (operation / "operationId").read_str()
        relevant: list[SchemaPath] = []
        fresh: list[_Given] = []
        for name, location, required, one in self._declared[operation_id]:
            given = _Given(operation_id, location, name, _values(parameters, location, name))
            if given.values and given in self._accepted:
                continue
            if required or given.values:
                relevant.append(one)
                if sum(map(len, given.values)) <= _ACCEPTED_CHARACTERS_MAX:
                    fresh.append(given)
        # Of the operation, openapi-core asks for its parameters alone.
        narrowed = cast("SchemaPath", {"parameters": relevant})
        found = super()._get_parameters(parameters, narrowed, path)
        # It raises where one of them does not fit.
        for given in fresh:
            if given.values:
                self._accepted[given] = True
        return found


class _Given(NamedTuple):
    """A parameter of an operation with all its values, as text."""

    operation_id: str
    location: str
    name: str
    values: tuple[str, ...]


def _values(parameters: RequestParameters, location: str, name: str) -> tuple[str, ...]:
    given = parameters[location]
    if name not in given:
        return ()
    if isinstance(given, ImmutableMultiDict):
        return tuple(given.getlist(name))
    return (str(given[name]),)


class CheckedRequest(NamedTuple):
    """What the document says of a request; `query` holds known names in their one spelling."""

    query: ImmutableMultiDict[str, str]
    faults: Sequence[ApiFailure]

    def require_route(self) -> None:
        """Raise the failure of a path that the document does not know, or of a missing token."""
        for fault in self.faults:
            if fault.status != 400:
                raise fault

    def require_parameters(self) -> None:
        """Raise the failure of the first parameter that does not fit."""
        for fault in self.faults:
            raise fault


class Contract:
    """The document with this API's prefix and limits, and the check of requests against it. Built once."""

    def __init__(self, config: LogApiConfig) -> None:
        self.document = contract_document(config)
        self._prefix = config.prefix
        # That the document is a right one is a test's business; checking it at each start takes 0.2 s.
        self._validator = _PresentParametersValidator(SchemaPath.from_dict(self.document))
        self.operations = tuple(
            Operation(
                details["operationId"],
                method,
                path,
                details.get("x-permission"),
                details.get("security") == [],
            )
            for path, methods in self.document["paths"].items()
            for method, details in methods.items()
        )
        self._parameters = {
            operation.id: {(one.name, one.location): one for one in self._declared(operation)}
            for operation in self.operations
        }
        self._spellings = {
            operation.id: dict(_spellings(self._parameters[operation.id].values()))
            for operation in self.operations
        }

    def bad_query(self, operation: Operation, name: str) -> ApiFailure:
        """Return the failure of a query parameter that fits the document and still cannot be used."""
        return bad_parameter(name, self._parameters[operation.id][name, "query"].allowed)

    def check(
        self, operation: Operation, path_values: Mapping[str, str], query: QueryPairs, headers: Headers
    ) -> CheckedRequest:
        """Return the request's parameters and every fault of it. Never raises because of what was sent."""
        known, faults = self._respell(operation, query)
        if not all(value.isascii() and value.isprintable() for value in path_values.values()):
            # A pattern's end would let a line end pass.
            faults.insert(0, not_found())
        request = _DocumentRequest(
            operation.method, self._prefix + operation.path, path_values, known, headers
        )
        faults += [self._fault(operation, error) for error in self._validator.iter_errors(request)]
        return CheckedRequest(ImmutableMultiDict(known), faults)

    def _declared(self, operation: Operation) -> Iterator[_Parameter]:
        for stated in self.document["paths"][operation.path][operation.method].get("parameters", ()):
            parameter = self._meant(stated)
            required = parameter.get("required", False)
            yield _Parameter(parameter["name"], parameter["in"], required, self._meant(parameter["schema"]))

    def _meant(self, stated: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a reference into the components leads to, and anything else as it is."""
        if "$ref" not in stated:
            return stated
        _, _, kind, name = stated["$ref"].split("/")
        found: Mapping[str, Any] = self.document["components"][kind][name]
        return found

    def _respell(
        self, operation: Operation, query: QueryPairs
    ) -> tuple[list[tuple[str, str]], list[ApiFailure]]:
        """Return the query with each known parameter under its one name, and the faults of spelling.

        Names that are no parameter's are passed over, as clients expect; a known one in a spelling that is not
        known would change the answer without a word, and is a fault.
        """
        spellings = self._spellings[operation.id]
        known: list[tuple[str, str]] = []
        faults: list[ApiFailure] = []
        for sent, value in query:
            parameter = spellings.get(sent)
            if parameter is None:
                base = re.split(r"[.\[]", sent, maxsplit=1)[0]
                if base in spellings:
                    faults.append(bad_parameter(base, "may be spelled as the documentation says"))
            elif not parameter.repeatable and any(parameter.name == name for name, _ in known):
                faults.append(bad_parameter(parameter.name, "may be given once"))
            elif (plain := _plain(parameter, value)) is None:
                faults.append(bad_parameter(parameter.name, parameter.allowed))
            elif plain:
                known.append((parameter.name, plain))
        return known, faults

    def _fault(self, operation: Operation, error: Exception) -> ApiFailure:
        if isinstance(error, SecurityValidationError):
            return unauthenticated()
        if not isinstance(error, ParameterValidationError):
            return failed()
        if error.location == "path":
            return not_found()
        allowed = self._parameters[operation.id][error.name, error.location].allowed
        required = isinstance(error, MissingRequiredParameter)
        return bad_parameter(error.name, f"is required, {allowed}" if required else allowed)


def contract_document(config: LogApiConfig) -> dict[str, Any]:
    """Return the document as this API keeps it: with its prefix and the size of its pages."""
    document = deepcopy(_shipped_document())
    document["servers"] = [{"url": config.prefix or "/"}]
    for name in ("PageLimit", "AccessLimit"):
        limit = document["components"]["schemas"][name]
        limit["maximum"] = config.page_records_max
        limit["default"] = min(limit["default"], config.page_records_max)
        limit["x-allowed"] = f"a whole number from 1 to {config.page_records_max}"
    return document


@cache
def _shipped_document() -> dict[str, Any]:
    text = files("schemas").joinpath("log_api.openapi.yaml").read_text("utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def _spellings(parameters: Iterable[_Parameter]) -> Iterator[tuple[str, _Parameter]]:
    for parameter in parameters:
        if parameter.location != "query":
            continue
        yield parameter.name, parameter
        if parameter.repeatable:
            yield f"{parameter.name}[]", parameter
            base, negated, _ = parameter.name.partition(".not")
            if negated:
                yield f"{base}[not]", parameter


def _plain(parameter: _Parameter, value: str) -> str | None:
    """Return a value without what clients do to it on the way, "" to leave it out, None where it cannot be right."""
    if parameter.schema.get("type") == "number":
        return value if _WHOLE_NUMBER.fullmatch(value) else None
    if "anyOf" in parameter.schema:
        # A plus sign that was not escaped arrives as a space.
        return _OFFSET_AFTER_SPACE.sub("+", value)
    if parameter.repeatable:
        return value or None
    return value
