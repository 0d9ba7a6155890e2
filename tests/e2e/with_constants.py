"""`auditap` with other constants, which no setting can change: run as a program, with `auditap`'s arguments."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any, Final

import auditap.settings

PROGRAM: Final = str(Path(__file__))
_VARIABLE: Final = "AUDITAP_TEST_CONSTANTS"


def constants(**groups: dict[str, Any]) -> dict[str, str]:
    """Return the environment that gives this program its constants: `constants(ingest={"gauge_interval_ms": 200})`."""
    return {_VARIABLE: json.dumps(groups)}


def has_constants(environment: dict[str, str]) -> bool:
    return _VARIABLE in environment


def main() -> None:
    groups = json.loads(os.environ[_VARIABLE])
    # Before the commands import it.
    auditap.settings.load_settings = functools.partial(auditap.settings.load_settings, **groups)
    from auditap.cli.main import main as auditap_main  # noqa: PLC0415

    auditap_main()


if __name__ == "__main__":
    main()
