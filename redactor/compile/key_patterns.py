"""The regular expressions of `patternProperties`: written for ECMA-262, run by RE2 in linear time (rule 4).

A few expressions mean different things to the two. Those that can be translated are; a pattern with one that only RE2
knows, or that implementations of ECMA-262 read differently, is unusable. Implementations also differ in whether a
character beyond U+FFFF counts as one or as two. Where the match of a key depends on that, it is uncertain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import re2

from redactor.openapi.pattern import Pattern

_SPACE = r"\t\n\x0b\x0c\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}"
_TRANSLATED = {
    (False, "."): r"[^\n\r\x{2028}\x{2029}]",
    (False, r"\s"): f"[{_SPACE}]",
    (False, r"\S"): f"[^{_SPACE}]",
    (True, r"\s"): _SPACE,
}
_TOKEN = re.compile(
    r"(?P<unit>\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4})"
    r"|(?P<plain>\\x[0-9a-fA-F]{2}|\\[dDwWbBtnrvf]|\\[!-/:-@\[-^`{-~])"
    r"|(?P<space>\\[sS])"
    r"|(?P<opening>\[\^?(?!\]))"
    r"|(?P<group>\(\?:|\(\?<[A-Za-z_]|\((?!\?))"
    r"|(?P<other>[^\\])"
)
_BEYOND = re.compile("[\U00010000-\U0010ffff]")
_TWO_UNITS = "\ue000\ue001"


def translated(text: str) -> str | None:
    """Translate an ECMA-262 pattern for RE2; None where the two might not match the same texts."""
    parts: list[str] = []
    in_class = False
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or not _is_clear(text, token, in_class=in_class):
            return None
        if token.lastgroup == "unit":
            parts.append(r"\x{" + token[0][2:] + "}")
        else:
            parts.append(_TRANSLATED.get((in_class, token[0]), token[0]))
        if not in_class and token.lastgroup == "opening":
            in_class = True
        elif in_class and token[0] == "]":
            in_class = False
        position = token.end()
    return "".join(parts)


def _is_clear(text: str, token: re.Match[str], *, in_class: bool) -> bool:
    """Whether every implementation reads a token in the same way where it stands."""
    if not in_class:
        return not (token.lastgroup == "other" and token[0] in "[(")
    before, after = text[: token.start()], text[token.end() :]
    if token.lastgroup == "space":
        # `\s` becomes several ranges, so it cannot be the end of another one.
        starts_range = after.startswith("-") and not after.startswith("-]")
        ends_range = before.endswith("-") and not before.endswith(("[-", "[^-"))
        return token[0] == r"\s" and not (starts_range or ends_range)
    # Inside a class, only RE2 reads `[:alpha:]` and the like as a class of its own.
    return not (token[0].startswith("[") and after[:1] in (":", ".", "="))


class KeyPattern:
    """One usable pattern of a document."""

    __slots__ = ("_regular", "pattern")

    def __init__(self, pattern: str, regular: Pattern) -> None:
        self.pattern = pattern
        """As the document has it."""
        self._regular = regular

    @classmethod
    def of(cls, text: str) -> KeyPattern | None:
        """Compile a pattern; None where it is unusable."""
        ecma = translated(text)
        if ecma is None:
            return None
        try:
            return cls(text, re2.compile(ecma, _options()))
        except re2.error:
            return None

    def matches(self, key: str) -> bool | None:
        """Whether a key matches; None where that is uncertain."""
        found = self._regular.search(key) is not None
        if key.isascii() or _BEYOND.search(key) is None:
            return found
        as_units = self._regular.search(_BEYOND.sub(_TWO_UNITS, key)) is not None
        return found if found == as_units else None


class KeyPatterns:
    """The patterns of one map, matched together. Implements `plan.KeyMatcher`."""

    __slots__ = ("_always", "_patterns", "_set", "texts")

    def __init__(self, patterns: Sequence[KeyPattern]) -> None:
        self._patterns = tuple(patterns)
        self.texts = tuple(each.pattern for each in patterns)
        self._always = len(self._patterns)
        self._set: re2.Set | None = None
        if len(self._patterns) > 1:  # a single pattern needs no set
            self._set = re2.Set.SearchSet(_options())
            for each in self._patterns:
                self._set.Add(translated(each.pattern) or "")
            # A set that runs out of memory silently finds nothing. Then this pattern, which always matches, is missing.
            self._set.Add("")
            self._set.Compile()

    def matching(self, key: str) -> Sequence[int] | None:
        """Return the indices of the patterns that a key matches, in no order; None where that is uncertain."""
        found = self._found(key)
        if found is not None and not key.isascii() and _BEYOND.search(key) is not None:
            return found if found == self._found(_BEYOND.sub(_TWO_UNITS, key)) else None
        if found is not None:
            return found
        matches = [each.matches(key) for each in self._patterns]
        return None if None in matches else [index for index, match in enumerate(matches) if match]

    def _found(self, text: str) -> list[int] | None:
        """Return the indices that the set finds, in order; None where there is no set, or it ran out of memory."""
        found: list[int] = [] if self._set is None else self._set.Match(text) or []
        if len(found) > 1:
            found.sort()
        return found[:-1] if found and found[-1] == self._always else None


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    return options
