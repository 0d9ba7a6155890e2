"""Marks a field of a configuration as a constant."""

from __future__ import annotations

from typing import Annotated, TypeVar

_T = TypeVar("_T")

CONSTANT = "constant"

Constant = Annotated[_T, CONSTANT]
"""A field that is no setting: neither the settings file nor the environment can change it. Its docstring says why the
value is what it is. Tests pass another one to the constructor."""
