"""What is recorded of the exchange itself, where the operator lets it leave: its host, its duration and the response's size.

No document can mark these, and the size of a body tells of the values that are dropped, so by default none of them leaves
(docs/adr/0044-request-logs.md). Both implementations of the pipeline read them here.
"""

from __future__ import annotations

import re
from typing import Final

from redactor.compile.denied_headers import NO_HEADERS, DeniedHeaders
from redactor.decode.headers import CONTENT_LENGTH, HOST, HeaderFields
from redactor.decode.url import parse_host, split_url, valid_host
from schemas.capture import Capture, CapturedRequest, Headers
from schemas.event import DURATION_MS_MAX, RESPONSE_BYTES_MAX, Exchange

_TRANSFER_ENCODING: Final = "transfer-encoding"
_HOST: Final = frozenset({HOST})
_FRAMING: Final = frozenset({CONTENT_LENGTH, _TRANSFER_ENCODING})
_LENGTH: Final = re.compile(r"[0-9]{1,16}", re.ASCII)
_NO_HOST: Final = "unknown.invalid"
"""What taps write where a request names no host, or several."""
_WITHOUT_CONTENT: Final = frozenset({204, 304})
_USUAL_STATUSES: Final = frozenset(range(200, 600)) - _WITHOUT_CONTENT
_METHODS_WITHOUT_LENGTH: Final = frozenset({"HEAD", "CONNECT"})
_DIGITS_MAX: Final = 15  # of a length that is below the bound in any case
_SCHEME_CHARS_MAX: Final = len("https://")
_ORIGINS_MAX: Final = 1_024
_ORIGIN_CHARS_MAX: Final = 256
_NAME_SETS_MAX: Final = 1_024
_NAMES_CHARS_MAX: Final = 4_096


class ReferenceExchanges:
    """Records the exchange of any pair."""

    def record(self, capture: Capture, denied: DeniedHeaders = NO_HEADERS) -> Exchange:
        """Return what is recorded. `denied`: the headers that the document denies; their values are denied in any other form, too."""
        return Exchange(
            None if HOST in denied.of_request else _host(capture.request),
            _duration_ms(capture.duration_ms),
            None if CONTENT_LENGTH in denied.of_response else _response_bytes(capture),
        )


class FastExchanges(ReferenceExchanges):
    """Records the exchange where the URL's origin is known, and the response declares its length once."""

    def __init__(self) -> None:
        self._hosts: dict[str, str] = {}
        self._length_names: dict[tuple[str, ...], str] = {}
        """The name of the declared length, as it is written, by the names of all headers; empty where only the reference can tell."""

    def record(self, capture: Capture, denied: DeniedHeaders = NO_HEADERS) -> Exchange:
        request, response = capture.request, capture.response
        url, headers = request.url, response.headers
        # Empty where the URL is a path, or a host alone: no such text is remembered.
        origin = url[: max(url.find("/", _SCHEME_CHARS_MAX), 0)]
        host = self._hosts.get(origin) or self._new_host(request, origin)
        names = tuple(headers)
        length = headers.get(self._length_names.get(names) or self._length_name(names))
        # A declared length is not all that decides, and of some responses it says nothing.
        is_usual = denied is NO_HEADERS and response.complete and response.status in _USUAL_STATUSES
        if (
            is_usual
            and isinstance(length, str)
            and length.isascii()
            and length.isdigit()
            and len(length) <= _DIGITS_MAX
            and request.method not in _METHODS_WITHOUT_LENGTH
        ):
            return Exchange(host, _duration_ms(capture.duration_ms), int(length))
        return super().record(capture, denied)

    def _new_host(self, request: CapturedRequest, origin: str) -> str | None:
        """Return the host that is recorded; remember it where the beginning of the URL alone decides."""
        host = _host(request)
        decides = split_url(origin + "/").host is not None
        if host is not None and decides and len(origin) <= _ORIGIN_CHARS_MAX:
            if len(self._hosts) >= _ORIGINS_MAX:
                self._hosts.clear()
            self._hosts[origin] = host
        return host

    def _length_name(self, names: tuple[str, ...]) -> str:
        if names in self._length_names:
            return self._length_names[names]
        framing = [name for name in names if name.isascii() and name.lower() in _FRAMING]
        found = framing[0] if len(framing) == 1 and framing[0].lower() == CONTENT_LENGTH else ""
        if sum(map(len, names)) <= _NAMES_CHARS_MAX:
            if len(self._length_names) >= _NAME_SETS_MAX:
                self._length_names.clear()
            self._length_names[names] = found
        return found


def _host(request: CapturedRequest) -> str | None:
    host = split_url(request.url).host
    if host is None:
        host = parse_host(HeaderFields(request.headers, _HOST).once(HOST) or "")
    return None if host == _NO_HOST else valid_host(host)


def _duration_ms(duration_ms: float | None) -> int | None:
    # What is not a number compares as False.
    if duration_ms is None or not 0 <= duration_ms <= DURATION_MS_MAX:
        return None
    return round(duration_ms)


def _response_bytes(capture: Capture) -> int | None:
    """Return the length of the response's body as it was sent; None where nothing tells it.

    The declared length goes before that of the captured body, because some gateways hand over what they will compress, or have
    inflated. A body that is not in the capture tells nothing: of most GETs, it is never copied.
    """
    response = capture.response
    if response.status < 200 or capture.request.method == "CONNECT" or not response.complete:
        return None
    if capture.request.method == "HEAD" or response.status in _WITHOUT_CONTENT:
        # The length in such a head is that of another response (RFC 9110, 8.6).
        return 0
    declared = _declared_bytes(response.headers)
    if declared is not None or response.truncated:
        return declared
    if response.body is None:
        return None if response.body_base64 is None else _decoded_bytes(response.body_base64)
    return _encoded_bytes(response.body) if response.body_base64 is None else None


def _declared_bytes(headers: Headers) -> int | None:
    fields = HeaderFields(headers, _FRAMING)
    text = fields.once(CONTENT_LENGTH)
    # A transfer coding makes the length void (RFC 9112, 6.3).
    if text is None or _LENGTH.fullmatch(text) is None or fields.present(_TRANSFER_ENCODING):
        return None
    length = int(text)
    return length if length <= RESPONSE_BYTES_MAX else None


def _encoded_bytes(text: str) -> int:
    # JSON has no half of a surrogate pair that it could not hold: such a text does not come from a tap.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _decoded_bytes(text: str) -> int | None:
    """Return how many bytes a base64 text holds, without decoding it; None where its length is none of base64."""
    padding = len(text) - len(text.rstrip("="))
    return len(text) // 4 * 3 - padding if len(text) % 4 == 0 and padding <= 2 else None
