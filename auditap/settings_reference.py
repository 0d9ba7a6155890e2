"""The reference of all settings, made from the types themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import SecretStr

from auditap.settings import Settings
from auditap.settings_fields import REQUIRED, description_of, setting_fields
from auditap.settings_mistakes import variable_name


class SettingEntry(NamedTuple):
    """One setting. `name` is its path in the file; `variable` is empty where it stands in a list."""

    name: str
    variable: str
    default: str
    """As text: `required` where there is none, empty where it is none or a secret."""
    description: str

    @property
    def key(self) -> str:
        """The last part of its name."""
        return self.name.rpartition(".")[2]


class SettingsTable(NamedTuple):
    """The settings of one table of the file."""

    name: str
    """Its path, such as `collector.limits` or `redaction.documents[]`; empty: the top of the file."""
    description: str
    entries: list[SettingEntry]

    @property
    def meaning(self) -> tuple[tuple[str, ...], ...]:
        """All that it has in common with a table of the same settings elsewhere in the file."""
        entries = ((entry.key, entry.default, entry.description) for entry in self.entries)
        return ((self.description,), *entries)


def settings_tables() -> list[SettingsTable]:
    """Return the tables that have settings, in the order of the types."""
    return [table for table in _tables(Settings, ()) if table.entries]


def settings_reference() -> list[SettingEntry]:
    """Return every setting, in the order of the types."""
    return [entry for table in settings_tables() for entry in table.entries]


def alike(tables: list[SettingsTable]) -> list[list[SettingsTable]]:
    """Return the tables in their order, with those of the same meaning together where the first of them stands."""
    groups: dict[tuple[tuple[str, ...], ...], list[SettingsTable]] = {}
    for table in tables:
        groups.setdefault(table.meaning, []).append(table)
    return list(groups.values())


def markdown(tables: list[SettingsTable]) -> str:
    """Return the text of docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Settings are read from environment variables, then from `auditap.toml` in the working directory (or the file that",
        "`AUDITAP_CONFIG` names), then from the defaults below. A relative path in a file is taken from that file's folder, one in a",
        "variable from the working directory. An empty path is refused: leave the setting out, or the variable unset.",
        "",
        "In a variable, a list or a table of names of your own is JSON, and so is a list of tables, such as",
        "`[[redaction.documents]]`:",
        "",
        "```sh",
        """export AUDITAP_REDACTION__EXCLUDED_OPERATIONS='["listOrders", "getOrder"]'""",
        """export AUDITAP_REDACTION__DOCUMENTS='[{"path": "openapi.yaml", "hosts": ["api.example.com"]}]'""",
        """export AUDITAP_API__ORGANIZATIONS='{"acme": ["account-1", "account-2"]}'""",
        "```",
        "",
        "This page is generated: `auditap settings --markdown > docs/settings.md`.",
    ]
    for group in alike(tables):
        title = ", ".join(_title(table.name) for table in group)
        lines += ["", f"## {title}", "", group[0].description, ""]
        lines += ["| setting | default | meaning |", "| --- | --- | --- |"]
        lines += [_row(entries) for entries in zip(*(table.entries for table in group), strict=True)]
    return "\n".join(lines) + "\n"


def _title(name: str) -> str:
    if not name:
        return "Top of the file"
    return f"`[[{name.removesuffix('[]')}]]`" if name.endswith("[]") else f"`[{name}]`"


def _row(entries: tuple[SettingEntry, ...]) -> str:
    """Return the row of a setting, which may stand in several tables."""
    entry = entries[0]
    names = [entry.key, *(each.variable for each in entries if each.variable)]
    default = f"`{entry.default}`" if entry.default not in {"", "required"} else entry.default
    # In a table, a bar ends a cell even in code.
    description = entry.description.replace("|", r"\|")
    return f"| {'<br>'.join(f'`{name}`' for name in names)} | {default} | {description} |"


def _tables(owner: type, path: tuple[str, ...]) -> Iterator[SettingsTable]:
    """Yield the table of a group, then those of the groups in it."""
    fields = setting_fields(owner)
    entries = [
        _entry((*path, field.name), field.default, field.description)
        for field in fields
        if field.group is None
    ]
    yield SettingsTable(".".join(path), description_of(owner), entries)
    for field in fields:
        if field.group is not None:
            yield from _tables(field.group, (*path, field.name + field.repeated))


def _entry(steps: tuple[str, ...], default: Any, description: str) -> SettingEntry:
    is_repeated = any(step.endswith(("[]", "<name>")) for step in steps)
    variable = "" if is_repeated else variable_name(steps)
    return SettingEntry(".".join(steps), variable, _shown(default), description)


def _shown(default: Any) -> str:
    if default is REQUIRED:
        return "required"
    if default is None or isinstance(default, SecretStr) or default in ("", (), frozenset(), {}):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ", ".join(map(str, default)) if isinstance(default, tuple | frozenset) else str(default)
