"""The checks that lint makes: their codes, levels and one sentence each. Codes are stable; ignore files name them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple


class Level(IntEnum):
    """How much a finding matters."""

    NOTE = 1
    WARNING = 2
    ERROR = 3

    @property
    def text(self) -> str:
        """The level in lower case, as options and SARIF have it."""
        return self.name.lower()


class Check(NamedTuple):
    """One check: the level of what it finds, and what that means."""

    level: Level
    meaning: str


class Finding(NamedTuple):
    """Something found. `pointer` is a JSON pointer into the document; `message` one sentence."""

    code: str
    pointer: str
    message: str

    @property
    def level(self) -> Level:
        """How much it matters."""
        return CHECKS[self.code].level


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "secret_recorded": Check(
            Level.ERROR, "A field that is recorded has a name or format that says secret."
        ),
        "secret_likely": Check(Level.WARNING, "A field that is recorded has a name that may mean a secret."),
        "newly_exposed": Check(Level.WARNING, "The change of the document makes this field recorded."),
        "newly_hidden": Check(Level.NOTE, "The change of the document makes this field no longer recorded."),
        "inert_container": Check(
            Level.NOTE,
            "A mark on a container shows its presence; its parts are kept by their own marks alone.",
        ),
        "inert_empty": Check(
            Level.WARNING, "A marked container is recorded as {} or [], because nothing in it is marked."
        ),
        "inert_reference": Check(Level.WARNING, "In OpenAPI 3.0 a mark beside a $ref grants nothing."),
        "inert_condition": Check(
            Level.WARNING, "A mark under not, a conditional, contains or unevaluated… grants nothing."
        ),
        "inert_place": Check(
            Level.WARNING, "A mark grants on schemas and on path and query parameters alone."
        ),
        "inert_denied": Check(Level.WARNING, "A denial at or above this mark wins."),
        "inert_type": Check(
            Level.WARNING, "A mark grants nothing where the schema has no one definite type."
        ),
        "inert_enum": Check(
            Level.NOTE, "From status 400 on, nothing is kept of a container that has an enum or const."
        ),
        "inert_composition": Check(Level.WARNING, "Another schema of the same value does not keep it."),
        "inert_envelope": Check(Level.NOTE, "The mark stands outside of the envelope's property."),
        "inert_unread": Check(
            Level.NOTE,
            "The mark is in no body that is read: of GET alone, of a media type not read, or unused.",
        ),
        "mark_misspelt": Check(
            Level.WARNING, "A keyword that is nearly x-auditable means nothing: the field is not recorded."
        ),
        "denial_misspelt": Check(
            Level.ERROR, "A keyword that is nearly x-sensitive means nothing: it denies nothing."
        ),
        "value_denies": Check(Level.WARNING, "x-auditable with a value that is no boolean denies."),
        "nothing_audited": Check(Level.NOTE, "Of this body nothing is recorded."),
        "route_twins": Check(
            Level.WARNING, "Two templates of one shape match the same URLs: only what both keep is kept."
        ),
        "route_crosswise": Check(
            Level.NOTE,
            "Neither of two templates is more literal: on common URLs only what both keep is kept.",
        ),
        "route_method_gap": Check(
            Level.NOTE, "A template lacks the method, so that one less literal governs it on these URLs."
        ),
        "route_unreachable": Check(Level.WARNING, "No request can reach this operation."),
        "untrusted": Check(Level.WARNING, "This part of the document cannot be trusted, and was denied."),
        "ignore_unused": Check(Level.WARNING, "An entry of the ignore file matches nothing."),
    }
)
