r"""What an identifier may look like (rule 14).

Identifiers are foreign: ARNs, SPIFFE ids, `CORP\alice`, names of LDAP and of people. So any printable text is one, up to a
bound. Not printable are control characters, line ends, what reverses the direction of text, and what is no character.
"""

from __future__ import annotations

import re
from typing import Final

_PRINTABLE: Final = r"[^\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
IDENTIFIER_CHARS_MAX: Final = 1_024
OWNER_CHARS_MAX: Final = 256
"""Of an account or zone: what the index of the database holds."""
_IDENTIFIER: Final = re.compile(f"{_PRINTABLE}{{1,{IDENTIFIER_CHARS_MAX}}}")
_OWNER: Final = re.compile(f"{_PRINTABLE}{{1,{OWNER_CHARS_MAX}}}")


def valid_identifier(value: str | None) -> str | None:
    """Return the id, name or e-mail address of an actor or token; None for what is not recorded."""
    return value if value is not None and _IDENTIFIER.fullmatch(value) is not None else None


def valid_owner_id(value: str | None) -> str | None:
    """Return the id of an account or zone without blanks around it; None for what is not recorded.

    A dot segment is none: no client could put it into a path to ask for its records. A dash is none: in the log API's
    paths it stands for all accounts.
    """
    stripped = "" if value is None else value.strip(" ")
    is_owner = _OWNER.fullmatch(stripped) is not None and stripped not in (".", "..", "-")
    return stripped if is_owner else None
