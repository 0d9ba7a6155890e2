"""Text of a document on a terminal: shown as it is, never obeyed."""

from __future__ import annotations

from rich.markup import escape


def plain(text: str) -> str:
    """Return a text that is neither markup nor moves the cursor, on one line."""
    return escape(plain_line(text))


def plain_line(text: str) -> str:
    """Return a text that does not move the cursor, on one line; for what does not read markup."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
