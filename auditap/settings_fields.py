"""The settings that a class of settings has, read off its fields, their types and the text below each."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from schemas.constants import CONSTANT

REQUIRED: Any = PydanticUndefined
"""Stands for the default of a setting that has none."""
_TABLES = {dict, Mapping}


class SettingField(NamedTuple):
    """One field: a setting, or a group of settings (`group`)."""

    name: str
    default: Any
    """`REQUIRED` where there is none."""
    description: str
    group: type | None
    repeated: str
    """How a group's name goes on in the reference: `[]` in a list, `.<name>` in a table of groups, else empty."""
    has_free_names: bool
    """Whether it is a table whose names are the operator's own."""
    is_path: bool
    """Whether it is the path of a file or folder."""
    is_text: bool
    """Whether it is a text or a secret, which may begin as JSON does."""

    def groups_in(self, value: Any) -> Iterator[tuple[tuple[int | str, ...], Any]]:
        """Yield every group that a raw value of this field holds, with the steps to it."""
        if self.repeated == "[]":
            if isinstance(value, Sequence):
                yield from (((number,), each) for number, each in enumerate(value))
        elif self.repeated:
            if isinstance(value, Mapping):
                yield from (((name,), each) for name, each in value.items())
        else:
            yield (), value


@cache
def setting_fields(owner: type) -> tuple[SettingField, ...]:
    """Return the fields of a pydantic model or a dataclass, in their order, without its constants."""
    descriptions = _descriptions(owner)
    return tuple(
        SettingField(
            name,
            default,
            descriptions.get(name, ""),
            *_group_of(annotation),
            get_origin(annotation) in _TABLES,
            Path in (annotation, *get_args(annotation)),
            get_origin(annotation) not in {tuple, frozenset, *_TABLES}
            and not {str, SecretStr}.isdisjoint((annotation, *get_args(annotation))),
        )
        for name, annotation, default, is_constant in _fields(owner)
        if not is_constant
    )


def with_paths_below(folder: Path, owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the raw values of a group of settings, with relative paths taken from `folder`."""
    anchored = dict(values)
    for field in setting_fields(owner):
        value = anchored.get(field.name)
        if field.is_path and isinstance(value, str):
            anchored[field.name] = str(folder / value)
        elif field.group is not None and value is not None:
            for steps, group in field.groups_in(value):
                if isinstance(group, Mapping):
                    value = _replaced(value, steps, with_paths_below(folder, field.group, group))
            anchored[field.name] = value
    return anchored


def _replaced(value: Any, steps: tuple[int | str, ...], group: Any) -> Any:
    """Return a copy of a list, or of a table, of groups with one of them replaced; without steps, the group itself."""
    if not steps:
        return group
    copy: Any = dict(value) if isinstance(value, Mapping) else list(value)
    copy[steps[0]] = group
    return copy


def constant_names(owner: type) -> frozenset[str]:
    """Return the names of the fields of a pydantic model or a dataclass that are no settings."""
    return frozenset(name for name, _, _, is_constant in _fields(owner) if is_constant)


def description_of(group: type) -> str:
    """Return the first paragraph of a group's docstring, on one line."""
    return " ".join((group.__doc__ or "").partition("\n\n")[0].split())


def _fields(owner: type) -> Iterator[tuple[str, Any, Any, bool]]:
    """Yield name, annotation, default, and whether it is a constant."""
    if issubclass(owner, BaseModel):
        for name, model_field in owner.model_fields.items():
            default = None if model_field.default_factory else model_field.default
            yield name, model_field.annotation, default, CONSTANT in model_field.metadata
        return
    hints = inspect.get_annotations(owner, eval_str=True)
    for each in dataclasses.fields(cast("Any", owner)):
        hint = hints[each.name]
        is_constant = CONSTANT in getattr(hint, "__metadata__", ())
        yield each.name, hint, _default(each), is_constant


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return REQUIRED if field.default_factory is dataclasses.MISSING else None


def _group_of(annotation: Any) -> tuple[type | None, str]:
    """Return the group of settings that an annotation holds, and how it is repeated."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and (issubclass(each, BaseModel) or dataclasses.is_dataclass(each)):
            return each, {tuple: "[]", dict: ".<name>"}.get(cast("Any", get_origin(annotation)), "")
    return None, ""


def _descriptions(owner: type) -> dict[str, str]:
    """Return the text below each attribute of a class and of its bases, on one line."""
    descriptions: dict[str, str] = {}
    for each in reversed(owner.__mro__):
        if each.__module__.partition(".")[0] in {"builtins", "pydantic", "pydantic_settings"}:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        if isinstance(body, ast.ClassDef):
            descriptions |= dict(_texts(body))
    return descriptions


def _texts(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for attribute, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(attribute, ast.AnnAssign)
            and isinstance(attribute.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            yield attribute.target.id, " ".join(str(text.value.value).split())
