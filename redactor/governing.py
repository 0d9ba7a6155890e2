"""The operations that govern one request, as one: usually a single one, and where several tie, what all of them keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TypeVar

from redactor.compiled import CompiledOperation, Content, Media, select_media
from redactor.config import RedactionConfig
from redactor.derive import facts_in_common, owner_id, resource_id
from redactor.forms import FormFields
from redactor.operations import LITERAL, TEMPLATED
from redactor.parameters import PathSegment, record_path
from redactor.plan import Every
from redactor.routes import Route
from redactor.url import QueryPair
from schemas.event import BodyReason

_REASONS = tuple(BodyReason)


class Governing:
    """What operations that tie say together: every one of them must keep what is kept."""

    def __init__(
        self, operations: Sequence[CompiledOperation], routes: Sequence[Route], config: RedactionConfig
    ) -> None:
        self._operations = tuple(operations)
        self._bases = [route.base_length for route in routes]
        self._has_literal_base = all(rank == LITERAL for rank in routes[0].ranks[: self._bases[0]])
        self._tied: dict[tuple[int, ...], Media] = {}
        self._uri_bytes_max = config.limits.uri_bytes_max
        declared = [each.operation for each in operations]
        self.id = "|".join(dict.fromkeys(each.id for each in declared))
        self.digest = "|".join(dict.fromkeys(each.document.digest for each in declared))
        self.facts = facts_in_common([each.facts for each in operations], declared[0].method)
        self.is_excluded = all(each.id in config.excluded_operations for each in declared)
        self.is_opted_out = any(each.denied for each in declared)
        self.keeps_get_response = all(each.keeps_get_response for each in operations)
        self.pointer = _agreed([each.ids.pointer for each in operations])
        self.id_is_overridden = any(each.ids.is_overridden for each in operations)
        self._account = _agreed([each.ids.account for each in operations])
        self._zone = _agreed([each.ids.zone for each in operations])
        self._resource = _agreed([each.ids.resource for each in operations])

    @property
    def base_length(self) -> int:
        """How many segments the base path has, of the first that governs."""
        return self._bases[0]

    @property
    def has_literal_base(self) -> bool:
        """Whether the base path, of the first that governs, is the same text for every pair."""
        return self._has_literal_base

    @property
    def positions(self) -> tuple[int | None, int | None, int | None]:
        """At which segments behind the base path account, zone and resource stand."""
        return self._account, self._zone, self._resource

    def path_texts(self, *, strict: bool) -> tuple[str | None, ...] | None:
        """Return what each segment of a path is recorded as, if nothing in it needs encoding; None: as it stands.

        None for all of it where that depends on the path.
        """
        if len(self._operations) != 1:
            return None
        segments = self._operations[0].path(strict=strict)
        if all(map(_is_recorded_alike, segments)):
            return tuple(None if each.rank == LITERAL or _keeps_all(each) else each.text for each in segments)
        return None

    def records_query(self, *, strict: bool) -> bool:
        """Tell whether anything of a query may be recorded."""
        return not self.is_opted_out and all(each.query(strict=strict) for each in self._operations)

    def path(self, segments: Sequence[str], *, strict: bool) -> RecordedPath:
        """Return what is recorded of the path with these decoded segments."""
        recorded = [operation.path(strict=strict) for operation in self._operations]
        base = self._bases[0]
        values = segments[base : base + len(recorded[0])]
        if len(set(self._bases)) > 1:
            return RecordedPath(recorded[:1], [])
        return RecordedPath(recorded, values)

    def uri(self, path: RecordedPath, pairs: Mapping[str, Sequence[QueryPair]], *, strict: bool) -> str:
        """Return the recorded path and, as far as it fits, the recorded query."""
        if len(path.text) > self._uri_bytes_max:
            return path.template
        return self.with_query(path.text, pairs, strict=strict)

    def with_query(self, uri: str, pairs: Mapping[str, Sequence[QueryPair]], *, strict: bool) -> str:
        """Return a recorded path with the recorded query behind it, as far as it fits."""
        joint = "?"
        for text in self._query(pairs, strict=strict):
            if len(uri) + 1 + len(text) <= self._uri_bytes_max:
                uri += joint + text
                joint = "&"
        return uri

    def _query(self, pairs: Mapping[str, Sequence[QueryPair]], *, strict: bool) -> list[str]:
        if self.is_opted_out or not pairs:
            return []
        first, *others = (
            [text for parameter in operation.query(strict=strict) for text in parameter.record(pairs)]
            for operation in self._operations
        )
        sets = [frozenset(other) for other in others]
        return [text for text in first if all(text in other for other in sets)]

    def account_id(self, path: RecordedPath) -> str | None:
        """Return the account that the recorded path names."""
        return owner_id(path.value(self._account))

    def zone_id(self, path: RecordedPath) -> str | None:
        """Return the zone that the recorded path names."""
        return owner_id(path.value(self._zone))

    def resource_id(self, path: RecordedPath) -> str | None:
        """Return the resource that the recorded path names."""
        return resource_id(path.value(self._resource))

    def request(self, essence: str | None, *, strict: bool) -> Media | BodyReason:
        """Return what governs a request's body of this media type, or the first reason why nothing does."""
        return self._media([each.request(strict=strict) for each in self._operations], essence)

    def response(self, status: int, essence: str | None) -> Media | BodyReason:
        """Return what governs a response's body of this status and media type, or why nothing does."""
        return self._media([each.response(status) for each in self._operations], essence)

    def _media(self, contents: Sequence[Content], essence: str | None) -> Media | BodyReason:
        if self.is_opted_out:
            return BodyReason.OPTED_OUT
        found = [select_media(content, essence) for content in contents]
        reasons = [each for each in found if isinstance(each, BodyReason)]
        if reasons:
            return min(reasons, key=_REASONS.index)
        media = [each for each in found if isinstance(each, Media)]
        return media[0] if len(media) == 1 else self._all_of(media)

    def _all_of(self, media: Sequence[Media]) -> Media:
        """Return what all of these keep; the same again for the same ones, which the operations hold."""
        key = tuple(map(id, media))
        found = self._tied.get(key)
        if found is None:
            fields = reduce(FormFields.beside, (each.fields for each in media))
            plan = Every(tuple(each.plan for each in media))
            found = self._tied[key] = Media(plan, _agreed([each.envelope for each in media]), fields)
        return found


def _is_recorded_alike(segment: PathSegment) -> bool:
    """Tell whether all values of a segment are recorded, or none."""
    if segment.rank == LITERAL:
        return "%" not in segment.text
    return segment.rank == TEMPLATED and (segment.plan is None or _keeps_all(segment))


def _keeps_all(segment: PathSegment) -> bool:
    """Tell whether whatever stands in a segment is kept: any text is a string."""
    return segment.by_name or (
        segment.plan is not None and segment.plan.only is None and str in segment.plan.types
    )


_T = TypeVar("_T")


def _agreed(values: Sequence[_T | None]) -> _T | None:
    return values[0] if all(each == values[0] for each in values) else None


class RecordedPath:
    """A path as it is recorded, and what of it may be used."""

    __slots__ = ("_recorded", "_values", "template", "text")

    def __init__(self, recorded: Sequence[Sequence[PathSegment]], values: Sequence[str]) -> None:
        self._recorded = recorded
        self._values = values
        self.template = "/" + "/".join(segment.text for segment in recorded[0])
        self.text = record_path(recorded, values) if values else self.template

    def value(self, position: int | None) -> str | None:
        """Return the value recorded for the variable at a segment; None where it is not."""
        if position is None or position >= len(self._values):
            return None
        value = self._values[position]
        segments = [segments[position] for segments in self._recorded]
        if not all(segment.rank != LITERAL and segment.keeps(value) for segment in segments):
            return None
        if all(segment.rank == TEMPLATED for segment in segments):
            return value
        return segments[0].value_in(value) if len(segments) == 1 else None
