"""`application/x-www-form-urlencoded` bodies split into fields (rule 9)."""

from __future__ import annotations

from collections.abc import Iterator

from redactor.decode.json import Unusable, decode_utf8
from redactor.decode.multipart import FormPart
from redactor.decode.url import split_query
from schemas.event import BodyReason


def split_urlencoded(body: bytes, fields_max: int) -> Iterator[FormPart]:
    """Yield the fields of a form, grouped by name. A field that readers split or decode differently is no text.

    Raises Unusable: `malformed` where the body is not UTF-8 or begins with a BOM, `too_large` for too many fields.
    """
    # Counted first: `too_large` comes before `malformed` in the receipt's order.
    if body.count(b"&") >= fields_max:
        raise Unusable(BodyReason.TOO_LARGE)
    for name, pairs in split_query(decode_utf8(body)).items():
        for raw, value in pairs:
            # Some servers split pairs at a bare semicolon, too.
            is_text = value is not None and ";" not in raw
            yield FormPart(name, (value or "").encode(errors="replace"), is_text=is_text)
