from __future__ import annotations

from pathlib import Path

import pytest

from redactor.report.findings import IgnoreEntry, load_ignore_file
from schemas.errors import StartupError

YAML_ENTRIES = """\
ignore:
  - code: secret_likely
    location: "*/properties/key"
    reason: The key of a label.
"""


TOML_ENTRIES = """\
[[ignore]]
code = "secret_likely"
location = "*/properties/key"
reason = "The key of a label."
"""


@pytest.mark.parametrize(("name", "text"), [("a.yaml", YAML_ENTRIES), ("a.toml", TOML_ENTRIES)])
def test_an_ignore_file_is_yaml_or_toml(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    expected = IgnoreEntry("secret_likely", "*/properties/key", "The key of a label.")
    assert load_ignore_file(tmp_path / name) == (expected,)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (YAML_ENTRIES.replace("    reason: The key of a label.\n", ""), "Entry 1"),
        (YAML_ENTRIES.replace("The key of a label.", '" "'), "Entry 1"),
        (YAML_ENTRIES.replace("secret_likely", "no_such_code"), "unknown code"),
        (YAML_ENTRIES.replace("location", "place"), "Entry 1"),
        ("- code: a", "list named ignore"),
        ("ignore: 3", "list named ignore"),
        ("{", "cannot be read"),
    ],
)
def test_an_invalid_ignore_file_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "ignore.yaml").write_text(text)
    with pytest.raises(StartupError, match=sentence):
        load_ignore_file(tmp_path / "ignore.yaml")
