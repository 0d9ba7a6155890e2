"""What a format is. tests/contract/test_gateway_format_contract.py holds every format to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from schemas.capture import Capture, TapPosition
from schemas.errors import RefusalReason, RefusedCapture


class GatewayFormat(Protocol):
    """A form in which a tap or a gateway sends pairs. Pure: the same bytes always give the same captures.

    No error holds anything of the bytes, neither in its message nor as its context.
    """

    @property
    def name(self) -> str:
        """The format's name: lower case, the last part of its route."""

    def split(self, body: bytes, content_type: str, texts_max: int) -> Iterable[bytes]:
        """Return the texts in an inflated body, one for each pair, as `content_type` (a header value) says.

        Memory is bounded by `texts_max`, but more texts than that may be returned. Raises RejectedBody, here or while
        iterating.
        """

    def decode(self, text: bytes) -> Capture:
        """Return the capture in one text. Fields that a capture has no use for are ignored.

        Time and memory are linear in the text's length, which the caller bounds. Raises RefusedCapture: `malformed` if the text
        cannot be parsed, else `invalid` with the path of the wrong field, which names declared fields only. Raises NoPair.
        """


class NoPair(RefusedCapture):
    """The text is sound, but holds no HTTP request with its response: a request that was blocked, a WebSocket, a TCP flow."""

    def __init__(self, path: str) -> None:
        super().__init__(RefusalReason.INVALID, path)


class LineFormat(GatewayFormat, Protocol):
    """A format in which a gateway writes one pair on each line, to a receiver."""

    def position(self, text: bytes) -> TapPosition | None:
        """Return the number that the gateway itself gave the pair, and its epoch, even where the text is cut off after it.

        None where the gateway does not number what it sends. Numbers count from 1 within an epoch.
        """
