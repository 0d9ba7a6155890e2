"""Names and formats that look as if a secret stood there. A guess, for a person to judge."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SURE = _words(
    "password passwords passwd pwd passphrase passcode secret secrets credential credentials authorization "
    "cookie cookies jwt bearer mnemonic cvv cvc ssn apikey"
)
_SURE_PAIRS = frozenset(
    {("private", "key"), ("api", "key"), ("access", "key"), ("shared", "key"), ("signing", "key")}
)
_LIKELY = _words("token tokens key keys auth signature otp pin seed salt session")
# Said of a secret, not the secret itself: `token_id`, `key_name`, `password_updated_at`.
_ABOUT = _words(
    "id ids uuid identifier name names tag type kind count number total limit size length bits algorithm alg at on "
    "expires expiry expiration ttl age days date time enabled disabled required allowed exists status state version "
    "url uri endpoint location path format policy mode scope scopes usage description comment hint prefix "
    "rotation order operator since until duration suffix domain"
)
_FORMATS = _words("secret token jwt api-key apikey private-key credential credentials")
_HARMLESS_KINDS = frozenset({"boolean", "integer", "number"})


def looks_secret(name: str) -> str | None:
    """Return `sure` or `likely` where a field of this name probably holds a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT or "public" in words:
        return None
    pairs = set(pairwise(words))
    if _SURE & set(words) or _SURE_PAIRS & pairs:
        return "sure"
    return "likely" if words[-1] in _LIKELY else None


def may_hold_secret(kind: str, nodes: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a value may be secret at all: a flag, a number, or one of a list that the document shows is not."""
    if set(kind.split("|")) <= _HARMLESS_KINDS:
        return False
    return not any("enum" in node or "const" in node for node in nodes)


def format_secrecy(nodes: Sequence[Mapping[str, Any]]) -> str | None:
    """Return `sure` where a schema's format says secret, `likely` where it is write-only."""
    if any(str(node.get("format")) in _FORMATS for node in nodes):
        return "sure"
    return "likely" if any(node.get("writeOnly") is True for node in nodes) else None
