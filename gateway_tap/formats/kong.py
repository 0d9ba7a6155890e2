"""Kong's http-log plugin.

Known from Kong's source (kong/plugins/http-log/handler.lua, kong/pdk/log.lua), not run against a real Kong. An entry is what
`kong.log.serialize()` returns; bodies are not part of it unless a function sets `request.body` and `response.body`, or
`body_base64` beside them, with `kong.log.set_serialize_value`. With `queue.max_batch_size` above 1, a request to the collector
has an array of entries, else one object.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from gateway_tap.body import split_texts
from gateway_tap.formats.contracts import decode_bytes
from gateway_tap.formats.nginx_log import Entry, Milliseconds, entry_capture
from gateway_tap.formats.port import GatewayFormat
from schemas.capture import Capture


class _Latencies(msgspec.Struct, frozen=True, gc=False):
    request: Milliseconds | None = None


class _KongEntry(Entry, frozen=True, gc=False, kw_only=True):
    started_at: Milliseconds
    latencies: _Latencies = _Latencies()


_decoder: Final = msgspec.json.Decoder(_KongEntry)


class _KongFormat:
    name: Final = "kong"

    def split(self, body: bytes, content_type: str, texts_max: int) -> Iterable[bytes]:
        """See `GatewayFormat.split`."""
        return split_texts(body, content_type, texts_max)

    def decode(self, text: bytes) -> Capture:
        """See `GatewayFormat.decode`."""
        entry, is_bytes = decode_bytes(_decoder, text)
        return entry_capture(
            entry, is_bytes=is_bytes, started_ms=entry.started_at, duration_ms=entry.latencies.request
        )


KONG: Final[GatewayFormat] = _KongFormat()
