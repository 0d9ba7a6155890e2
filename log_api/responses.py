"""Responses of the log API: the JSON envelope, long responses and streams within a tenant's share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from log_api.authorized_request import AuthorizedRequest
from log_api.fair_shares import Requester, SharedPlaces
from log_api.query_parameters import NumberedQuery
from log_api.records import AuditRecord

JSON = "application/json"
# Of a long response. A connection buffers about as much.
PIECE_BYTES = 64 * 1024
_encoder = msgspec.json.Encoder()


class Stream(StreamingResponse):
    """A stream that has a place while it is sent. Raises as `SharedPlaces.place` does, before it is begun, if there is none."""

    def __init__(
        self, chunks: AsyncIterator[bytes], media_type: str, places: SharedPlaces, requester: Requester
    ) -> None:
        super().__init__(chunks, media_type=media_type)
        self._places = places
        self._requester = requester

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._places.place(self._requester):
            await super().__call__(scope, receive, send)


class _LongResponse(Response):
    """A response that is sent in pieces as the client reads them, and has places for its bytes meanwhile.

    In one piece it would be buffered for whoever does not read it, and time out for whoever reads it slowly. Raises as
    `SharedPlaces.place` does, before it is begun, if there are too few.
    """

    def __init__(self, whole: Response, places: SharedPlaces, requester: Requester) -> None:
        super().__init__(whole.body, whole.status_code)
        self.raw_headers = whole.raw_headers
        self._places = places
        self._requester = requester

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        starts = range(0, len(self.body), PIECE_BYTES)
        with self._places.place(self._requester, len(starts)):
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            for start in starts:
                await send(
                    {
                        "type": "http.response.body",
                        "body": self.body[start : start + PIECE_BYTES],
                        "more_body": start != starts[-1],
                    }
                )


def sent_within_share(response: Response, places: SharedPlaces, requester: Requester) -> Response:
    if isinstance(response, StreamingResponse) or len(response.body) <= PIECE_BYTES:
        return response
    return _LongResponse(response, places, requester)


async def array(
    request: AuthorizedRequest,
    records: Sequence[AuditRecord],
    shape: Callable[[AuditRecord], object] = lambda one: one,
) -> msgspec.Raw:
    """Return a JSON array of what `shape` makes of each record."""

    def encoded(some: Sequence[AuditRecord]) -> bytes:
        return b",".join(_encoder.encode(shape(one)) for one in some)

    parts: list[bytes] = []
    async for some in request.reads.turns.results(records, encoded):
        parts += some
    return msgspec.Raw(b"[%b]" % b",".join(parts))


def page_response(records: object, info: Mapping[str, Any]) -> Response:
    body = {"success": True, "errors": [], "result": records, "result_info": info}
    return Response(msgspec.json.encode(body), media_type=JSON)


def result_response(result: object, **others: object) -> Response:
    body = {"success": True, "errors": [], "messages": [], "result": result, **others}
    return Response(msgspec.json.encode(body), media_type=JSON)


def numbered_page(records: object, count: int, numbered: NumberedQuery, **others: int) -> Response:
    info = {"page": numbered.page, "per_page": numbered.query.limit, "count": count, **others}
    return result_response(records, result_info=info)
