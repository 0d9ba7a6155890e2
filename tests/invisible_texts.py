"""Texts that look like `alice`, or like nothing, and are something else: none of them is an identifier (rule 14)."""

from __future__ import annotations

from typing import Final

INVISIBLE: Final = (
    *(
        f"al{mark}ice"
        for mark in "\u200b\u200d\u2061\u202e\u2066\u180e\u034f\u2800\ufe0f\ufffb\U000e0041\U000e0100"
    ),
    "\ufeffalice",
    "alice\xad",
    "\u061calice",
    "alice\u200f",
    "\u3164",
    "\u115f\u1160",
    "\uffa0",
)
