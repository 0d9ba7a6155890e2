"""Makes a pair out of the parts in which Envoy's external processing filter shows a request and its response."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from auditap_tap.capture import BodyCopy, Pair, RawHeaders, is_never_recorded
from auditap_tap.sequence import DropCause
from gateway_tap.receivers.ext_proc_messages import Part
from gateway_tap.receivers.received_tap import ReceivedTap
from schemas.identity import parse_rfc3339_ms

_CLIENT_CLOSED_REQUEST: Final = 499  # as nginx logs it: no standard status says that the client left
_SWITCHING_PROTOCOLS: Final = 101
"""Its head is the whole response; what follows is another protocol, which ends as its connection does."""
_AGE_MS_MAX: Final = 3_600_000


class ProcessedExchange:
    """Takes the parts of one exchange in their order. The pair gets its sequence number with the request's head.

    A tap that is frozen for a while sees requests late: then the time is Envoy's, if that is plausible.
    """

    def __init__(self, tap: ReceivedTap) -> None:
        self._tap = tap
        self._run = tap.run
        self._pair: Pair | None = None
        self._started_s = 0.0
        self._request_ended = False
        self._request_bytes_left: int | None = None
        """Of the length that the request declares, how much has not passed; None if it declares none."""

    def take(self, part: Part) -> bool:
        """Add the part, and return whether it was the last: the response has ended.

        What fails in here is counted as failed; nothing is raised.
        """
        try:
            return self._add(part)
        except Exception:  # noqa: BLE001  # one pair that cannot be copied must not cost the others
            self._fail()
            return True

    def end(self, *, is_cut: bool) -> None:
        """Capture what there is: nothing more comes.

        `is_cut`: the connection to Envoy was lost, so that nobody knows what became of the request. Otherwise the client or the
        service broke off.
        """
        pair = self._pair
        if pair is None:
            return
        if is_cut and pair.status is None:
            self._drop(pair, DropCause.LOST)
            return
        self._capture(pair, complete=pair.status == _SWITCHING_PROTOCOLS)

    def _add(self, part: Part) -> bool:
        pair = self._pair
        if pair is None:
            return self._begin(part)
        if not part.is_response:
            pair.request_body.append(part.body)
            self._note_request_end(part)
            return False
        if part.headers is not None:
            self._start_response(pair, part.headers)
        else:
            pair.response_body.append(part.body)
        if part.is_last:
            self._capture(pair, complete=True)
        return part.is_last

    def _note_request_end(self, part: Part) -> None:
        """Note whether the request has ended. With HTTP/2, Envoy may say so after the response, when all bytes have long passed."""
        if self._request_bytes_left is not None:
            self._request_bytes_left -= len(part.body)
        self._request_ended |= part.is_last or self._request_bytes_left == 0

    def _begin(self, part: Part) -> bool:
        if part.is_response or part.headers is None:
            # A filter before this one has responded, and Envoy does not show the request. If it has no number, the numbering
            # filter has not seen it either: Envoy itself answered what it could not read or route, which is no pair.
            is_numbered = part.position is not None
            if is_numbered or not part.is_response or part.headers is None:
                self._tap.refuse(part.position)
            return True
        run, tap = self._run, self._tap
        self._started_s = time.perf_counter()
        pair = self._pair_of(part.headers, part.attributes)
        if is_never_recorded(pair.request_headers):
            # At once, so that an upload does not fill the buffer.
            pair.request_body.discard()
        self._request_bytes_left = _declared_length(part.headers)
        self._note_request_end(part)
        # Last: once a number is assigned, the pair must be captured or dropped.
        seq, now_ms = run.numbers.assign()
        self._pair = pair
        pair.assign(seq, _time_of_request(part.attributes, now_ms))
        if part.position is not None:
            tap.observe(part.position, now_ms)
        return False

    def _pair_of(self, head: RawHeaders, attributes: Mapping[str, str]) -> Pair:
        pseudo = {name: value for name, value in head if name.startswith(b":")}
        headers = [line for line in head if not line[0].startswith(b":")]
        if authority := pseudo.get(b":authority"):
            headers.insert(0, (b"host", authority))
        target = pseudo.get(b":path", b"")
        path, _, query = target.partition(b"?")
        config = self._run.config
        scope = {
            "method": pseudo.get(b":method", b"").decode("latin-1"),
            "scheme": pseudo.get(b":scheme", b"http").decode("latin-1"),
            "raw_path": path,
            "path": "",
            "query_string": query,
            "client": (_address(attributes.get("source.address", "")), None),
        }
        copied = scope["method"] not in config.methods_without_bodies
        return Pair(
            scope,
            config.request_headers.select(headers),
            BodyCopy(self._run.buffer, config.body_bytes_max, copied=copied),
            BodyCopy(self._run.buffer, config.body_bytes_max, copied=copied),
        )

    def _start_response(self, pair: Pair, head: RawHeaders) -> None:
        status = next((value for name, value in head if name == b":status"), b"")
        pair.status = int(status)
        pair.response_headers = self._run.config.response_headers.select(head)
        if is_never_recorded(pair.response_headers):
            pair.response_body.discard()

    def _capture(self, pair: Pair, *, complete: bool) -> None:
        """Put the pair into the buffer; what does not fit is dropped, and its number accounted for."""
        self._pair = None
        pair.complete = complete
        pair.duration_ms = (time.perf_counter() - self._started_s) * 1000
        if pair.status is None:
            pair.status = _CLIENT_CLOSED_REQUEST
        if not self._request_ended:
            if complete:
                pair.request_body.leave_unread()
            else:
                pair.request_body.discard()
        if not self._run.buffer.put(pair):
            self._run.numbers.drop(
                (pair.seq,), DropCause.CLOSING if self._run.closed else DropCause.BUFFER_FULL
            )

    def _drop(self, pair: Pair, cause: DropCause) -> None:
        self._pair = None
        pair.request_body.discard()
        pair.response_body.discard()
        self._run.numbers.drop((pair.seq,), cause)

    def _fail(self) -> None:
        self._run.buffer.count_failed()
        if self._pair is not None:
            self._drop(self._pair, DropCause.FAILED)


def _declared_length(head: RawHeaders) -> int | None:
    declared = [value for name, value in head if name == b"content-length"]
    return int(declared[0]) if len(declared) == 1 and declared[0].isdigit() else None


def _time_of_request(attributes: Mapping[str, str], now_ms: int) -> int:
    """Return when the request began by Envoy's clock (Unix ms), unless that is later than now or long ago."""
    at_ms = parse_rfc3339_ms(attributes.get("request.time", ""))
    return at_ms if at_ms is not None and now_ms - _AGE_MS_MAX <= at_ms <= now_ms else now_ms


def _address(host_and_port: str) -> str:
    """Return the address of `192.0.2.1:1234` or `[2001:db8::1]:1234`."""
    host = host_and_port.rpartition(":")[0] or host_and_port
    return host.removeprefix("[").removesuffix("]")
