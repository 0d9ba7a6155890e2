"""What becomes of pairs in the redactor, as metrics."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from schemas.event import TokenReason, UnmatchedReason
from schemas.metric_defs import Metrics

log = structlog.get_logger("redaction")
NO_ACCOUNT = (
    "their records are in no account's list: name the account in the path, or in the response header that"
    " redaction.headers.account_id names; `auditap query --all-accounts` shows them"
)


class RedactionMetrics:
    """An `Observer` of the redactor's pipeline. The first capture without an account is logged, too."""

    def __init__(self, metrics: Metrics) -> None:
        self._unmatched = metrics.captures_unmatched
        self._refused = metrics.identifiers_refused
        self._tokens = metrics.identity_tokens
        self._without_account = metrics.captures_without_account
        self._is_account_missed = False

    def unmatched(self, reason: UnmatchedReason, *, altered: bool) -> None:
        """See `Observer.unmatched`."""
        self._unmatched.labels(reason.value, str(altered).lower()).inc()

    def refused(self, fields: Sequence[str]) -> None:
        """See `Observer.refused`."""
        for field in fields:
            self._refused.labels(field).inc()

    def token(self, reason: TokenReason | None) -> None:
        """See `Observer.token`."""
        self._tokens.labels("verified" if reason is None else reason.value).inc()

    def without_account(self) -> None:
        """See `Observer.without_account`."""
        self._without_account.inc()
        # Once for each version of the documents: a service that names no account names none in any response.
        if not self._is_account_missed:
            self._is_account_missed = True
            log.warning("captures_without_account", remedy=NO_ACCOUNT)
