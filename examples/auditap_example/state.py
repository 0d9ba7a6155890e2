"""The state of the example API: each object at its path, in memory and bounded."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from auditap_example.cast import accounts, users, zones

Row = dict[str, Any]
ROWS_MAX = 1_000
_LONG_AGO = "2026-01-01T00:00:00Z"


class State:
    """Rows by the path of their object, below the base path.

    Those of the cast stay; of the others, the oldest is dropped once there are more than `ROWS_MAX`.
    """

    def __init__(self) -> None:
        self.cast: dict[str, Row] = {}
        self._later: dict[str, Row] = {}
        for account in accounts():
            self.cast[f"/accounts/{account.id}"] = asdict(account)
        for zone in zones():
            fields = {**asdict(zone), "type": "full", "status": "active", "paused": False}
            self.cast[f"/zones/{zone.id}"] = stored(zone.id, fields, _LONG_AGO)
        for user in users():
            self.cast[f"/user/{user.user_id}"] = {"id": user.user_id, "email": user.email}

    def get(self, path: str) -> Row | None:
        return self.cast.get(path) or self._later.get(path)

    def put(self, path: str, row: Row) -> None:
        (self.cast if path in self.cast else self._later)[path] = row
        if len(self._later) > ROWS_MAX:
            del self._later[next(iter(self._later))]

    def remove(self, path: str) -> None:
        self._later.pop(path, None)

    def below(self, path: str) -> list[Row]:
        """Return the rows directly below `path`, oldest first."""
        rows = (self.cast | self._later).items()
        return [row for below, row in rows if below.rpartition("/")[0] == path]


def stored(row_id: str, fields: Row, at: str) -> Row:
    """Return a row as the platform stores it: the fields, its id and its times."""
    return {**fields, "id": row_id, "created_at": at, "modified_at": at}
