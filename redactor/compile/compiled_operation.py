"""One operation compiled for its pairs: how its path and query are recorded, and what is kept of its bodies."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import reduce
from typing import NamedTuple, TypeAlias

from redactor.compile.applicable_schemas import ApplicableSchemas
from redactor.compile.compiler import Compiler
from redactor.compile.denied_headers import (
    DeniedHeaders,
    denied_request_headers,
    denied_response_headers,
)
from redactor.compile.derived_fields import IdPositions, OperationFacts, facts_of, id_positions
from redactor.compile.form_encoding import FormEncoding, read_form_encoding
from redactor.compile.path_plan import PathSegmentPlan, path_segments
from redactor.compile.plan import DROP, AllOfPlan, Plan
from redactor.compile.query_plan import QueryParameterPlan, query_parameters
from redactor.config import RedactionConfig
from redactor.decode.headers import CONTENT_LENGTH, HOST, recordable_headers
from redactor.decode.media_types import format_of, is_form, is_json
from redactor.issuer_config import token_headers
from redactor.openapi.document import Place, is_same_json
from redactor.openapi.marks import is_denied
from redactor.openapi.operations import Operation
from schemas.event import BodyReason

_STATUS = re.compile(r"[1-5][0-9]{2}", re.ASCII)
_STATUSES_WITHOUT_BODY = (204, 304)
_STATUS_CLASS = re.compile(r"[1-5][Xx]{2}", re.ASCII)


class BodyPlan(NamedTuple):
    """What is kept of a body of one media type."""

    plan: Plan
    envelope: str | None
    """The property of the root that is recorded in the body's place (rule 12)."""
    form_encoding: FormEncoding = FormEncoding()


def common_body_plan(plans: Sequence[BodyPlan]) -> BodyPlan:
    """Return the plan that keeps what all of these keep."""
    envelopes = {each.envelope for each in plans}
    fields = reduce(FormEncoding.combined_with, (each.form_encoding for each in plans))
    envelope = envelopes.pop() if len(envelopes) == 1 else None
    return BodyPlan(AllOfPlan(tuple(each.plan for each in plans)), envelope, fields)


BodyPlans: TypeAlias = Mapping[str, BodyPlan | None]
"""By declared media type, in lower case and without parameters; None for one without a usable schema."""


class CompiledOperation:
    """An operation's plans. Each is compiled when it is first asked for; asking again gives the same object.

    `prepare` asks for all of them, so that no pair has to wait for one.

    `strict` selects the plans for a status of 400 or above, which enforce `enum` and `const` (rule 6). `alone` says that
    the request matches no other operation, so that what is kept here is what leaves. Only then may a tag select
    alternatives (rule 7): another operation could drop the tag.
    """

    def __init__(
        self, operation: Operation, compiler: Compiler, config: RedactionConfig, *, alone: bool = True
    ) -> None:
        self.operation = operation
        self.facts: OperationFacts = facts_of(operation)
        self.ids: IdPositions = id_positions(operation)
        self.keeps_get_response = operation.has_own_id and operation.id in config.get_responses_kept
        self._compiler = compiler
        self._alone = alone
        self._names_kept: Collection[str] = config.path_parameters_kept
        of_request, of_response = recordable_headers(config.headers)
        # What is read from a token that is denied is not recorded either.
        of_request |= token_headers(config.issuers)
        if config.exchange_facts_kept:
            of_request, of_response = of_request | {HOST}, of_response | {CONTENT_LENGTH}
        self._deniable_headers = of_request, of_response
        self._requests: dict[bool, BodyPlans] = {}
        self._responses: dict[tuple[str, bool], BodyPlans] = {}
        self._paths: dict[bool, tuple[PathSegmentPlan, ...]] = {}
        self._queries: dict[bool, tuple[QueryParameterPlan, ...]] = {}
        self._denied_headers: dict[str, DeniedHeaders] = {}

    def path(self, *, strict: bool) -> tuple[PathSegmentPlan, ...]:
        known = self._paths.get(strict)
        if known is None:
            known = path_segments(self.operation, self._compiler, self._names_kept, strict=strict)
            self._paths[strict] = known
        return known

    def query(self, *, strict: bool) -> tuple[QueryParameterPlan, ...]:
        known = self._queries.get(strict)
        if known is None:
            known = self._queries[strict] = query_parameters(self.operation, self._compiler, strict=strict)
        return known

    def request(self, *, strict: bool) -> BodyPlans:
        known = self._requests.get(strict)
        if known is None:
            place = self.operation.place.child("requestBody")
            known = self._requests[strict] = self._body_plans(place, strict=strict, envelope=None)
        return known

    def response(self, status: int) -> BodyPlans:
        """Return the plans for the body of a response, by the schema of its own status (rule 16)."""
        key, strict = self._status_key(status), status >= 400
        known = self._responses.get((key, strict))
        if known is None:
            place = self.operation.place.child("responses", key)
            envelope = self.operation.document.config.envelope
            known = self._responses[key, strict] = self._body_plans(place, strict=strict, envelope=envelope)
        return known

    def denied_headers(self, status: int) -> DeniedHeaders:
        """Return the configured headers that may not be recorded of a pair with this status."""
        key = self._status_key(status)
        known = self._denied_headers.get(key)
        if known is None:
            of_request, of_response = self._deniable_headers
            response = self.operation.place.child("responses", key)
            known = self._denied_headers[key] = DeniedHeaders(
                denied_request_headers(self.operation, self._compiler, of_request),
                denied_response_headers(self.operation, response, self._compiler, of_response),
            )
        return known

    def prepare(self, *, reads_bodies: bool) -> Iterator[tuple[str, BodyPlan]]:
        """Compile all plans; yield those of bodies, each with its declared media type."""
        all_plans: list[BodyPlans] = []
        statuses = self._example_statuses()
        for status in statuses:
            self.denied_headers(status)
        for strict in (False, True):
            self.path(strict=strict)
            self.query(strict=strict)
            if reads_bodies:
                all_plans.append(self.request(strict=strict))
        if reads_bodies or self.keeps_get_response:
            all_plans.extend(map(self.response, statuses))
        for plans in all_plans:
            yield from ((name, plan) for name, plan in plans.items() if plan is not None)

    def _example_statuses(self) -> list[int]:
        """Return statuses that lead to each of `responses`' keys, and to `default` with and without `strict`."""
        responses = self.operation.place.child("responses").node
        keys = list(map(str, responses)) if isinstance(responses, dict) else []
        listed = [int(key) for key in keys if _STATUS.fullmatch(key)]
        classes = [int(key[0]) * 100 + 99 for key in keys if _STATUS_CLASS.fullmatch(key)]
        return [*listed, *classes, 299, 599]

    def _status_key(self, status: int) -> str:
        """Return the key of `responses` for a status: `404`, then `4XX` or `4xx`, then `default`; empty for none."""
        responses = self.operation.place.child("responses")
        if not isinstance(responses.node, dict) or is_denied(responses.node):
            return ""
        if str(status) in responses.node:
            return str(status)
        classes = [key for key in responses.node if str(key).upper() == f"{status // 100}XX"]
        if len(classes) > 1:
            self.operation.document.findings.add(responses.pointer, "status_repeated")
            return ""
        if classes:
            return str(classes[0])
        # What such a response holds is no body that a document describes.
        return "" if status < 200 or status in _STATUSES_WITHOUT_BODY else "default"

    def _body_plans(self, place: Place, *, strict: bool, envelope: str | None) -> BodyPlans:
        """Compile a requestBody or response; empty where it is missing, broken or lists no content."""
        if not isinstance(place.node, dict):
            return {}
        document = self.operation.document
        chain = document.follow(place)
        listed = chain[-1].child("content") if chain else Place(None, "")
        if not isinstance(listed.node, dict):
            return {}
        denied = any(is_denied(each.node) for each in (*chain, listed))
        by_essence: dict[str, list[Place]] = {}
        for name in listed.node:
            media = listed.child(name)
            same = by_essence.setdefault(str(name).partition(";")[0].strip().lower(), [])
            if not any(is_same_json(each.node, media.node) for each in same):
                same.append(media)
        if any(len(each) > 1 for each in by_essence.values()):
            document.findings.add(listed.pointer, "media_type_repeated")
        return {
            essence: self._common_plan(found, essence, denied=denied, strict=strict, envelope=envelope)
            for essence, found in by_essence.items()
        }

    def _common_plan(
        self, listed: Sequence[Place], essence: str, *, denied: bool, strict: bool, envelope: str | None
    ) -> BodyPlan | None:
        """Return what all media types keep that differ in their parameters alone.

        A message's parameters do not choose one of them: they are not recorded, and services ignore them.
        """
        # As with operations that tie, a tag may select alternatives only where nothing else can drop it.
        tags = self._alone and len(listed) == 1
        plans = [
            self._body_plan(each, essence, denied=denied, strict=strict, envelope=envelope, tags=tags)
            for each in listed
        ]
        usable = [each for each in plans if each is not None]
        if len(usable) < len(plans):
            return None
        return usable[0] if len(usable) == 1 else common_body_plan(usable)

    def _body_plan(
        self,
        media: Place,
        essence: str,
        *,
        denied: bool,
        strict: bool,
        envelope: str | None,
        tags: bool,
    ) -> BodyPlan | None:
        schema = media.child("schema")
        if not isinstance(schema.node, dict):
            return None
        if denied or is_denied(media.node):
            # A plan and no reason: the body is still read, so that the receipt gives the first check that fails.
            return BodyPlan(DROP, None)
        applicable = self._compiler.applicable_schemas(schema)
        if not _declares(applicable, envelope):
            envelope = None
        # What stands beside an envelope's content is not recorded, so it may not select alternatives (rule 7).
        root_tags, may_be_form = tags and envelope is None, "*" in essence or is_form(essence)
        plan = self._compiler.compile(
            schema, strict=strict, tags=tags, root_tags=root_tags, is_text=may_be_form
        )
        form_encoding = FormEncoding()
        if may_be_form:
            form_encoding = read_form_encoding(self.operation.document, media, applicable)
        return BodyPlan(plan, envelope, form_encoding)


def _declares(applicable: ApplicableSchemas, name: str | None) -> bool:
    """Whether a schema that grants declares a property of this name."""
    granting = (schema.place.node for schema in applicable.schemas if schema.grants)
    return name is not None and any(name in node.get("properties", ()) for node in granting)


def select_body_plan(plans: BodyPlans, essence: str | None) -> BodyPlan | BodyReason:
    """Return the plan for a body of the media type `essence`, or the reason why there is none.

    The most specific of the declared media types and ranges counts. A message without a content type (None) is read as
    JSON where the document declares nothing else.
    """
    if not plans:
        return BodyReason.NO_SCHEMA
    if essence is None:
        only = next(iter(plans)) if len(plans) == 1 else ""
        essence = only if is_json(only) else ""
    if format_of(essence) is None:
        return BodyReason.MEDIA_TYPE
    for name in _ranges_of(essence):
        if name in plans:
            return plans[name] or BodyReason.NO_SCHEMA
    return BodyReason.MEDIA_TYPE


def _ranges_of(essence: str) -> tuple[str, ...]:
    """Return a media type and the ranges that include it, the most specific first."""
    main, _, subtype = essence.partition("/")
    _, plus, suffix = subtype.rpartition("+")
    by_suffix = f"{main}/*+{suffix}" if plus else essence
    return essence, by_suffix, f"{main}/*", "*/*"
