"""APISIX's http-logger plugin.

Known from APISIX' source (apisix/plugins/http-logger.lua, apisix/utils/log-util.lua, apisix/core/response.lua), not run against a
real APISIX. With `include_req_body` and `include_resp_body`, an entry has the bodies, each cut without a word at
`max_req_body_bytes` and `max_resp_body_bytes`; a response that the gateway compressed is inflated, with its `content-encoding`
still there. A request to the collector has an array of entries, one object if `batch_max_size` is 1, or one on each line with
`concat_method: new_line`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from gateway_tap.body import is_object, split_texts
from gateway_tap.formats.contracts import decode_bytes
from gateway_tap.formats.nginx_log import Entry, Milliseconds, entry_capture
from gateway_tap.formats.port import GatewayFormat
from schemas.capture import Capture

_BODY_BYTES_CAP: Final = 524_288
"""The default of `max_req_body_bytes` and `max_resp_body_bytes`."""


class _ApisixEntry(Entry, frozen=True, gc=False, kw_only=True):
    start_time: Milliseconds
    latency: Milliseconds | None = None


_decoder: Final = msgspec.json.Decoder(_ApisixEntry)


class _ApisixFormat:
    name: Final = "apisix"

    def split(self, body: bytes, content_type: str, texts_max: int) -> Iterable[bytes]:
        """See `GatewayFormat.split`. Lines come as `application/json`, too, in versions that know no other type."""
        if is_object(body):
            return split_texts(body, "application/x-ndjson", texts_max)
        return split_texts(body, content_type, texts_max)

    def decode(self, text: bytes) -> Capture:
        """See `GatewayFormat.decode`."""
        entry, is_bytes = decode_bytes(_decoder, text)
        return entry_capture(
            entry,
            is_bytes=is_bytes,
            started_ms=entry.start_time,
            duration_ms=entry.latency,
            body_bytes_cap=_BODY_BYTES_CAP,
        )


APISIX: Final[GatewayFormat] = _ApisixFormat()
