"""`auditap` with other constants, which no setting can change: run as a program, with `auditap`'s arguments."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any, Final

import auditap.settings

PROGRAM: Final = str(Path(__file__))
_VARIABLE: Final = "AUDITAP_TEST_CONSTANTS"
_SOURCE: Final = "kafka_source"


def constants(**groups: dict[str, Any]) -> dict[str, str]:
    """Return the environment that gives this program its constants: `constants(ingest={"gauge_interval_ms": 200})`.

    `kafka_source` changes `KafkaSourceSettings`, of which settings hold nothing.
    """
    return {_VARIABLE: json.dumps(groups)}


def has_constants(environment: dict[str, str]) -> bool:
    return _VARIABLE in environment


def main() -> None:
    groups = json.loads(os.environ[_VARIABLE])
    # Before the commands import them.
    if source := groups.pop(_SOURCE, None):
        _change_source(source)
    auditap.settings.load_settings = functools.partial(auditap.settings.load_settings, **groups)
    from auditap.cli.main import main as auditap_main  # noqa: PLC0415

    auditap_main()


def _change_source(changes: dict[str, Any]) -> None:
    # Not at the top, because most programs that this one starts need no Kafka.
    from auditap.runtime import kafka as clients  # noqa: PLC0415

    source_settings = clients.source_settings
    clients.source_settings = lambda kafka: dataclasses.replace(source_settings(kafka), **changes)


if __name__ == "__main__":
    main()
