r"""What an identifier may look like (rule 14).

Identifiers are foreign: ARNs, SPIFFE ids, `CORP\alice`, names of LDAP and of people. So any printable text is one, up to a
bound. Not printable are control characters, line ends, what is no character, and what nobody sees: two identifiers that look
alike would be taken for one. Blanks are printable inside an identifier, and those around it are not part of it.
"""

from __future__ import annotations

import re
from typing import Final

# Written out, because what `unicodedata` says differs between versions of Python, and the same pair has to give the same event.
_CONTROLS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff"
# Unicode's category Cf: among others, what joins, separates or reverses text, and tags.
_FORMATS: Final = (
    r"\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# The others with Unicode's property Default_Ignorable_Code_Point, such as fillers and variation selectors, and the blank of braille.
_INVISIBLE: Final = r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
_PRINTABLE: Final = f"[^{_CONTROLS}{_FORMATS}{_INVISIBLE}]"
# The tab, which headers may have around their values, and Unicode's category Zs.
_BLANKS: Final = (
    "\t \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
IDENTIFIER_CHARS_MAX: Final = 1_024
OWNER_CHARS_MAX: Final = 256
"""Of an account or zone: what the index of the database holds."""
_IDENTIFIER: Final = re.compile(f"{_PRINTABLE}{{1,{IDENTIFIER_CHARS_MAX}}}")
_OWNER: Final = re.compile(f"{_PRINTABLE}{{1,{OWNER_CHARS_MAX}}}")


def valid_identifier(value: str | None) -> str | None:
    """Return the id, name or e-mail address of an actor or token without blanks around it; None for what is not recorded."""
    stripped = "" if value is None else value.strip(_BLANKS)
    return stripped if _IDENTIFIER.fullmatch(stripped) is not None else None


def valid_owner_id(value: str | None) -> str | None:
    """Return the id of an account or zone without blanks around it; None for what is not recorded.

    A dot segment is none: no client could put it into a path to ask for its records. A dash is none: in the log API's
    paths it stands for all accounts.
    """
    stripped = "" if value is None else value.strip(_BLANKS)
    is_owner = _OWNER.fullmatch(stripped) is not None and stripped not in (".", "..", "-")
    return stripped if is_owner else None
