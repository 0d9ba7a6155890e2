"""The operations that apply to one request, as one: usually a single one; where several tie, what all of them keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Final, TypeVar

from redactor.compile.compiled_operation import (
    BodyPlan,
    BodyPlans,
    CompiledOperation,
    common_body_plan,
    select_body_plan,
)
from redactor.compile.denied_headers import NO_HEADERS, DeniedHeaders
from redactor.compile.derived_fields import IdPositions, common_facts, valid_resource_id
from redactor.compile.path_plan import PathSegmentPlan, record_path
from redactor.config import RedactionConfig
from redactor.decode.identifiers import valid_owner_id
from redactor.decode.media_types import is_json
from redactor.decode.url import QueryPair
from redactor.openapi.operations import LITERAL, TEMPLATED
from redactor.openapi.routes import Route
from schemas.event import BodyReason

METHODS_WITHOUT_BODIES: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})
"""Of which no body is read, unless the configuration lists the operation (rule 8)."""
_REASONS = tuple(BodyReason)


class ResolvedOperation:
    """One operation, or several that tie: then only what every one of them keeps is kept."""

    def __init__(
        self, operations: Sequence[CompiledOperation], routes: Sequence[Route], config: RedactionConfig
    ) -> None:
        self._operations = tuple(operations)
        self._bases = [route.base_length for route in routes]
        self._has_literal_base = all(rank == LITERAL for rank in routes[0].ranks[: self._bases[0]])
        self._tied: dict[tuple[int, ...], BodyPlan] = {}
        self._uri_bytes_max = config.limits.uri_bytes_max
        declared = [each.operation for each in operations]
        self.id = "|".join(dict.fromkeys(each.id for each in declared))
        self.digest = "|".join(dict.fromkeys(each.document.digest for each in declared))
        self.methods = frozenset(each.method for each in declared)
        """Several where a request asks for another method than its own, and its own has no operation."""
        self.facts = common_facts([each.facts for each in operations], declared[0].method)
        self.reads_bodies = declared[0].method not in METHODS_WITHOUT_BODIES
        """Whether the method has bodies that may be read (rule 8)."""
        # All of them, so that excluding one operation takes no other one out of the log.
        self.is_excluded = all(each.id in config.excluded_operations for each in declared)
        # Any of them, because denials win (rule 5).
        self.is_opted_out = any(each.denied for each in declared)
        self.keeps_get_response = all(each.keeps_get_response for each in operations)
        ids = _common_ids([each.ids for each in operations])
        self.pointer = ids.pointer
        self.id_is_overridden = ids.is_overridden
        self._account, self._zone, self._resource = ids.account, ids.zone, ids.resource
        self._id_fields = {"account.id": ids.account, "zone.id": ids.zone, "resource.id": ids.resource}

    def prepare(self) -> Iterator[BodyPlan]:
        """Compile all that pairs may need; yield the plans of JSON bodies."""
        reads_bodies = self.reads_bodies and not (self.is_excluded or self.is_opted_out)
        alone = len(self._operations) == 1
        for operation in self._operations:
            for media_type, plan in operation.prepare(reads_bodies=reads_bodies):
                if alone and (is_json(media_type) or "*" in media_type):
                    yield plan

    @property
    def base_length(self) -> int:
        """How many segments the base path has, of the first operation."""
        return self._bases[0]

    @property
    def has_literal_base(self) -> bool:
        """Whether the first operation's base path is the same text for every pair."""
        return self._has_literal_base

    @property
    def positions(self) -> tuple[int | None, int | None, int | None]:
        """The indices, behind the base path, of the segments that hold account, zone and resource."""
        return self._account, self._zone, self._resource

    def path_texts(self, *, strict: bool) -> tuple[str | None, ...] | None:
        """Return the text that is recorded for each segment of a plainly written path; None for one recorded as it stands.

        One of `typed_segments` stands as it is if its value is kept. None for the whole path where more depends on
        the values, or several operations apply.
        """
        if len(self._operations) != 1:
            return None
        segments = self._operations[0].path(strict=strict)
        if all(_is_recorded_alike(each) or _is_typed(each) for each in segments):
            is_kept = [each.keeps_every_value or _is_typed(each) for each in segments]
            return tuple(None if kept else each.text for kept, each in zip(is_kept, segments, strict=True))
        return None

    def typed_segments(self, *, strict: bool) -> tuple[tuple[int, PathSegmentPlan], ...]:
        """Return the segments behind the base path that are recorded if their value is of a type, with their index."""
        if len(self._operations) != 1:
            return ()
        segments = enumerate(self._operations[0].path(strict=strict))
        return tuple((index, each) for index, each in segments if _is_typed(each))

    def records_query(self, *, strict: bool) -> bool:
        """Whether anything of a query may be recorded."""
        return not self.is_opted_out and all(each.query(strict=strict) for each in self._operations)

    def path(self, segments: Sequence[str], *, strict: bool) -> RecordedPath:
        """Return what is recorded of the path with these decoded segments."""
        recorded = [operation.path(strict=strict) for operation in self._operations]
        base = self._bases[0]
        values = segments[base : base + len(recorded[0])]
        # Below base paths of different lengths, a segment means something else to each operation.
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
        """Return the account id in the recorded path; None where it is not recorded there, or is no valid id."""
        return valid_owner_id(path.value(self._account))

    def zone_id(self, path: RecordedPath) -> str | None:
        """Return the zone id in the recorded path; None where it is not recorded there, or is no valid id."""
        return valid_owner_id(path.value(self._zone))

    def resource_id(self, path: RecordedPath) -> str | None:
        """Return the resource id in the recorded path; None where it is not recorded there, or is no valid id."""
        return valid_resource_id(path.value(self._resource))

    def id_field(self, index: int) -> str | None:
        """Return the event's field whose id a segment behind the base path holds."""
        return next((name for name, position in self._id_fields.items() if position == index), None)

    def refused_ids(self, path: RecordedPath) -> tuple[str, ...]:
        """Return the event's fields for which the recorded path holds a value that is no id."""
        given = self._id_fields
        valid = {
            "account.id": self.account_id(path),
            "zone.id": self.zone_id(path),
            "resource.id": self.resource_id(path),
        }
        return tuple(name for name, at in given.items() if path.value(at) is not None and valid[name] is None)

    def denied_headers(self, status: int) -> DeniedHeaders | None:
        """Return the headers that one of the operations denies in a pair with this status; None for none."""
        denied = reduce(
            DeniedHeaders.combined_with, (each.denied_headers(status) for each in self._operations)
        )
        return denied if denied != NO_HEADERS else None

    def request(self, essence: str | None, *, strict: bool) -> BodyPlan | BodyReason:
        """Return the plan for a request's body of this media type, or the first reason why there is none."""
        return self._body_plan((each.request(strict=strict) for each in self._operations), essence)

    def response(self, status: int, essence: str | None) -> BodyPlan | BodyReason:
        """Return the plan for a response's body of this status and media type, or why there is none."""
        return self._body_plan((each.response(status) for each in self._operations), essence)

    def _body_plan(self, contents: Iterable[BodyPlans], essence: str | None) -> BodyPlan | BodyReason:
        if self.is_opted_out:
            return BodyReason.OPTED_OUT
        found = [select_body_plan(content, essence) for content in contents]
        reasons = [each for each in found if isinstance(each, BodyReason)]
        if reasons:
            return min(reasons, key=_REASONS.index)
        plans = [each for each in found if isinstance(each, BodyPlan)]
        return plans[0] if len(plans) == 1 else self._all_of(plans)

    def _all_of(self, plans: Sequence[BodyPlan]) -> BodyPlan:
        """Return the plan that keeps what all of these keep; the same object again for the same plans."""
        key = tuple(map(id, plans))
        found = self._tied.get(key)
        if found is None:
            found = self._tied[key] = common_body_plan(plans)
        return found


def _common_ids(ids: Sequence[IdPositions]) -> IdPositions:
    """Return where ids stand in all operations alike."""
    return IdPositions(
        account=_agreed([each.account for each in ids]),
        zone=_agreed([each.zone for each in ids]),
        resource=_agreed([each.resource for each in ids]),
        pointer=_agreed([each.pointer for each in ids]),
        is_overridden=any(each.is_overridden for each in ids),
    )


def _is_recorded_alike(segment: PathSegmentPlan) -> bool:
    """Whether all values of a segment are recorded, or none."""
    if segment.rank == LITERAL:
        return "%" not in segment.text
    return segment.rank == TEMPLATED and (segment.keeps_nothing or segment.keeps_every_value)


def _is_typed(segment: PathSegmentPlan) -> bool:
    """Whether some values of a segment that is one variable are recorded, by their type or their list."""
    return segment.rank == TEMPLATED and not (segment.keeps_nothing or segment.keeps_every_value)


_T = TypeVar("_T")


def _agreed(values: Sequence[_T | None]) -> _T | None:
    return values[0] if all(each == values[0] for each in values) else None


class RecordedPath:
    """A path as it is recorded, and the values in it that ids may be read from."""

    __slots__ = ("_recorded", "_values", "template", "text")

    def __init__(self, recorded: Sequence[Sequence[PathSegmentPlan]], values: Sequence[str]) -> None:
        self._recorded = recorded
        self._values = values
        self.template = "/" + "/".join(segment.text for segment in recorded[0])
        self.text = record_path(recorded, values) if values else self.template

    def value(self, position: int | None) -> str | None:
        """Return the value recorded for the variable at a segment; None where it is not recorded."""
        if position is None or position >= len(self._values):
            return None
        value = self._values[position]
        segments = [segments[position] for segments in self._recorded]
        if not all(segment.rank != LITERAL and segment.keeps(value) for segment in segments):
            return None
        if all(segment.rank == TEMPLATED for segment in segments):
            return value
        return segments[0].value_in(value) if len(segments) == 1 else None
