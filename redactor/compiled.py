"""One operation ready for its pairs: compiled from the document on first use, then only looked up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeAlias

from redactor.branches import is_denied
from redactor.compiler import Compiler
from redactor.config import RedactionConfig
from redactor.derive import Facts, IdPositions, facts_of, id_positions
from redactor.document import Place
from redactor.forms import FormFields, form_fields
from redactor.media_types import format_of, is_form, is_json
from redactor.operations import Operation
from redactor.parameters import PathSegment, QueryParameter, path_segments, query_parameters
from redactor.plan import DROP, Plan
from schemas.event import BodyReason

__all__ = ["CompiledOperation", "Content", "Media", "is_json", "select_media"]


class Media(NamedTuple):
    """What is kept of a body of one media type. `envelope`: the property of its root recorded in its place."""

    plan: Plan
    envelope: str | None
    fields: FormFields = FormFields()


Content: TypeAlias = Mapping[str, Media | None]
"""By declared media type, in lower case and without parameters; None where it has no schema to go by."""


class CompiledOperation:
    """An operation's plans. Each is compiled when first asked for; asking again gives the same.

    `alone`: no other operation governs with it, so that what it keeps of a body is what leaves (rule 7).
    """

    def __init__(
        self, operation: Operation, compiler: Compiler, config: RedactionConfig, *, alone: bool = True
    ) -> None:
        self.operation = operation
        self.facts: Facts = facts_of(operation)
        self.ids: IdPositions = id_positions(operation)
        self.keeps_get_response = operation.has_own_id and operation.id in config.get_responses_kept
        self._compiler = compiler
        self._alone = alone
        self._names_kept: Collection[str] = config.path_parameters_kept
        self._requests: dict[bool, Content] = {}
        self._responses: dict[tuple[str, bool], Content] = {}
        self._paths: dict[bool, tuple[PathSegment, ...]] = {}
        self._queries: dict[bool, tuple[QueryParameter, ...]] = {}

    def path(self, *, strict: bool) -> tuple[PathSegment, ...]:
        """Return how the path's segments are recorded. `strict`: the status is 400 or above (rule 6)."""
        known = self._paths.get(strict)
        if known is None:
            known = path_segments(self.operation, self._compiler, self._names_kept, strict=strict)
            self._paths[strict] = known
        return known

    def query(self, *, strict: bool) -> tuple[QueryParameter, ...]:
        """Return how the query parameters are recorded."""
        known = self._queries.get(strict)
        if known is None:
            known = self._queries[strict] = query_parameters(self.operation, self._compiler, strict=strict)
        return known

    def request(self, *, strict: bool) -> Content:
        """Return what is kept of a request's body."""
        known = self._requests.get(strict)
        if known is None:
            place = self.operation.place.child("requestBody")
            known = self._requests[strict] = self._content(place, strict=strict, envelope=None)
        return known

    def response(self, status: int) -> Content:
        """Return what is kept of the body of a response with `status`, by the schema of its own status (rule 16)."""
        key = self._status_key(status)
        known = self._responses.get((key, status >= 400))
        if known is None:
            place = self.operation.place.child("responses", key)
            envelope = self.operation.document.config.envelope
            known = self._content(place, strict=status >= 400, envelope=envelope)
            self._responses[key, status >= 400] = known
        return known

    def _status_key(self, status: int) -> str:
        responses = self.operation.place.child("responses")
        if not isinstance(responses.node, dict) or is_denied(responses.node):
            return ""
        if str(status) in responses.node:
            return str(status)
        classes = [key for key in responses.node if str(key).upper() == f"{status // 100}XX"]
        if len(classes) > 1:
            self.operation.document.findings.add(responses.pointer, "status_repeated")
            return ""
        return classes[0] if classes else "default"

    def _content(self, place: Place, *, strict: bool, envelope: str | None) -> Content:
        """Return the plans of a requestBody or response; empty where it is missing, broken or lists no content."""
        if not isinstance(place.node, dict):
            return {}
        chain = self.operation.document.follow(place)
        listed = chain[-1].child("content") if chain else Place(None, "")
        if not isinstance(listed.node, dict):
            return {}
        denied = any(is_denied(each.node) for each in (*chain, listed))
        content: dict[str, Media | None] = {}
        for name in listed.node:
            essence = str(name).partition(";")[0].strip().lower()
            may_be_form = "*" in essence or is_form(essence)
            media = self._media(
                listed.child(name), denied=denied, strict=strict, envelope=envelope, may_be_form=may_be_form
            )
            if essence in content:
                self.operation.document.findings.add(listed.pointer, "media_type_repeated")
                media = None
            content[essence] = media
        return content

    def _media(
        self, place: Place, *, denied: bool, strict: bool, envelope: str | None, may_be_form: bool
    ) -> Media | None:
        schema = place.child("schema")
        if not isinstance(schema.node, dict):
            return None
        if denied or is_denied(place.node):
            return Media(DROP, None)
        heard = self._compiler.voices(schema)
        declares = envelope is not None and any(
            branch.grants and envelope in branch.place.node.get("properties", ()) for branch in heard.heard
        )
        # What stands beside an envelope's content is not recorded, so it may not decide what is (rule 7).
        plan = self._compiler.compile(
            schema, strict=strict, narrows=self._alone, root_narrows=self._alone and not declares
        )
        fields = form_fields(self.operation.document, place, heard) if may_be_form else FormFields()
        return Media(plan, envelope if declares else None, fields)


def select_media(content: Content, essence: str | None) -> Media | BodyReason:
    """Return what governs a body of the media type `essence` (None: the message did not say), or why nothing does.

    The most specific of the declared ranges counts. A message that does not say is read as JSON where the document
    knows of nothing else.
    """
    if not content:
        return BodyReason.NO_SCHEMA
    if essence is None:
        only = next(iter(content)) if len(content) == 1 else ""
        essence = only if is_json(only) else ""
    if format_of(essence) is None:
        return BodyReason.MEDIA_TYPE
    kind, _, subtype = essence.partition("/")
    _, plus, suffix = subtype.rpartition("+")
    for name in (essence, f"{kind}/*{plus}{suffix}" if plus else essence, f"{kind}/*", "*/*"):
        if name in content:
            return content[name] or BodyReason.NO_SCHEMA
    return BodyReason.MEDIA_TYPE
