"""Every setting with its variable, default and meaning, read off the types themselves."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple, cast, get_args

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from auditap.settings import Settings


class SettingEntry(NamedTuple):
    """One setting. `name` is its path in the file; `variable` is empty where it stands in a list."""

    name: str
    variable: str
    default: str
    meaning: str


def settings_reference() -> list[SettingEntry]:
    """Return every setting, in the order of the types."""
    return list(_entries(Settings, (), ""))


def markdown(entries: list[SettingEntry]) -> str:
    """Return the reference as a page."""
    lines = [
        "# Settings",
        "",
        "Environment variables go before the file (`auditap.toml`, or what `AUDITAP_CONFIG` names). A name with dots is a key",
        "in the file's tables; `[]` is an entry of a list, which as a variable is JSON:",
        '`AUDITAP_REDACTION__DOCUMENTS=\'[{"path": "openapi.yaml"}]\'`. This page is made from the program',
        "(`auditap settings --markdown`).",
        "",
        "| setting | variable | default | |",
        "| --- | --- | --- | --- |",
    ]
    for name, variable, default, meaning in entries:
        shown = f"`{variable}`" if variable else ""
        lines.append(f"| `{name}` | {shown} | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines) + "\n"


def _entries(owner: type, path: tuple[str, ...], meaning: str) -> Iterator[SettingEntry]:
    meanings = _meanings(owner)
    for field, annotation, default in _fields(owner):
        steps = (*path, field)
        inner, is_list = _group_in(annotation)
        if inner is None:
            yield _entry(steps, default, meanings.get(field, meaning))
        else:
            below = (*path, f"{field}[]") if is_list else steps
            yield from _entries(inner, below, meanings.get(field, ""))


def _entry(steps: tuple[str, ...], default: Any, meaning: str) -> SettingEntry:
    in_list = any(step.endswith("[]") for step in steps)
    variable = "" if in_list else "AUDITAP_" + "__".join(step.upper() for step in steps)
    return SettingEntry(".".join(steps), variable, _shown(default), " ".join(meaning.split()))


def _fields(owner: type) -> Iterator[tuple[str, Any, Any]]:
    if issubclass(owner, BaseModel):
        for name, field in owner.model_fields.items():
            yield name, field.annotation, field.default
        return
    hints = inspect.get_annotations(owner, eval_str=True)
    for each in dataclasses.fields(cast("Any", owner)):
        is_needed = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        default = None if each.default is dataclasses.MISSING else each.default
        yield each.name, hints[each.name], PydanticUndefined if is_needed else default


def _group_in(annotation: Any) -> tuple[type | None, bool]:
    """Return the group of settings that an annotation holds, and whether it is a list of them."""
    arguments = get_args(annotation)
    for each in (annotation, *arguments):
        is_group = isinstance(each, type) and (issubclass(each, BaseModel) or dataclasses.is_dataclass(each))
        if is_group:
            return each, getattr(annotation, "__origin__", None) is tuple
    return None, False


def _shown(default: Any) -> str:
    if default is PydanticUndefined:
        return "needed"
    if default is None or isinstance(default, SecretStr) or default in ("", (), frozenset(), {}):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ", ".join(map(str, default)) if isinstance(default, tuple | frozenset) else str(default)


@cache
def _meanings(owner: type) -> dict[str, str]:
    """Return the text below each attribute of a class and of those it extends, as far as they are ours."""
    meanings: dict[str, str] = {}
    for each in reversed(owner.__mro__):
        if each.__module__.partition(".")[0] in {"builtins", "pydantic", "pydantic_settings"}:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        if isinstance(body, ast.ClassDef):
            meanings |= dict(_texts(body))
    return meanings


def _texts(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for attribute, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(attribute, ast.AnnAssign)
            and isinstance(attribute.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            yield attribute.target.id, str(text.value.value)
