"""What the operation, the method and the status decide about an event before anything else of the pair is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from redactor.compile.compiled_operation import BodyPlan
from redactor.pipeline.kept_body import KeptBody
from redactor.pipeline.resolved_operation import METHODS_WITHOUT_BODIES, ResolvedOperation
from redactor.pipeline.typed_bodies import TypedBody
from schemas.capture import Capture
from schemas.event import BodyReason


def never_read(capture: Capture) -> bool:
    """Whether rule 8 forbids reading the bodies at all."""
    return capture.request.method in METHODS_WITHOUT_BODIES or capture.response.status == 101


@dataclass(eq=False, slots=True, kw_only=True)
class BodyReader:
    """How the fast path reads bodies of one content type."""

    typed: TypedBody | None
    """None where only the reference can read them."""
    dropped: KeptBody | None
    """What is recorded where no body of this content type is read."""
    is_form: bool


@dataclass(eq=False, slots=True, kw_only=True)
class MessageTemplate:
    """The bodies of one direction."""

    plan_for: Callable[[str | None], BodyPlan | BodyReason]
    """The plan for a media type (None: the message names none), or why no body of it is kept."""
    is_request: bool
    is_read: bool
    may_override_method: bool = False
    id_steps: Sequence[str] | None
    """Where the resource's id stands in what is kept; None where no id is read from this body."""
    id_is_in_whole: bool
    """Whether the steps begin at the body's root, and not at what an envelope holds."""
    readers: dict[str | None, BodyReader] = field(default_factory=dict)
    """The fast path's readers, by content type as it was written."""
    reads_top_id: bool = field(init=False)
    """Whether the id is the member `id` at the top of what is kept, so that a reader of the fast path can read it."""

    def __post_init__(self) -> None:
        steps = self.id_steps
        self.reads_top_id = steps is not None and tuple(steps) == ("id",) and not self.id_is_in_whole


class EventTemplate:
    """All that is known of the events of one resolved operation and status."""

    def __init__(self, operation: ResolvedOperation, capture: Capture, segments: Sequence[str]) -> None:
        method, status = capture.request.method, capture.response.status
        facts = operation.facts
        self.operation = operation
        self.method = method
        self.status = status
        self.strict = status >= 400
        """Whether `enum` and `const` decide (rule 6)."""
        self.result = "failure" if self.strict else "success"
        self.action_type = facts.action_type
        self.description = facts.description
        self.product = facts.product
        self.scope = facts.scope
        self.resource_type = facts.resource_type
        self.digest = operation.digest
        self.id = operation.id
        self.is_excluded = operation.is_excluded
        self.denied_headers = operation.denied_headers(status)
        """None for none, as nearly always."""
        self._set_path(segments)
        self._set_bodies(capture)

    def _set_path(self, segments: Sequence[str]) -> None:
        operation = self.operation
        texts = operation.path_texts(strict=self.strict)
        self.has_fixed_path = texts is not None
        """Whether each segment is recorded the same way whatever stands there, the `typed_segments` if they are kept."""
        self.replaced = tuple((at, text) for at, text in enumerate(texts or ()) if text is not None)
        """The segments behind the base path of which the template's text is recorded."""
        self.records_query = operation.records_query(strict=self.strict)
        self.base_length = operation.base_length
        # Meaningful for literal base paths only: those have the same length in every request.
        self.base_chars = sum(len(each) + 1 for each in segments[1 : self.base_length + 1])
        self.is_path_rewritten = bool(self.replaced) or not operation.has_literal_base
        self.typed_segments = tuple(
            (at + self.base_length + 1, segment)
            for at, segment in operation.typed_segments(strict=self.strict)
        )
        """Those whose value decides. Counted with the base path and the empty first segment."""
        # A segment that is not recorded names nothing. Counted with the base path and the empty first segment.
        self.account, self.zone, self.resource = (
            None if at is None or texts is None or texts[at] is not None else at + self.base_length + 1
            for at in operation.positions
        )

    def keeps_typed(self, segments: Sequence[str]) -> bool:
        """Whether each of the `typed_segments` is kept."""
        return all(segment.keeps(segments[at]) for at, segment in self.typed_segments)

    def _set_bodies(self, capture: Capture) -> None:
        operation, strict, status = self.operation, self.strict, self.status
        never = never_read(capture)
        keeps_get = self.method == "GET" and operation.keeps_get_response and status != 101
        side, steps, in_whole = _id_source(operation)
        self.request = MessageTemplate(
            plan_for=lambda essence: operation.request(essence, strict=strict),
            is_request=True,
            is_read=not never,
            id_steps=steps if side == "request" else None,
            id_is_in_whole=in_whole,
            # The frameworks that heed a body's field do so for POST alone.
            may_override_method=self.method == "POST",
        )
        self.response = MessageTemplate(
            plan_for=lambda essence: operation.response(status, essence),
            is_request=False,
            is_read=not never or keeps_get,
            id_steps=steps if side == "response" else None,
            id_is_in_whole=in_whole,
        )


def _id_source(operation: ResolvedOperation) -> tuple[str, Sequence[str] | None, bool]:
    """Return which body holds the resource's id, the steps to it, and whether they begin at its root (rule 15)."""
    if operation.pointer is None:
        return "", None, False
    side, steps = operation.pointer
    if operation.id_is_overridden:
        return side, steps, True
    if operation.facts.action_type != "create":
        return "", None, False
    return "response", steps, False
