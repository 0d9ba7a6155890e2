"""One body: the ordered checks of the receipt, then what its plan keeps (rules 8 to 12)."""

from __future__ import annotations

from typing import NamedTuple

from redactor.compiled import Media
from redactor.config import Limits
from redactor.headers import Fields, is_encoded
from redactor.plan import DROPPED, Kept, count_scalars, finds_no_branch
from redactor.url import split_query
from redactor.wellformed import Unusable, read_json
from schemas.capture import CapturedRequest, CapturedResponse, body_bytes
from schemas.event import BodyReason, BodyReceipt

_MULTIPART_FIELD = 'name="{}"'

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


def holds_field(message: Message, name: str, bytes_max: int) -> bool:
    """Tell whether a form's text holds a field of this name near its start, in either encoding of forms."""
    try:
        text = (body_bytes(message) or b"")[:bytes_max].decode(errors="replace")
    except ValueError:
        return False
    return _MULTIPART_FIELD.format(name) in text or name in split_query(text)


def redact_body(message: Message, fields: Fields, media: Media | BodyReason, limits: Limits) -> Body:
    """Return what the plan keeps of a message's body, or the first check that fails, in the receipt's order."""
    if isinstance(media, BodyReason):
        return dropped(media)
    if message.truncated or (isinstance(message, CapturedResponse) and not message.complete):
        return dropped(BodyReason.TRUNCATED)
    if is_encoded(fields):
        return dropped(BodyReason.ENCODING)
    try:
        tree = read_json(_text(message, limits.body_bytes_max), limits.depth_max)
    except Unusable as unusable:
        return dropped(unusable.reason)
    whole = media.plan.keep(tree)
    if whole is DROPPED and finds_no_branch(media.plan, tree):
        return dropped(BodyReason.NO_BRANCH)
    recorded = whole
    if media.envelope is not None:
        recorded = whole.get(media.envelope, DROPPED) if type(whole) is dict else DROPPED
    return Body(recorded, whole, BodyReceipt(kept=0 if recorded is DROPPED else count_scalars(recorded)))


def _text(message: Message, bytes_max: int) -> bytes:
    try:
        text: bytes | None = body_bytes(message) or b""
    except ValueError:
        text = None
    if text is None:
        raise Unusable(BodyReason.MALFORMED)
    if len(text) > bytes_max:
        raise Unusable(BodyReason.TOO_LARGE)
    return text
