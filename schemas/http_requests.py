"""A record as a line of Cloudflare's dataset `http_requests`, which Access calls per-request logs with the user's identity.

The names, and the user as `cf-access-user` among the request's headers, are those of Cloudflare's page on per-request logs of Access.
Times are Unix nanoseconds: `unixnano`, the default of `timestamp_format` of a Logpush job, by Cloudflare's Terraform provider and its
pages for log collectors. No line was taken from a running Logpush.
"""

from __future__ import annotations

from typing import Any

from schemas.event import Exchange, RawRequest
from schemas.identity import id_ms

USER_HEADER = "cf-access-user"
_NS = 1_000_000


def http_request(
    record_id: str, raw: RawRequest, exchange: Exchange | None, *, user: str | None, client_ip: str | None
) -> dict[str, Any]:
    """Return the line of a record. `user` is who acted, an address or an id. What is not known is None; `auditap` is our own.

    `RayID` is never None, because collectors identify lines by it: without a request id it is the record's id.
    """
    known = exchange or Exchange()
    start_ms = id_ms(record_id)
    end_ms = None if known.duration_ms is None else start_ms + known.duration_ms
    return {
        "ClientIP": client_ip,
        "ClientRequestHost": known.host,
        "ClientRequestMethod": raw.method,
        "ClientRequestURI": raw.uri,
        "ClientRequestUserAgent": raw.user_agent,
        "EdgeStartTimestamp": start_ms * _NS,
        "EdgeEndTimestamp": None if end_ms is None else end_ms * _NS,
        "EdgeResponseBytes": known.response_bytes,
        "EdgeResponseStatus": raw.status_code,
        "RayID": raw.cf_ray_id or record_id,
        "RequestHeaders": {} if user is None else {USER_HEADER: user},
        "auditap": {"id": record_id},
    }
