"""The API's OpenAPI document, and the validation of requests against it by openapi-core."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from log_api.errors import ApiError, bad_parameter, internal_error, not_found, unauthenticated
from log_api.sessions import COOKIE, has_session_cookie

QueryPairs = Sequence[tuple[str, str]]

# Clients choose the values: long ones are validated each time, so that the cache stays small.
_VALID_CACHED_MAX = 4_096
_VALID_CACHED_CHARS_MAX = 128
# A name this close to a known one is taken for a misspelling.
_LIKENESS_MIN = 0.8
# Clients send one or two unknown parameters; comparing hundreds with every known name would take seconds.
_UNKNOWN_PARAMETERS_MAX = 16
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}(\.0*)?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_OFFSET_AFTER_SPACE = re.compile(r" (?=\d\d:\d\d$)", re.ASCII)


class Operation(NamedTuple):
    """One operation of the document. `path` is the template below the prefix; a token must have `permission`.

    `public` operations need no token.
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
        """The description of allowed values for error messages."""
        return str(self.schema["x-allowed"])

    @property
    def repeatable(self) -> bool:
        return self.schema.get("type") == "array"


class _DocumentRequest:
    """A request in the form that openapi-core validates. Its route is known and it has no body."""

    body = None
    content_type = ""
    host_url = ""

    def __init__(
        self, method: str, path: str, path_values: Mapping[str, str], query: QueryPairs, headers: Headers
    ) -> None:
        self.method = method
        self.path = path
        self.parameters = RequestParameters(
            query=ImmutableMultiDict(query),
            header=headers,
            # Only whether there is one: authentication reads its value.
            cookie=ImmutableMultiDict([(COOKIE, "")] if has_session_cookie(headers) else []),
            path=path_values,
        )


class _PresentParametersValidator(V31RequestValidator):
    """Validates only present and required parameters, and caches values that were valid.

    An absent parameter costs openapi-core 0.3 ms and a present one 1 ms, and clients repeat accounts and time ranges.
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
    def _valid(self) -> LRUCache[_ParameterValues, bool]:
        return LRUCache(_VALID_CACHED_MAX)

    def _get_parameters(
        self, parameters: RequestParameters, operation: SchemaPath, path: SchemaPath
    ) -> Parameters:
        operation_id = (operation / "operationId").read_str()
        relevant: list[SchemaPath] = []
        unknown: list[_ParameterValues] = []
        for name, location, required, one in self._declared[operation_id]:
            sent = _ParameterValues(operation_id, location, name, _values(parameters, location, name))
            if sent.values and sent in self._valid:
                continue
            if required or sent.values:
                relevant.append(one)
                if sum(map(len, sent.values)) <= _VALID_CACHED_CHARS_MAX:
                    unknown.append(sent)
        # Of the operation, openapi-core reads nothing but its parameters.
        only_relevant = cast("SchemaPath", {"parameters": relevant})
        found = super()._get_parameters(parameters, only_relevant, path)
        # That raised if one of them is invalid, so all of them are valid here.
        for sent in unknown:
            if sent.values:
                self._valid[sent] = True
        return found


class _ParameterValues(NamedTuple):
    """All values of one parameter of an operation."""

    operation_id: str
    location: str
    name: str
    values: tuple[str, ...]


def _values(parameters: RequestParameters, location: str, name: str) -> tuple[str, ...]:
    sent = parameters[location]
    if name not in sent:
        return ()
    if isinstance(sent, ImmutableMultiDict):
        return tuple(sent.getlist(name))
    return (str(sent[name]),)


class CheckedRequest(NamedTuple):
    """A validated request. `query` holds the known parameters by their canonical names."""

    query: ImmutableMultiDict[str, str]
    errors: Sequence[ApiError]

    def require_route(self) -> None:
        """Raise the error of an invalid path or a missing token, if there is one."""
        for error in self.errors:
            if error.status != 400:
                raise error

    def require_parameters(self) -> None:
        """Raise the error of the first invalid parameter, if there is one."""
        for error in self.errors:
            raise error


class Contract:
    """The document with this API's prefix and limits, and the validation of requests. Built once per process."""

    def __init__(self, config: LogApiConfig) -> None:
        self.document = contract_document(config)
        self._prefix = config.prefix
        # A test validates the document itself; doing so at each start would take 0.2 s.
        self._validator = _PresentParametersValidator(SchemaPath.from_dict(self.document))
        self.operations = tuple(
            Operation(
                details["operationId"],
                method,
                path,
                details.get("x-permission"),
                # An empty list needs no token; without one, the document's own `security` applies.
                details.get("security") == [],
            )
            for path, methods in self.document["paths"].items()
            for method, details in methods.items()
        )
        self._parameters = {
            operation.id: {(one.name, one.location): one for one in self._declared(operation)}
            for operation in self.operations
        }
        self._aliases = {
            operation.id: dict(_aliases(self._parameters[operation.id].values()))
            for operation in self.operations
        }

    def bad_query(self, operation: Operation, name: str) -> ApiError:
        """Return the error for a query parameter that is valid by the document and still cannot be used."""
        return bad_parameter(name, self._parameters[operation.id][name, "query"].allowed)

    def check(
        self, operation: Operation, path_values: Mapping[str, str], query: QueryPairs, headers: Headers
    ) -> CheckedRequest:
        """Validate a request. The result holds all its errors; no request makes this method raise."""
        known, errors = self._canonical_query(operation, query)
        if any(map(_CONTROL.search, path_values.values())):
            # A pattern's `$` also matches before a final line end.
            errors.insert(0, not_found())
        request = _DocumentRequest(
            operation.method, self._prefix + operation.path, path_values, known, headers
        )
        errors += [self._error(operation, error) for error in self._validator.iter_errors(request)]
        return CheckedRequest(ImmutableMultiDict(known), errors)

    def _declared(self, operation: Operation) -> Iterator[_Parameter]:
        for node in self.document["paths"][operation.path][operation.method].get("parameters", ()):
            parameter = self._resolve(node)
            required = parameter.get("required", False)
            yield _Parameter(parameter["name"], parameter["in"], required, self._resolve(parameter["schema"]))

    def _resolve(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the target of a `$ref` into the components; any other node as it is."""
        if "$ref" not in node:
            return node
        _, _, kind, name = node["$ref"].split("/")
        found: Mapping[str, Any] = self.document["components"][kind][name]
        return found

    def _canonical_query(
        self, operation: Operation, query: QueryPairs
    ) -> tuple[list[tuple[str, str]], list[ApiError]]:
        """Return the query with known parameters under their canonical names, and the errors found on the way.

        Unknown parameters are ignored, as clients expect. A misspelt name and a known filter with an unknown suffix are
        errors: ignoring them would silently change the result.
        """
        aliases = self._aliases[operation.id]
        known: list[tuple[str, str]] = []
        errors: list[ApiError] = []
        unknown: dict[str, None] = {}
        for sent, value in query:
            parameter = aliases.get(sent)
            if parameter is None:
                base = re.split(r"[.\[]", sent, maxsplit=1)[0]
                if base in aliases:
                    errors.append(bad_parameter(base, "may be spelled as the documentation says"))
                else:
                    unknown[sent.lower()] = None
            elif not parameter.repeatable and any(parameter.name == name for name, _ in known):
                errors.append(bad_parameter(parameter.name, "may be given once"))
            elif (cleaned := _clean(parameter, value)) is None:
                errors.append(bad_parameter(parameter.name, parameter.allowed))
            elif cleaned:
                known.append((parameter.name, cleaned))
        return known, errors + _misspelt(unknown, aliases)

    def _error(self, operation: Operation, error: Exception) -> ApiError:
        if isinstance(error, SecurityValidationError):
            return unauthenticated()
        if not isinstance(error, ParameterValidationError):
            return internal_error()
        if error.location == "path":
            return not_found()
        allowed = self._parameters[operation.id][error.name, error.location].allowed
        required = isinstance(error, MissingRequiredParameter)
        return bad_parameter(error.name, f"is required, {allowed}" if required else allowed)


def contract_document(config: LogApiConfig) -> dict[str, Any]:
    """Return the document with the prefix and the page limit of this configuration."""
    # The shipped one is cached for every configuration.
    document = deepcopy(_shipped_document())
    document["servers"] = [{"url": config.prefix or "/"}]
    for name in ("PageLimit", "AccessLimit"):
        limit = document["components"]["schemas"][name]
        limit["maximum"] = config.limits.page_records_max
        limit["default"] = min(limit["default"], config.limits.page_records_max)
        limit["x-allowed"] = f"a whole number from 1 to {config.limits.page_records_max}"
    return document


@cache
def _shipped_document() -> dict[str, Any]:
    text = files("schemas").joinpath("log_api.openapi.yaml").read_text("utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def _aliases(parameters: Iterable[_Parameter]) -> Iterator[tuple[str, _Parameter]]:
    for parameter in parameters:
        if parameter.location != "query":
            continue
        yield parameter.name, parameter
        if parameter.repeatable:
            yield f"{parameter.name}[]", parameter
            base, negated, _ = parameter.name.partition(".not")
            if negated:
                yield f"{base}[not]", parameter


def _misspelt(unknown: Collection[str], known: Collection[str]) -> list[ApiError]:
    """Return the errors for unknown names that are close to a known one, and for too many of them."""
    if len(unknown) > _UNKNOWN_PARAMETERS_MAX:
        return [bad_parameter("query", f"at most {_UNKNOWN_PARAMETERS_MAX} unknown parameters")]
    nearest = (difflib.get_close_matches(name, known, 1, _LIKENESS_MIN) for name in unknown)
    return [
        bad_parameter("query", f"an unknown parameter; did you mean {names[0]}?")
        for names in nearest
        if names
    ]


def _clean(parameter: _Parameter, value: str) -> str | None:
    """Undo known client quirks in a value. Returns "" for a value to ignore, None for an invalid one."""
    if parameter.schema.get("type") == "number":
        return value if _WHOLE_NUMBER.fullmatch(value) else None
    if "anyOf" in parameter.schema:
        # An unescaped plus sign arrives as a space.
        return _OFFSET_AFTER_SPACE.sub("+", value)
    return value
