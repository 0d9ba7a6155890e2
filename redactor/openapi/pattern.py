"""The part of a compiled RE2 expression that the redactor uses; RE2 has no type hints."""

from __future__ import annotations

from typing import Protocol


class Found(Protocol):
    def __getitem__(self, group: int) -> str | None:
        """Return the text of a group."""
        ...

    def groups(self) -> tuple[str, ...]:
        """Return the texts of all groups."""
        ...


class Pattern(Protocol):
    @property
    def pattern(self) -> str:
        """Its text."""
        ...

    def search(self, text: str) -> Found | None:
        """Return the first match anywhere in `text`."""
        ...
