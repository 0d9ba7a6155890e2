"""auditap's own format: NDJSON or a JSON array of captures, as `schemas/capture.schema.json` has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway_tap.body import split_texts
from gateway_tap.formats.port import GatewayFormat
from schemas.capture import Capture, decode_capture


class _OwnFormat:
    name: Final = "auditap"

    def split(self, body: bytes, content_type: str, texts_max: int) -> Iterable[bytes]:
        """See `GatewayFormat.split`."""
        return split_texts(body, content_type, texts_max)

    def decode(self, text: bytes) -> Capture:
        """See `GatewayFormat.decode`."""
        return decode_capture(text)


OWN: Final[GatewayFormat] = _OwnFormat()
