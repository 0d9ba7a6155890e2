"""Which ids may be looked up. No other text is ever sent to a service."""

from __future__ import annotations

from collections.abc import Callable

from enricher.config import compile_syntax
from enricher.ports import is_valid_key

KeyCheck = Callable[[str], bool]

# Longer than any id in use, and short enough for a URL.
KEY_CHARS_MAX = 128


def compile_key_check(lookup: str, key_syntax: str) -> KeyCheck:
    """Return the function that decides whether a key may be sent.

    The whole key must match `key_syntax` (RE2) and have at most 128 characters. Keys of dots alone, which would be steps
    within a path, and keys with NUL are always rejected. `lookup` names the lookup in the StartupError for a pattern that
    RE2 does not accept.
    """
    syntax = compile_syntax(lookup, key_syntax)

    def may_be_sent(key: str) -> bool:
        if len(key) > KEY_CHARS_MAX or not is_valid_key(key):
            return False
        if not key.strip(".") or "\0" in key:
            return False
        return syntax.fullmatch(key) is not None

    return may_be_sent
