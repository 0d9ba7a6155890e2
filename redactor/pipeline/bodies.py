"""The stage that reads bodies: the ordered checks of the receipt, then what the plan keeps (rules 8 to 12).

The reference parses any body into a tree and walks it by its plan. The fast path decodes plain JSON text straight into
a type made from the plan, in which msgspec skips what is not kept (`typed_bodies`).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET

from redactor.compile.compiled_operation import BodyPlan
from redactor.compile.derived_fields import value_at
from redactor.compile.plan import (
    DROPPED,
    Kept,
    count_scalars,
    encode_json,
    fits_no_variant,
    is_too_complex,
)
from redactor.config import Limits
from redactor.decode.content_encodings import decode_content
from redactor.decode.headers import ContentType, HeaderFields, content_codings, is_utf_8, parse_content_type
from redactor.decode.json import Json, JsonInteger, Unusable, read_json, read_json_lines
from redactor.decode.media_types import Format, format_of
from redactor.decode.multipart import split_parts
from redactor.decode.url import is_method_override_field, names_other_method, query_overrides_method
from redactor.decode.urlencoded import split_urlencoded
from redactor.pipeline.event_template import BodyReader, MessageTemplate
from redactor.pipeline.form_reader import FormReader
from redactor.pipeline.kept_body import KeptBody
from redactor.pipeline.typed_bodies import BodyTypes
from schemas.capture import CapturedRequest, CapturedResponse, body_bytes
from schemas.event import BodyReason, BodyReceipt

_MULTIPART_METHOD = re.compile(r"(?i)name\*?\s*=\s*\"?(?:utf-8'[a-z-]*')?_method(?![^\s\";])")

_PART_VALUE = re.compile(r"\r?\n\r?\n(.*?)\r?\n--", re.DOTALL)
_PART_CHARS_MAX: Final = 512

_TOP = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CONTENT_ENCODING = frozenset({"content-encoding"})
_CONTENT_TYPES_MAX: Final = 16  # of one operation and status; clients choose how they spell them
_METHOD_KEY = re.compile(rb"[_.$-](?:http_?)?method|http[_-]method")

Message = CapturedRequest | CapturedResponse


class Body(NamedTuple):
    """What the reference keeps of a body. `recorded` is `whole`, or the content of its envelope (rule 12)."""

    recorded: Kept
    whole: Kept
    receipt: BodyReceipt


def _dropped(reason: BodyReason) -> Body:
    """Return the body of which nothing is kept, for a reason."""
    return Body(DROPPED, DROPPED, BodyReceipt(reason=reason))


# Not the default of the receipt's field, which would be left out.
ABSENT: Final = KeptBody(UNSET, BodyReceipt())
NEVER_READ: Final = KeptBody(UNSET, BodyReceipt(reason=BodyReason.GET))
OVERRIDES_METHOD: Final = KeptBody(UNSET, BodyReceipt())
"""Stands for a request's body that asks for another method, so that no operation applies."""
OF_UNKNOWN_METHOD: Final = KeptBody(UNSET, BodyReceipt(reason=BodyReason.NO_OPERATION))
"""Stands for the response to a request that may have asked for another method."""


def is_absent(message: Message) -> bool:
    """Whether there was no body at all."""
    return not (message.body or message.body_base64 or message.truncated or _is_unread(message))


class Content:
    """A message's body. It is decoded when it is first needed, and once."""

    __slots__ = ("_bytes_max", "_decoded", "message")

    def __init__(self, message: Message, bytes_max: int) -> None:
        self.message = message
        self._bytes_max = bytes_max
        self._decoded: bytes | BodyReason | None = None

    def text(self) -> bytes:
        """Return the body with its codings undone. Raises Unusable: `malformed`, `encoding` or `too_large`."""
        if self._decoded is None:
            try:
                codings = content_codings(HeaderFields(self.message.headers, _CONTENT_ENCODING))
                self._decoded = decode_content(_content(self.message), codings, self._bytes_max)
            except Unusable as unusable:
                self._decoded = unusable.reason
        if isinstance(self._decoded, BodyReason):
            raise Unusable(self._decoded)
        return self._decoded


def body_overrides_method(content: Content, essence: str | None, method: str) -> bool:
    """Whether a form, or a JSON object at its top level, holds a field that frameworks read as another method."""
    form = Format.JSON if essence is None else format_of(essence)
    if form in (None, Format.LINES):
        return False
    try:
        text = content.text()
    except Unusable:
        return False
    if form is Format.JSON:
        return _object_overrides_method(text, method)
    decoded = text.decode(errors="replace")
    return _parts_override_method(decoded, method) or query_overrides_method(decoded, method)


def body_hides_method(content: Content, essence: str | None) -> bool:
    """Whether a body in which frameworks look for another method is not known whole. A service that read none of it saw no method."""
    form = Format.JSON if essence is None else format_of(essence)
    if form in (None, Format.LINES) or _is_unread(content.message):
        return False
    if content.message.truncated:
        return True
    try:
        content.text()
    except Unusable:
        return True
    return False


def _parts_override_method(text: str, method: str) -> bool:
    for found in _MULTIPART_METHOD.finditer(text):
        # The bound keeps many such names from making this quadratic. A value that it cuts off is another method's.
        value = _PART_VALUE.search(text, found.end(), found.end() + _PART_CHARS_MAX)
        if value is None or names_other_method(value[1], method):
            return True
    return False


def _object_overrides_method(text: bytes, method: str) -> bool:
    plain = text.replace(b"\0", b"").lower()
    if b"method" not in plain and b"\\u" not in plain:
        return False
    try:
        fields = _TOP.decode(text)
    except msgspec.ValidationError:
        return False
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # A lenient parser may read past the error and find the field.
        return _METHOD_KEY.search(plain) is not None
    overriding = [value for name, value in fields.items() if is_method_override_field(name)]
    # Of a name that stands twice only the last one is seen here, so then every mention counts.
    mentions = sum(name.lower().count("method") for name in fields)
    if overriding and (b"\\u" in plain or plain.count(b"method") > mentions):
        return True
    return any(_is_other_method(bytes(value), method) for value in overriding)


def _is_other_method(value: bytes, method: str) -> bool:
    text = value.decode(errors="replace")
    return text[:1] != '"' or names_other_method(text[1:-1], method)


def redact_body(content: Content, kind: ContentType, plan: BodyPlan | BodyReason, limits: Limits) -> Body:
    """Return what the plan keeps of a message's body, or the first check that fails, in the receipt's order."""
    if isinstance(plan, BodyReason):
        return _dropped(plan)
    form = _readable_format(kind)
    if form is None:
        return _dropped(BodyReason.MEDIA_TYPE)
    if (cut := _cut_off(content.message)) is not None:
        return _dropped(cut)
    try:
        text = content.text()
        if form is Format.LINES:
            return _lines(text, plan, limits)
        return _whole(_tree(text, form, kind.boundary or "", plan, limits), plan)
    except Unusable as unusable:
        return _dropped(unusable.reason)


def _readable_format(kind: ContentType) -> Format | None:
    """Return how a body of a content type is read; None where it is not (rule 9)."""
    form = Format.JSON if kind.essence is None else format_of(kind.essence)
    if not is_utf_8(kind) or (form is Format.MULTIPART and kind.boundary is None):
        return None
    return form


def _is_unread(message: Message) -> bool:
    return isinstance(message, CapturedRequest) and message.not_read


def _cut_off(message: Message) -> BodyReason | None:
    """Return why the capture lacks a part of the body; None if it has all of it."""
    if _is_unread(message):
        return BodyReason.NOT_READ
    if message.truncated or (isinstance(message, CapturedResponse) and not message.complete):
        return BodyReason.TRUNCATED
    return None


def _whole(tree: Json, body_plan: BodyPlan) -> Body:
    if is_too_complex(body_plan.plan):
        return _dropped(BodyReason.TOO_COMPLEX)
    whole = body_plan.plan.keep(tree)
    if whole is DROPPED and fits_no_variant(body_plan.plan, tree):
        return _dropped(BodyReason.NO_BRANCH)
    return _recorded(whole, _content_of(whole, body_plan.envelope))


def _lines(text: bytes, body_plan: BodyPlan, limits: Limits) -> Body:
    """Return what is kept of each line. A line of which nothing is kept is left out, as an array's element is."""
    trees = read_json_lines(text, limits.depth_max, limits.lines_max)
    if is_too_complex(body_plan.plan):
        return _dropped(BodyReason.TOO_COMPLEX)
    whole = [kept for each in trees if (kept := body_plan.plan.keep(each)) is not DROPPED]
    contents = (_content_of(each, body_plan.envelope) for each in whole)
    recorded = [each for each in contents if each is not DROPPED]
    return _recorded(whole or DROPPED, recorded or DROPPED)


def _tree(text: bytes, form: Format, boundary: str, body_plan: BodyPlan, limits: Limits) -> Json:
    if form is Format.JSON:
        return read_json(text, limits.depth_max)
    if form is Format.FORM:
        parts = split_urlencoded(text, limits.form_fields_max)
    else:
        parts = split_parts(text, boundary, limits.form_fields_max)
    return FormReader(parts, body_plan.form_encoding, limits.depth_max).read(body_plan.plan)


def _content_of(whole: Kept, envelope: str | None) -> Kept:
    if envelope is None:
        return whole
    return whole.get(envelope, DROPPED) if type(whole) is dict else DROPPED


def _recorded(whole: Kept, recorded: Kept) -> Body:
    return Body(recorded, whole, BodyReceipt(kept=0 if recorded is DROPPED else count_scalars(recorded)))


def _content(message: Message) -> bytes:
    try:
        content: bytes | None = body_bytes(message) or b""
    except ValueError:
        content = None
    if content is None:
        raise Unusable(BodyReason.MALFORMED)
    return content


class ReferenceBodies:
    """Reads any body."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def prepare(self, plan: BodyPlan) -> None:
        """Do beforehand what reading the first body of a plan would take."""

    def overrides_method(self, message: CapturedRequest, content_type: str | None) -> bool:
        """Whether a field of a request's body asks for another method."""
        content = Content(message, self._limits.body_bytes_max)
        return body_overrides_method(content, parse_content_type(content_type).essence, message.method)

    def hides_method(self, message: CapturedRequest, content_type: str | None) -> bool:
        """Whether what is missing of a request's body may ask for another method."""
        content = Content(message, self._limits.body_bytes_max)
        return body_hides_method(content, parse_content_type(content_type).essence)

    def read(
        self,
        message: Message,
        template: MessageTemplate,
        content_type: str | None,
        is_encoded: bool,  # noqa: ARG002  for the fast path; by position, because that is faster
    ) -> KeptBody:
        """Return what is kept of a body that may be read.

        `content_type` is as it was written; `is_encoded` says whether a content coding is declared. OVERRIDES_METHOD
        where the template asks for it and a field of the body asks for another method.
        """
        if is_absent(message):
            return ABSENT
        kind = parse_content_type(content_type)
        # One for both: decoding is the dearest part of a compressed body.
        content = Content(message, self._limits.body_bytes_max)
        # Where the template asks for it, the request's method is POST.
        if template.may_override_method and body_overrides_method(content, kind.essence, "POST"):
            return OVERRIDES_METHOD
        plan = template.plan_for(kind.essence)
        kept = _kept_body(redact_body(content, kind, plan, self._limits), template)
        kept.hides_method = template.may_override_method and body_hides_method(content, kind.essence)
        return kept


def _kept_body(body: Body, template: MessageTemplate) -> KeptBody:
    text = UNSET if body.recorded is DROPPED else msgspec.Raw(encode_json(body.recorded))
    if template.id_steps is None:
        return KeptBody(text, body.receipt)
    found = value_at(body.whole if template.id_is_in_whole else body.recorded, template.id_steps)
    if type(found) is str or isinstance(found, JsonInteger):
        return KeptBody(text, body.receipt, found)
    return KeptBody(text, body.receipt)


class FastBodies(ReferenceBodies):
    """Reads plain JSON text by a type made from the plan."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._types = BodyTypes(limits.depth_max, limits.body_bytes_max)

    def prepare(self, plan: BodyPlan) -> None:
        """Make the types of a plan, so that no body has to wait for them."""
        self._types.body(plan.plan, plan.envelope)

    def read(
        self,
        message: Message,
        template: MessageTemplate,
        content_type: str | None,
        is_encoded: bool,
    ) -> KeptBody:
        text = message.body
        if not (text or message.body_base64 or message.truncated) and is_absent(message):
            return ABSENT
        reader = template.readers.get(content_type) or self._new_reader(template, content_type)
        if (
            text is None
            or is_encoded
            or message.body_base64 is not None
            or (template.may_override_method and (message.truncated or may_override_method(text, reader)))
        ):
            return super().read(message, template, content_type, is_encoded)
        if reader.dropped is not None:
            return reader.dropped
        kept = None
        if reader.typed is not None and _cut_off(message) is None:
            kept = reader.typed.read(text, template.reads_top_id)
        return super().read(message, template, content_type, is_encoded) if kept is None else kept

    def _new_reader(self, template: MessageTemplate, content_type: str | None) -> BodyReader:
        kind = parse_content_type(content_type)
        plan = template.plan_for(kind.essence)
        form = Format.JSON if kind.essence is None else format_of(kind.essence)
        typed = dropped = None
        if isinstance(plan, BodyReason):
            dropped = KeptBody(UNSET, BodyReceipt(reason=plan))
        # An id that stands deeper, or outside the envelope, is found in the tree alone.
        elif form is Format.JSON and is_utf_8(kind) and (template.id_steps is None or template.reads_top_id):
            typed = self._types.body(plan.plan, plan.envelope)
        reader = BodyReader(typed=typed, dropped=dropped, is_form=form in (Format.FORM, Format.MULTIPART))
        if len(template.readers) < _CONTENT_TYPES_MAX:
            template.readers[content_type] = reader
        return reader


def may_override_method(text: str, reader: BodyReader) -> bool:
    """Whether a field of a body may ask for another method: its name then spells `method`, unless an escape or
    a NUL hides that.
    """
    return "method" in text.lower() or "\\u" in text or "\0" in text or (reader.is_form and "%" in text)
