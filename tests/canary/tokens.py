"""Tokens that stand in captured values, and the search that finds them again, however they were encoded."""

from __future__ import annotations

import base64
import codecs
import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

SECRET = "zqxshut"
"""Begins every text that must not leave."""
SHOWN = "okmopen"
"""Begins every text that may."""
SECRET_DIGITS = "770431977"
SHOWN_DIGITS = "550431955"


class Mint:
    """Makes tokens, each once. Those that must not leave are counted, those that may are remembered."""

    def __init__(self) -> None:
        self._next = 0
        self.secret: Counter[str] = Counter()
        """How many values were made that must not leave, by the rule that says so."""
        self.shown: dict[str, str] = {}
        """Every token that may leave, and what has become of it: a rule's name where it must."""

    def _number(self) -> int:
        self._next += 1
        return self._next

    def secret_text(self, rule: str) -> str:
        self.secret[rule] += 1
        return f"{SECRET}{self._number():07d}qz"

    def secret_number(self, rule: str) -> int:
        self.secret[rule] += 1
        return int(f"{SECRET_DIGITS}{self._number() % 1_000_000:06d}")

    def shown_text(self, verdict: str) -> str:
        return self._remembered(f"{SHOWN}{self._number():07d}mo", verdict)

    def shown_number(self, verdict: str) -> int:
        number = f"{SHOWN_DIGITS}{self._number() % 1_000_000:06d}"
        return int(self._remembered(number, verdict))

    def _remembered(self, token: str, verdict: str) -> str:
        self.shown[token] = verdict
        return token


def secrets_in(text: bytes) -> set[str]:
    """Return every secret token found in `text`, in any of the forms in which a value may have been written."""
    return {match.decode("latin-1") for view in _views(text) for match in _SECRETS.findall(view)}


def shown_in(text: bytes) -> set[str]:
    """Return every token that may leave and that `text` holds as it was."""
    return {match.decode() for match in _SHOWN.findall(text)}


def _views(text: bytes) -> Iterator[bytes]:
    """Yield the text as it stands, in lower case, and with its escapes undone."""
    yield text
    lower = text.lower()
    yield lower
    unescaped = _ESCAPED_BYTE.sub(lambda match: bytes([int(match[1] or match[2], 16)]), lower)
    if unescaped != lower:
        yield unescaped.lower()
    for _ in range(3):
        if b"%" not in lower:
            return
        lower = unquote_to_bytes(lower).lower()
        yield lower


def _base64_of(token: str) -> Iterator[str]:
    """Yield the part of a token's base64 that is the same whatever comes before and after, for each alignment."""
    for skipped in range(3):
        padded = b"\0" * skipped + token.encode()
        whole = padded[: len(padded) // 3 * 3]
        yield base64.b64encode(whole).decode()[4 if skipped else 0 :]


def _forms(token: str) -> Iterator[str]:
    yield token
    yield token[::-1]
    yield codecs.encode(token, "rot13")
    yield token.encode().hex()
    yield token.encode().hex().upper()
    yield "\0".join(token)
    yield from _base64_of(token)
    # JSON texts are often packed twice, and base64 of UTF-16 is what some systems log.
    yield from _base64_of(token.encode("utf-16-le").decode("latin-1"))


_FLOAT_FORM = f"{SECRET_DIGITS[0]}.{SECRET_DIGITS[1:]}"
_ALL_FORMS = sorted({*_forms(SECRET), *(set(_forms(SECRET_DIGITS)) - {SECRET_DIGITS[::-1]}), _FLOAT_FORM})
_SECRETS = re.compile(b"(?:" + b"|".join(re.escape(form.encode("latin-1")) for form in _ALL_FORMS) + rb")\w*")
_SHOWN = re.compile(f"{SHOWN}[0-9]{{7}}mo|{SHOWN_DIGITS}[0-9]{{6}}".encode())
_ESCAPED_BYTE = re.compile(rb"\\u00([0-9a-f]{2})|\\x([0-9a-f]{2})")
