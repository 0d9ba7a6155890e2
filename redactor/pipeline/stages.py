"""What the stages of the pipeline hand to one another.

Every stage has a reference implementation, which defines what is recorded, and a fast one, which returns an equal value
for the pairs it recognizes and calls the reference for all others. Values are compared field by field in
`tests/property/test_stages_agree.py`. They are msgspec structs because those are the cheapest to make, and are not
followed by the garbage collector because none of them can be part of a cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from redactor.pipeline.event_template import EventTemplate
from redactor.pipeline.resolved_operation import ResolvedOperation
from schemas.event import Account, Actor, Identity, UnmatchedReason, Zone


class RoutedRequest(msgspec.Struct, gc=False):
    """Which operation applies to a request, or why none does."""

    template: EventTemplate | None
    """None where no operation applies; `unmatched` and `known_path` then say what is recorded instead."""
    segments: Sequence[str]
    """The path's decoded segments, the first of them the empty text before the first slash."""
    path: str
    """The path as it was written."""
    is_plain: bool
    """Whether every segment is written as it would be recorded, so that nothing needs decoding or encoding."""
    query: str
    """Without its question mark; empty where there is none."""
    unmatched: UnmatchedReason | None = None
    known_path: str = ""
    """The longest literal prefix that the route table has, in the table's own text."""


class Attribution(NamedTuple):
    """Whose action a request is to which no operation applies as it is written: the operation's, read leniently."""

    operation: ResolvedOperation
    segments: Sequence[str]
    """As those of `RoutedRequest`."""
    is_altered: bool = True
    """Whether another reading of the request was needed; not where its path matches, and has no operation of its method."""


class RecordedHeaders(msgspec.Struct, gc=False):
    """What is recorded of a pair's headers, and what the other stages need of them (rule 14)."""

    actor: Actor
    account: Account
    """The account that the response names; a recorded path that names one goes before it."""
    user_agent: str | None
    request_id: str | None
    overrides_method: bool
    request_type: str | None
    """The request's content type as it was written, empty where it stands several times; None where it is absent."""
    request_is_encoded: bool
    """Whether a content coding is declared."""
    response_type: str | None
    response_is_encoded: bool
    refused: tuple[str, ...] = ()
    """The event's fields for which the pair gives something that is refused."""
    identity: Identity | None = None
    """What says who acted; None where no issuers of tokens are configured."""


class RecordedUri(msgspec.Struct, gc=False):
    """What is recorded of a matched request's URL, and the ids that the recorded path names (rules 13 and 15)."""

    uri: str
    account: Account | None
    zone: Zone
    resource: str | None
    refused: tuple[str, ...] = ()
    """The event's fields for which the recorded path holds a value that is no id."""
