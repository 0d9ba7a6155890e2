"""One body: the ordered checks of the receipt, then what its plan keeps (rules 8 to 12)."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from redactor.compiled import Media
from redactor.config import Limits
from redactor.encodings import decode_content
from redactor.forms import FormReader, split_urlencoded
from redactor.headers import Fields, content_codings, content_type, is_read_as_utf_8
from redactor.media_types import Format, format_of
from redactor.multipart import split_parts
from redactor.plan import DROPPED, Kept, count_scalars, finds_no_branch
from redactor.url import asks_for_method, names_method
from redactor.wellformed import Json, Unusable, read_json, read_json_lines
from schemas.capture import CapturedRequest, CapturedResponse, body_bytes
from schemas.event import BodyReason, BodyReceipt

_MULTIPART_METHOD = re.compile(r"(?i)name\*?\s*=\s*\"?(?:utf-8'[a-z-]*')?_method(?![^\s\";])")

_TOP = msgspec.json.Decoder(dict[str, msgspec.Raw])
_METHOD_KEY = re.compile(rb"[_.$-](?:http_?)?method|http[_-]method")

Message = CapturedRequest | CapturedResponse


class Body(NamedTuple):
    """What was kept of a body. `recorded` is `whole`, or its envelope's content (rule 12)."""

    recorded: Kept
    whole: Kept
    receipt: BodyReceipt


def dropped(reason: BodyReason) -> Body:
    """Return the body of which nothing is kept, for a reason."""
    return Body(DROPPED, DROPPED, BodyReceipt(reason=reason))


ABSENT = Body(DROPPED, DROPPED, BodyReceipt())
NEVER_READ = dropped(BodyReason.GET)


def is_absent(message: Message) -> bool:
    """Tell whether there was no body at all."""
    return not (message.body or message.body_base64 or message.truncated)


class Content:
    """A message's body and what its headers say of it. It is decoded when first asked for, and once."""

    __slots__ = ("_bytes_max", "_decoded", "fields", "message")

    def __init__(self, message: Message, fields: Fields, bytes_max: int) -> None:
        self.message = message
        self.fields = fields
        self._bytes_max = bytes_max
        self._decoded: bytes | BodyReason | None = None

    def text(self) -> bytes:
        """Return the body with its codings undone. Raises Unusable: `malformed`, `encoding` or `too_large`."""
        if self._decoded is None:
            try:
                self._decoded = decode_content(
                    _content(self.message), content_codings(self.fields), self._bytes_max
                )
            except Unusable as unusable:
                self._decoded = unusable.reason
        if isinstance(self._decoded, BodyReason):
            raise Unusable(self._decoded)
        return self._decoded


def body_asks_for_method(content: Content) -> bool:
    """Tell whether a form, or a JSON object at its top, holds a field that frameworks take for another method."""
    essence = content_type(content.fields).essence
    form = Format.JSON if essence is None else format_of(essence)
    if form in (None, Format.LINES):
        return False
    try:
        text = content.text()
    except Unusable:
        return False
    if form is Format.JSON:
        return _object_asks_for_method(text)
    decoded = text.decode(errors="replace")
    return _MULTIPART_METHOD.search(decoded) is not None or asks_for_method(decoded)


def _object_asks_for_method(text: bytes) -> bool:
    plain = text.replace(b"\0", b"").lower()
    if b"method" not in plain and b"\\u" not in plain:
        return False
    try:
        names = list(_TOP.decode(text))
    except msgspec.ValidationError:
        return False
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # Whoever reads on where it is not well-formed might find it.
        return _METHOD_KEY.search(plain) is not None
    return any(map(names_method, names))


def redact_body(content: Content, media: Media | BodyReason, limits: Limits) -> Body:
    """Return what the plan keeps of a message's body, or the first check that fails, in the receipt's order."""
    if isinstance(media, BodyReason):
        return dropped(media)
    message = content.message
    kind = content_type(content.fields)
    form = Format.JSON if kind.essence is None else format_of(kind.essence)
    if form is None or not is_read_as_utf_8(kind) or (form is Format.MULTIPART and kind.boundary is None):
        return dropped(BodyReason.MEDIA_TYPE)
    if message.truncated or (isinstance(message, CapturedResponse) and not message.complete):
        return dropped(BodyReason.TRUNCATED)
    try:
        text = content.text()
        if form is Format.LINES:
            return _lines(text, media, limits)
        return _whole(_tree(text, form, kind.boundary or "", media, limits), media)
    except Unusable as unusable:
        return dropped(unusable.reason)


def _whole(tree: Json, media: Media) -> Body:
    whole = media.plan.keep(tree)
    if whole is DROPPED and finds_no_branch(media.plan, tree):
        return dropped(BodyReason.NO_BRANCH)
    return _recorded(whole, _content_of(whole, media.envelope))


def _lines(text: bytes, media: Media, limits: Limits) -> Body:
    """Return what is kept of each line; a line of which nothing is kept vanishes as an array's element does."""
    trees = read_json_lines(text, limits.depth_max, limits.lines_max)
    whole = [kept for each in trees if (kept := media.plan.keep(each)) is not DROPPED]
    contents = (_content_of(each, media.envelope) for each in whole)
    recorded = [each for each in contents if each is not DROPPED]
    return _recorded(whole or DROPPED, recorded or DROPPED)


def _tree(text: bytes, form: Format, boundary: str, media: Media, limits: Limits) -> Json:
    if form is Format.JSON:
        return read_json(text, limits.depth_max)
    if form is Format.FORM:
        parts = split_urlencoded(text, limits.form_fields_max)
    else:
        parts = split_parts(text, boundary, limits.form_fields_max)
    return FormReader(parts, media.fields, limits.depth_max).read(media.plan)


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
