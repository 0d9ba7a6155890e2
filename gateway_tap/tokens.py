"""Bearer tokens of taps that send over TCP."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from schemas.private_files import SECRET_CHARS_MIN

_ANY_TAP: Final = "*"
# As schemas/capture.schema.json has it; none of the characters with which patterns begin.
_TAP_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]{0,63}")


class TapToken(NamedTuple):
    """A token, known by its SHA-256 alone, and the tap ids it may send for: names, `fnmatch` patterns or `*`."""

    sha256: bytes
    tap_patterns: tuple[str, ...]

    def allows(self, tap_id: str | None) -> bool:
        """Return whether the token may send for this tap. Sending for None, a capture without a tap, takes `*`."""
        if tap_id is None:
            return _ANY_TAP in self.tap_patterns
        return any(fnmatchcase(tap_id, pattern) for pattern in self.tap_patterns)

    @property
    def only_tap(self) -> str | None:
        """The one tap that the token may send for; None if there may be several."""
        names = self.tap_patterns
        return names[0] if len(names) == 1 and _TAP_ID.fullmatch(names[0]) else None


class TapTokens:
    """The tokens that taps may present."""

    def __init__(self, tokens: Sequence[TapToken]) -> None:
        self._tokens = tuple(tokens)

    def find(self, authorization: str, scheme: str = "bearer") -> TapToken | None:
        """Return the token that an `Authorization` header presents by this scheme (lower case), None if it is not one of these."""
        used_scheme, _, presented = authorization.partition(" ")
        if used_scheme.lower() != scheme:
            return None
        token = presented.strip()
        # Whatever is configured: an empty token would let in everybody, and a short one whoever guesses it.
        if len(token) < SECRET_CHARS_MIN:
            return None
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        # Every token is compared, so that the time taken does not depend on which one matched.
        for known in self._tokens:
            if hmac.compare_digest(known.sha256, digest):
                found = known
        return found
