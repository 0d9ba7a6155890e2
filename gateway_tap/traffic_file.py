"""Files of pairs that other tools write, HAR and mitmproxy's flows: read as captures that get the same ids each time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from gateway_tap.body import RejectedBody
from gateway_tap.capture_file import Line, input_name, reading
from gateway_tap.formats.har import HAR
from gateway_tap.formats.mitmproxy import MITMPROXY
from gateway_tap.formats.port import GatewayFormat
from gateway_tap.formats.recognition import FileFormat, recognize
from gateway_tap.formats.tnetstrings import NotTnetstring, next_frame
from schemas.capture import Capture
from schemas.errors import RefusalReason, RefusedCapture, StartupError
from schemas.identity import MS_MAX, derive_id, parse_rfc3339_ms

_HAR_BYTES_MAX: Final = 256 * 1024 * 1024
"""A HAR file is one JSON text, and is held in memory as a whole."""
_ENTRIES_MAX: Final = 100_000
_FLOW_BYTES_MAX: Final = 64 * 1024 * 1024
# Not secret: whoever has the file can compute the ids. They only have to be the same ones each time.
_ID_KEY: Final = b"auditap import"

_encoder: Final = msgspec.json.Encoder()


class _Text(NamedTuple):
    number: int
    text: bytes
    format: GatewayFormat


def read_captures(
    source: Path | BinaryIO,
    line_bytes_max: int,
    on_refused: Callable[[int, RefusedCapture], None],
) -> Iterator[Line]:
    """Yield the captures in a HAR or mitmproxy file as JSON, each with its id, and the number of its entry from 1.

    The id depends on the capture alone, so a pair that is in two files, or twice in one, is one record. A capture longer than
    `line_bytes_max` goes without its bodies, as `truncated`. `on_refused` gets the number of each entry that is not yielded;
    the reason is NoPair where it holds no complete HTTP pair. Raises StartupError, one sentence, if the file
    cannot be read, is neither of the two, is damaged or too long.
    """
    number = 0
    with reading(source, lambda: f"entry {number}") as opened:
        for number, text, gateway_format in _texts(opened, input_name(source)):
            if not text:
                on_refused(number, RefusedCapture(RefusalReason.TOO_LARGE))
                continue
            try:
                capture = gateway_format.decode(text)
            except RefusedCapture as refused:
                on_refused(number, refused)
                continue
            yield Line(number, _line(capture, line_bytes_max))


def _texts(opened: BufferedReader[Any], name: str) -> Iterator[_Text]:
    match recognize(opened.peek(1)):
        case FileFormat.HAR:
            for number, text in enumerate(_har_entries(opened, name), 1):
                yield _Text(number, text, HAR)
        case FileFormat.MITMPROXY:
            for number, text in enumerate(_flows(opened, name), 1):
                yield _Text(number, text, MITMPROXY)
        case None:
            raise StartupError(
                f"{name} is neither a HAR file nor one of mitmproxy's flows: send files of captures with `auditap replay`"
            )


def _har_entries(opened: BufferedReader[Any], name: str) -> Iterator[bytes]:
    body = opened.read(_HAR_BYTES_MAX + 1)
    if len(body) > _HAR_BYTES_MAX:
        raise StartupError(f"{name} is longer than {_HAR_BYTES_MAX} bytes: export it in parts")
    try:
        yield from HAR.split(body, "", _ENTRIES_MAX)
    except RejectedBody:
        raise StartupError(
            f"{name} is not a HAR file of at most {_ENTRIES_MAX} entries: it has no `log.entries`, is cut off, or is too long"
        ) from None


def _flows(opened: BufferedReader[Any], name: str) -> Iterator[bytes]:
    number = 0
    while True:
        try:
            frame = next_frame(opened, _FLOW_BYTES_MAX)
        except NotTnetstring:
            raise StartupError(f"{name} is damaged after flow {number}") from None
        if frame is None:
            return
        number += 1
        yield frame


def _line(capture: Capture, line_bytes_max: int) -> bytes:
    """Return the capture as JSON, with its id."""
    identified = replace(capture, id=_id(capture))
    line = _encoder.encode(identified)
    if len(line) <= line_bytes_max:
        return line
    without: dict[str, Any] = {"body": None, "body_base64": None, "truncated": True}
    request, response = replace(capture.request, **without), replace(capture.response, **without)
    return _encoder.encode(replace(identified, request=request, response=response))


def _id(capture: Capture) -> str:
    request, response = capture.request, capture.response
    # Named one by one: a field that captures get later must not change the ids of files that were imported before.
    parts = (
        capture.captured_at,
        capture.duration_ms,
        capture.client_ip,
        (request.method, request.url, request.headers, request.body, request.body_base64, request.truncated),
        (response.status, response.headers, response.body, response.body_base64, response.truncated),
    )
    at_ms = parse_rfc3339_ms(capture.captured_at or "") or 0
    digest = hashlib.sha256(_encoder.encode(parts)).hexdigest()
    return derive_id(_ID_KEY, min(max(at_ms, 0), MS_MAX), "", 0, digest)
