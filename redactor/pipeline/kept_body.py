"""What the stage for bodies hands to the event."""

from __future__ import annotations

import msgspec

from schemas.event import BodyReceipt


class KeptBody(msgspec.Struct, gc=False):
    """What is kept of one body."""

    text: msgspec.Raw | msgspec.UnsetType
    """JSON text, number tokens as they were written; UNSET where nothing is kept."""
    receipt: BodyReceipt
    id: str | None = None
    """The text or whole number at the place of the resource's id; None where no id is read from this body."""
    hides_method: bool = False
    """Whether the body is a request's that is not known whole, and what is missing may ask for another method."""
