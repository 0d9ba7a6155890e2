"""What the example API remembers: rows by kind and path, in memory, bounded, gone with the process."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from auditap.example_api.cast import Caller, accounts, member_id, users, zones

Row = dict[str, Any]
Key = tuple[str, ...]
ROWS_MAX = 500
_LONG_AGO = "2026-01-01T00:00:00Z"


class State:
    """Rows by kind; a row's key is what its URL says, from the left: `(account id, policy id)`.

    Each kind holds the rows that were there from the beginning, for good or until they are removed, and at most
    `rows_max` that came later; one more lets the oldest of these go.
    """

    def __init__(self, rows_max: int = ROWS_MAX) -> None:
        self._rows_max = rows_max
        self._first: dict[str, dict[Key, Row]] = {}
        self._later: dict[str, OrderedDict[Key, Row]] = {}

    def get(self, kind: str, key: Key) -> Row | None:
        """Return the row, or None."""
        for kinds in (self._first, self._later):
            if key in kinds.get(kind, ()):
                return kinds[kind][key]
        return None

    def begin_with(self, kind: str, key: Key, row: Row) -> None:
        """Store a row that later ones never push out."""
        self._first.setdefault(kind, {})[key] = row

    def put(self, kind: str, key: Key, row: Row) -> None:
        """Store the row under the key, in place of the one that was there."""
        if key in self._first.get(kind, ()):
            self._first[kind][key] = row
            return
        rows = self._later.setdefault(kind, OrderedDict())
        rows[key] = row
        while len(rows) > self._rows_max:
            rows.popitem(last=False)

    def remove(self, kind: str, key: Key) -> bool:
        """Forget the row; return whether there was one."""
        found = [kinds[kind].pop(key) for kinds in (self._first, self._later) if key in kinds.get(kind, ())]
        return bool(found)

    def below(self, kind: str, parent: Key) -> list[Row]:
        """Return the rows whose key begins with `parent`, oldest first."""
        depth = len(parent)
        rows = [*self._first.get(kind, {}).items(), *self._later.get(kind, {}).items()]
        return [row for key, row in rows if key[:depth] == parent]


def populated() -> State:
    """Return a state that holds the cast: accounts, zones, members, memberships and users."""
    state = State()
    for account in accounts():
        state.begin_with("accounts", (account.id,), {"id": account.id, "name": account.name})
    for zone in zones():
        owner = {"id": zone.account.id, "name": zone.account.name}
        row = stored(zone.id, {"name": zone.name, "type": "full", "account": owner})
        state.begin_with("zones", (zone.id,), row | {"status": "active", "paused": False})
    for user in users():
        _add_user(state, user)
    return state


def _add_user(state: State, user: Caller) -> None:
    place = member_id(user)
    state.begin_with(
        "users", (user.user_id,), {"id": user.user_id, "email": user.email, "two_factor_enabled": False}
    )
    member = stored(place, {"email": user.email, "roles": ["administrator"], "status": "accepted"})
    state.begin_with("members", (user.account.id, place), member)
    membership = {"id": place, "status": "accepted", "account": {"id": user.account.id}}
    state.begin_with("memberships", (user.user_id, place), membership)


def stored(row_id: str, fields: Row, at: str = _LONG_AGO) -> Row:
    """Return a row as the platform stores it: the fields, its id and its times."""
    return {**fields, "id": row_id, "created_at": at, "modified_at": at}
