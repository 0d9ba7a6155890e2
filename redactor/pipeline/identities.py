"""Who acted, where issuers of signed tokens are configured: by a verified token, else by the response's headers.

It is applied to what the stage of the headers recorded, whichever implementation that came from.
"""

from __future__ import annotations

from typing import Final

from redactor.compile.denied_headers import NO_HEADERS, DeniedHeaders
from redactor.identity.claims import VerifiedActor
from redactor.identity.tokens import TokenVerifier
from redactor.pipeline.stages import RecordedHeaders
from schemas.capture import Capture
from schemas.event import Actor, Identity, IdentitySource, TokenReason
from schemas.identity import id_ms

_BY_HEADERS: Final = Identity(IdentitySource.HEADERS)
_BY_NOTHING: Final = Identity(IdentitySource.NONE)
_DESPITE_TOKEN: Final = {
    each.source: {reason: Identity(each.source, reason) for reason in TokenReason}
    for each in (_BY_HEADERS, _BY_NOTHING)
}


class Identities:
    """Fills the actor of a pair by its token."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier

    def apply(
        self, headers: RecordedHeaders, capture: Capture, event_id: str, denied: DeniedHeaders = NO_HEADERS
    ) -> None:
        """Replace the recorded actor by the one that the request's verified token names, if it has one.

        The token fills all fields of the actor but its address: fields from two sources might belong to two people.
        """
        found = self._verifier.verify(capture.request.headers, id_ms(event_id), denied.of_request)
        if isinstance(found, VerifiedActor):
            actor = found.actor
            # By position and in place, because that is faster.
            headers.actor = Actor(
                actor.id,
                None,
                actor.email,
                headers.actor.ip_address,
                actor.token_id,
                actor.token_name,
                actor.type,
            )
            headers.identity = found.identity
            if found.refused:
                headers.refused = tuple(dict.fromkeys((*headers.refused, *found.refused)))
        else:
            identity = _BY_HEADERS if _names_anybody(headers.actor) else _BY_NOTHING
            headers.identity = identity if found is None else _DESPITE_TOKEN[identity.source][found]


def _names_anybody(actor: Actor) -> bool:
    return (
        actor.id is not None
        or actor.email is not None
        or actor.token_id is not None
        or actor.token_name is not None
        or actor.type is not None
        or actor.context is not None
    )
