"""Sentences about what is wrong with settings: where it stands, what is wrong, what to do. None holds a value."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from auditap.settings_fields import SettingField, constant_names, setting_fields
from auditap.settings_file import CONFIG_FILE_VARIABLE, SettingsFile, Steps

PREFIX = "AUDITAP_"
TOKEN_VARIABLE = "AUDITAP_TOKEN"  # noqa: S105  its name
"""The variable that holds the token of the commands that read the log."""
_NOT_SETTINGS = {CONFIG_FILE_VARIABLE, TOKEN_VARIABLE, "AUDITAP_REAL_SPECS", "AUDITAP_CASES"}
_NOT_SETTINGS_PREFIX = "AUDITAP_TEST_"
_PLAIN_RULES = {
    "missing": "it is required",
    "bool_parsing": "give true or false",
    "bool_type": "give true or false",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "int_type": "give a whole number",
    "int_parsing_size": "give a whole number of fewer digits",
    "float_parsing": "give a number",
    "float_type": "give a number",
    "string_type": "give a text",
    "path_type": "give a path",
    "tuple_type": 'give a list, such as ["a", "b"]',
    "frozen_set_type": 'give a list, such as ["a", "b"]',
    "dataclass_type": "give a table with its settings",
    "model_type": "give a table with its settings",
    "dict_type": "give a table",
}
_EMPTY_PATH = "it is empty; name a file or folder, or leave it out"
# No setting stands deeper than seven steps; a message that names the first of them is enough.
_STEPS_MAX = 32
_STEPS_SHOWN = 4
_TOO_DEEP = object()
_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
_JSON_RULES = {
    "tuple_type": 'give a list in JSON, such as ["a", "b"]',
    "frozen_set_type": 'give a list in JSON, such as ["a", "b"]',
    "dataclass_type": 'give an object in JSON, such as {"name": "value"}',
    "model_type": 'give an object in JSON, such as {"name": "value"}',
    "dict_type": 'give an object in JSON, such as {"name": "value"}',
}
"""How lists and tables are written in a variable."""


class Variable(NamedTuple):
    """An environment variable that claims to be a setting."""

    name: str
    steps: tuple[str, ...]
    text: str

    @property
    def place(self) -> str:
        """The variable, for a sentence."""
        return f"Environment variable {self.name}"

    def is_json(self) -> bool:
        """Whether the value is meant to be JSON: a list or a table."""
        return self.text[:1] in {"[", "{"}

    def value(self) -> Any:
        """Return the value, parsed where it is JSON. Raises ValueError."""
        return json.loads(self.text) if self.is_json() else self.text


def variables() -> list[Variable]:
    """Return the environment variables that begin with the prefix of settings, sorted by name."""
    return [
        Variable(name, tuple(name[len(PREFIX) :].lower().split("__")), text)
        for name, text in sorted(os.environ.items())
        if name.upper().startswith(PREFIX)
        and name not in _NOT_SETTINGS
        and not name.startswith(_NOT_SETTINGS_PREFIX)
    ]


def variable_name(steps: Steps) -> str:
    """Return the variable of a setting, or of the list that it stands in."""
    depth = next((depth for depth, step in enumerate(steps) if isinstance(step, int)), len(steps))
    return PREFIX + "__".join(str(step).upper() for step in steps[:depth])


def unreadable_values(owner: type, file: SettingsFile | None) -> Iterator[str]:
    """Yield a sentence for each value in the file and the environment that is no text, or is nested too deeply.

    Later readers raise other errors for such values, with the value in them.
    """
    if file is not None:
        for steps, rule in _unreadable(file.values, ()):
            yield _wrong(file.place(steps) or str(file.path), steps, rule)
    for variable in variables():
        for steps, rule in _unreadable(_parsed(owner, variable), variable.steps):
            yield _wrong(variable.place, steps, rule)


def _wrong(place: str, steps: Steps, rule: str) -> str:
    if not steps:
        return f"{place}: {rule}."
    return f"{place}: the setting {'.'.join(map(str, steps))} is wrong: {rule}."


def _parsed(owner: type, variable: Variable) -> Any:
    """Return a variable's value, parsed where it is JSON for a setting that may be; `_TOO_DEEP` where JSON's reader gives up."""
    try:
        return variable.text if _is_text(owner, variable.steps) else variable.value()
    except RecursionError:
        return _TOO_DEEP
    except ValueError:
        return variable.text


def _unreadable(values: Any, steps: Steps) -> Iterator[tuple[Steps, str]]:
    """Yield the steps to what is no text, or nested too deeply, and the rule against it."""
    # Not by recursion, which would end before the depth that is looked for.
    waiting = [(steps, values)]
    while waiting:
        steps, value = waiting.pop()
        if value is _TOO_DEEP or len(steps) > _STEPS_MAX:
            yield steps[:_STEPS_SHOWN], "it is nested too deeply"
        elif isinstance(value, str) and (rule := _text_rule(value)):
            yield steps, f"it {rule}"
        elif isinstance(value, Mapping):
            rules = map(_text_rule, value)
            if rule := next(filter(None, rules), None):
                yield steps, f"a name in it {rule}"
            else:
                waiting += (((*steps, name), each) for name, each in value.items())
        elif isinstance(value, list):
            waiting += (((*steps, number), each) for number, each in enumerate(value))


def _text_rule(text: str) -> str | None:
    if "\0" in text:
        return "holds a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return None


def mistaken_names(owner: type, file: SettingsFile | None) -> Iterator[str]:
    """Yield a sentence for each name in the file and the environment that is no setting of `owner`, or no JSON, and for each
    path that is empty.
    """
    if file is not None:
        for steps in _unknown(owner, file.values):
            yield _no_setting(owner, file.place(steps) or str(file.path), steps)
        for steps in _empty_paths(owner, file.values):
            yield _wrong(file.place(steps) or str(file.path), steps, _EMPTY_PATH)
    for variable in variables():
        try:
            value = variable.text if _is_text(owner, variable.steps) else variable.value()
        except ValueError:
            yield f"{variable.place}: this is not JSON. Correct it, or set the members of a group one by one."
        else:
            yield from _mistaken_variable(owner, variable, value)


def _mistaken_variable(owner: type, variable: Variable, value: Any) -> Iterator[str]:
    """Yield a sentence for each name that is no setting: the variable's own, or one within its JSON `value`."""
    if setting := _setting_around(owner, variable.steps):
        # pydantic-settings passes over it, or takes the setting for a table.
        yield f"{variable.place} is no setting. Did you mean {variable_name(setting)}?"
        return
    for step in reversed(variable.steps):
        value = {step: value}
    for steps in _empty_paths(owner, value):
        yield _wrong(variable.place, steps, _EMPTY_PATH)
    for steps in _unknown(owner, value):
        nearest = None if _is_constant(owner, steps) else _nearest(owner, steps)
        if nearest is not None and len(steps) <= len(variable.steps):
            yield f"{variable.place} is no setting. Did you mean {variable_name(nearest)}?"
        else:
            yield _no_setting(owner, variable.place, steps)


def unparsed_variables(owner: type) -> Iterator[str]:
    """Yield a sentence for each variable that stands for a list or a table and is not JSON."""
    for variable in variables():
        field = _field(_group_around(owner, variable.steps), variable.steps[-1])
        if field is None or variable.is_json():
            continue
        name = ".".join(variable.steps)
        if field.group is not None and not field.repeated:
            member = next(each.name for each in setting_fields(field.group) if each.group is None)
            example = variable_name((*variable.steps, member))
            yield f"{variable.place}: {name} is a group of settings. Set each by a variable of its own, such as {example}."
        elif field.group is not None or field.has_free_names:
            rule = _tables_rule(field, is_json=True) or _JSON_RULES["dict_type"]
            yield f"{variable.place}: the setting {name} is wrong: {rule}."


def _tables_rule(field: SettingField | None, *, is_json: bool) -> str | None:
    """Return how to write a list of tables; None for another setting."""
    if field is None or field.group is None or field.repeated != "[]":
        return None
    member = next(each.name for each in setting_fields(field.group) if each.group is None)
    if is_json:
        return f'give a list in JSON, such as [{{"{member}": "a"}}, {{"{member}": "b"}}]'
    return f'give a list of tables, such as [{{ {member} = "a" }}, {{ {member} = "b" }}]'


def wrong_option(option: str, kind: str, message: str) -> str:
    """Return the sentence for one error of pydantic, by its type and message, in a value that an option of a command gave."""
    return f"The option {option} is wrong: {_rule(kind, message)}."


def wrong_value(owner: type, file: SettingsFile | None, steps: Steps, kind: str, message: str) -> str:
    """Return the sentence for one error of pydantic: its location, type and message (which must hold no input)."""
    name = ".".join(map(str, steps))
    field = _field(_group_around(owner, steps), steps[-1]) if kind == "tuple_type" else None
    if variable := _variable(steps):
        rule = _tables_rule(field, is_json=True) or _JSON_RULES.get(kind) or _rule(kind, message)
        return f"{variable.place}: the setting {name} is wrong: {rule}."
    rule = _tables_rule(field, is_json=False) or _rule(kind, message)
    if file is not None and (place := file.place(steps)):
        return f"{place}: the setting {name} is wrong: {rule}."
    return f"The setting {name} ({variable_name(steps)}) is wrong: {rule}."


def _rule(kind: str, message: str) -> str:
    if kind == "literal_error":
        return message.replace("Input should be", "give")
    if kind in _BOUNDS:
        return message.replace("Input should be", "give a number")
    return _PLAIN_RULES.get(kind) or message[0].lower() + message[1:]


def _variable(steps: Steps) -> Variable | None:
    """Return the variable that a value was set by, or one around it; the environment goes before the file."""
    wanted = variable_name(steps)
    for variable in variables():
        if wanted == variable.name.upper() or wanted.startswith(variable.name.upper() + "__"):
            return variable
    return None


def _unknown(owner: type, values: Mapping[str, Any], steps: Steps = ()) -> Iterator[Steps]:
    """Yield the steps to each name that is no field of its group."""
    fields = {field.name: field for field in setting_fields(owner)}
    for name, value in values.items():
        field = fields.get(name)
        if field is None:
            yield (*steps, name)
        elif field.group is not None:
            for further, group in field.groups_in(value):
                if isinstance(group, Mapping):
                    yield from _unknown(field.group, group, (*steps, name, *further))


def _empty_paths(owner: type, values: Mapping[str, Any], steps: Steps = ()) -> Iterator[Steps]:
    """Yield the steps to each path that is empty, which would mean the working directory or the file's folder."""
    for field in setting_fields(owner):
        value = values.get(field.name)
        if field.is_path and isinstance(value, str) and not value.strip():
            yield (*steps, field.name)
        elif field.group is not None and value is not None:
            for further, group in field.groups_in(value):
                if isinstance(group, Mapping):
                    yield from _empty_paths(field.group, group, (*steps, field.name, *further))


def _no_setting(owner: type, place: str, steps: Steps) -> str:
    name = ".".join(map(str, steps))
    if _is_constant(owner, steps):
        return f"{place}: {name} is a constant that no setting changes. Remove it."
    nearest = _nearest(owner, steps)
    if nearest is None:
        return f"{place}: there is no setting {name}. Correct its name or remove it."
    return f"{place}: there is no setting {name}. Did you mean {'.'.join(map(str, nearest))}?"


def _nearest(owner: type, steps: Steps) -> Steps | None:
    """Return the setting that a wrong name is spelt most like: in the same group, else anywhere."""
    known = [field.name for field in setting_fields(_group_around(owner, steps))]
    if near := get_close_matches(str(steps[-1]), known, n=1):
        return (*steps[:-1], near[0])
    everywhere = dict(_names(owner))
    if near := get_close_matches(str(steps[-1]), everywhere, n=1, cutoff=0.8):
        return everywhere[near[0]]
    return None


def _setting_around(owner: type, steps: Steps) -> Steps | None:
    """Return the setting that a name stands below, which is no table; None if it stands in groups and tables alone."""
    for depth in range(1, len(steps)):
        found = _field(_group_around(owner, steps[:depth]), steps[depth - 1])
        if found is None or found.has_free_names:
            return None
        if found.group is None:
            return steps[:depth]
    return None


def _is_constant(owner: type, steps: Steps) -> bool:
    return steps[-1] in constant_names(_group_around(owner, steps))


def _group_around(owner: type, steps: Steps) -> type:
    """Return the group that a name stands in, by the steps to it, as far as they are known."""
    group = owner
    for step in steps[:-1]:
        found = _field(group, step)
        if found is not None and found.group is not None:
            group = found.group
    return group


def _field(group: type, name: int | str) -> SettingField | None:
    return next((field for field in setting_fields(group) if field.name == name), None)


def _is_text(owner: type, steps: tuple[str, ...]) -> bool:
    found = _field(_group_around(owner, steps), steps[-1])
    return found is not None and found.is_text


def _names(owner: type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Steps]]:
    """Yield the last part of every setting's name, and the whole name."""
    for field in setting_fields(owner):
        if field.group is None:
            yield field.name, (*path, field.name)
        else:
            yield from _names(field.group, (*path, field.name + field.repeated))
