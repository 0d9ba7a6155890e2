"""Why Postgres, or what stands before it, refuses every session: faults of a DSN or a server that do not pass by themselves."""

from __future__ import annotations

import re
import ssl
from typing import Final

_UNSUPPORTED: Final = re.compile(r"unsupported startup parameter: ([a-z_.]{1,63})")
_PROTOCOL_VIOLATION: Final = "08P01"
_INVALID_AUTHORIZATION: Final = "28000"


def session_refusal(error: BaseException) -> str | None:
    """Return what to do about an error of connecting, as one sentence; None if the error may pass, or is another one.

    Of the error's own words the sentence repeats the name of a parameter that auditap sends, and nothing else.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "Postgres' certificate cannot be verified: name its authority in sslrootcert of the DSN, and the host as the"
            " certificate does."
        )
    text = str(error)
    # asyncpg raises a bare ConnectionError here.
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in text:
        return "Postgres does not offer TLS, which the DSN requires: turn ssl on there, or lower sslmode of the DSN."
    state = getattr(error, "sqlstate", None)
    if state == _PROTOCOL_VIOLATION and (parameter := _UNSUPPORTED.search(text)):
        return (
            f"A pooler before Postgres refuses the parameter {parameter[1]}: connect to Postgres itself, or let the pooler pool"
            " sessions and ignore the parameter (PgBouncer: pool_mode = session, ignore_startup_parameters)."
        )
    if state == _INVALID_AUTHORIZATION and "no encryption" in text:
        return "Postgres refuses sessions without TLS: set sslmode=require, or verify-full, in the DSN."
    return None
