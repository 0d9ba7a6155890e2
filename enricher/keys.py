"""Which ids may be asked for: nothing else ever leaves for a service."""

from __future__ import annotations

from collections.abc import Callable

from enricher.config import compile_syntax
from enricher.ports import may_be_asked

KeyCheck = Callable[[str], bool]


def compile_keys(who: str, key_syntax: str, key_chars_max: int) -> KeyCheck:
    """Return the function that tells whether a key is in the syntax (RE2, of the whole key) and short enough.

    Dots alone, which would be steps within a path, and NUL never pass. Raises StartupError.
    """
    syntax = compile_syntax(who, key_syntax)

    def is_key(key: str) -> bool:
        return (
            len(key) <= key_chars_max
            and may_be_asked(key)
            and key.strip(".") != ""
            and "\0" not in key
            and syntax.fullmatch(key) is not None
        )

    return is_key
