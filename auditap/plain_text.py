"""Text of OpenAPI documents and records on a terminal, with control characters and markup made harmless."""

from __future__ import annotations

from rich.markup import escape


def plain(text: str) -> str:
    """Return a text on one line, without control characters and with rich's markup escaped."""
    return escape(plain_line(text))


def plain_line(text: str) -> str:
    """Return a text on one line, without control characters; for what does not read markup."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
