"""The stage that records a matched request's path and query, and reads the ids in them (rules 13 and 15).

The reference judges each segment and parameter of each operation that applies. The fast path copies the path as it was
written, or replaces the segments that are never recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from redactor.decode.identifiers import valid_owner_id
from redactor.decode.url import split_query
from redactor.pipeline.event_template import EventTemplate
from redactor.pipeline.resolved_operation import RecordedPath, ResolvedOperation
from redactor.pipeline.stages import Attribution, RecordedUri, RoutedRequest
from schemas.event import Account, Zone

_ID_CHARS_MAX: Final = 512  # those of `valid_resource_id`; plain paths hold nothing else that it refuses
_OWNERS_MAX: Final = 8_192
# Not the default of the event's field, which would be left out.
_NO_ZONE: Final = Zone()
_Owner = TypeVar("_Owner", Account, Zone)


class ReferenceUris:
    """Records any path and query."""

    def __init__(self, uri_chars_max: int) -> None:
        self._uri_chars_max = uri_chars_max

    def record(self, routed: RoutedRequest, template: EventTemplate) -> RecordedUri:
        operation, strict = template.operation, template.strict
        path = operation.path(routed.segments[1:], strict=strict)
        return _recorded(
            operation,
            path,
            operation.uri(path, split_query(routed.query), strict=strict),
        )

    def attributed(self, attribution: Attribution, *, strict: bool) -> RecordedUri:
        """Return what is recorded of the URL of an altered request: its path alone."""
        operation = attribution.operation
        path = operation.path(attribution.segments[1:], strict=strict)
        return _recorded(operation, path, operation.uri(path, {}, strict=strict))


def _recorded(operation: ResolvedOperation, path: RecordedPath, uri: str) -> RecordedUri:
    account, zone = operation.account_id(path), operation.zone_id(path)
    return RecordedUri(
        uri,
        None if account is None else Account(account),
        _NO_ZONE if zone is None else Zone(zone),
        operation.resource_id(path),
        operation.refused_ids(path),
    )


class FastUris(ReferenceUris):
    """Records plainly written paths of operations whose segments are each always recorded, or never, or by their type."""

    def __init__(self, uri_chars_max: int) -> None:
        super().__init__(uri_chars_max)
        # Only texts that are ids are remembered: those are recorded anyway.
        self._accounts: dict[str, Account] = {}
        self._zones: dict[str, Zone] = {}

    def record(self, routed: RoutedRequest, template: EventTemplate) -> RecordedUri:
        segments = routed.segments
        if not (routed.is_plain and template.has_fixed_path and template.keeps_typed(segments)):
            return super().record(routed, template)
        uri = self._uri(routed, template)
        resource = None if template.resource is None else segments[template.resource]
        if uri is None or (resource is not None and len(resource) > _ID_CHARS_MAX):
            return super().record(routed, template)
        account = None if template.account is None else self._account(segments[template.account])
        zone = _NO_ZONE if template.zone is None else self._zone(segments[template.zone])
        if zone is None or (account is None and template.account is not None):
            return super().record(routed, template)  # which names what is refused
        return RecordedUri(uri, account, zone, resource)

    def _account(self, name: str) -> Account | None:
        return self._accounts.get(name) or _remembered(self._accounts, Account, name)

    def _zone(self, name: str) -> Zone | None:
        return self._zones.get(name) or _remembered(self._zones, Zone, name)

    def _uri(self, routed: RoutedRequest, template: EventTemplate) -> str | None:
        """Return the recorded path and query; None where the path is too long to be recorded."""
        if template.is_path_rewritten:
            uri = _rewritten(routed, template)
        else:
            uri = routed.path[template.base_chars :]
        if len(uri) > self._uri_chars_max:
            return None
        if routed.query and template.records_query:
            return template.operation.with_query(uri, split_query(routed.query), strict=template.strict)
        return uri


def _remembered(known: dict[str, _Owner], owner: Callable[[str], _Owner], name: str) -> _Owner | None:
    """Return the owner of this id, which is then in `known`; None where the text is no id."""
    if valid_owner_id(name) is None:
        return None
    if len(known) >= _OWNERS_MAX:
        known.clear()
    found = known[name] = owner(name)
    return found


def _rewritten(routed: RoutedRequest, template: EventTemplate) -> str:
    recorded = list(routed.segments[template.base_length + 1 :])
    for index, text in template.replaced:
        recorded[index] = text
    return "/" + "/".join(recorded)
