"""What a client asks of the list, and the SQL that answers it.

Filters are data: a name, where the value stands, and how it is compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface
from typing import NamedTuple
from uuid import UUID

from schemas.identity import first_id_at
from schemas.sql import query as sql_file

FilterValue = str | int | UUID | IPv4Interface | IPv6Interface


class Direction(StrEnum):
    """By id, which orders by action.time."""

    DESC = "desc"
    ASC = "asc"


class Column(NamedTuple):
    """Where a filter's value stands, as SQL over the record `r` and what was found out later, `e`."""

    expression: str
    sql_type: str = "text"
    operator: str = "="
    """How the value is compared with each one asked for; `<<=`: is this address or lies in this network."""
    late: bool = False
    """Whether the expression needs `e`."""


def _late(name: str) -> Column:
    return Column(f"coalesce(r.{name}, e.{name})", late=True)


FILTERS: dict[str, Column] = {
    "id": Column("r.id", "uuid"),
    "account_name": _late("account_name"),
    "action_result": Column("r.action_result"),
    "action_type": Column("r.action_type"),
    "actor_context": Column("r.actor_context"),
    "actor_email": _late("actor_email"),
    "actor_id": Column("r.actor_id"),
    "actor_ip_address": Column("r.actor_ip_address", "inet", "<<="),
    "actor_token_id": Column("r.actor_token_id"),
    "actor_token_name": _late("actor_token_name"),
    "actor_type": Column("r.actor_type"),
    "raw_cf_ray_id": Column("r.raw_cf_ray_id"),
    "raw_method": Column("r.raw_method"),
    "raw_status_code": Column("r.raw_status_code", "smallint"),
    "raw_uri": Column("r.raw_uri"),
    "resource_id": Column("r.resource_id"),
    "resource_product": Column("r.resource_product"),
    "resource_scope": Column("r.resource_scope"),
    "resource_type": Column("r.resource_type"),
    "zone_id": Column("r.zone_id"),
    "zone_name": _late("zone_name"),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One filter: the value is among `values`, or, where `excluded`, it is not (a missing value is not either)."""

    name: str
    excluded: bool
    values: tuple[FilterValue, ...]


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Records of one account with `since_ms` <= time < `before_ms` (Unix ms) that meet every condition.

    At most `limit` of them, in the `direction` of ids, from beyond the id `after` on.
    """

    account_id: str
    since_ms: int
    before_ms: int
    direction: Direction = Direction.DESC
    limit: int = 100
    conditions: tuple[Condition, ...] = ()
    after: UUID | None = None

    def id_range(self) -> tuple[UUID, UUID]:
        """Return the ids from which (included) and to which (excluded) the page reads."""
        low, high = first_id_at(self.since_ms), first_id_at(self.before_ms)
        if self.after is None:
            return low, high
        if self.direction is Direction.ASC:
            return UUID(int=self.after.int + 1), high
        return low, self.after


class Statement(NamedTuple):
    """SQL and its arguments."""

    text: str
    arguments: tuple[object, ...]


def page_statement(query: ListQuery) -> Statement:
    """Return the statement of one page and one record more, which tells whether there is a next page.

    Only constant text goes into the statement; all that a client sent is an argument.
    """
    arguments: list[object] = [query.account_id, *query.id_range(), query.limit + 1]
    conditions = []
    for condition in query.conditions:
        column = FILTERS[condition.name]
        arguments.append(list(condition.values))
        test = f"{column.expression} {column.operator} ANY(${len(arguments)}::{column.sql_type}[])"
        conditions.append(f"AND ({test}) IS NOT TRUE" if condition.excluded else f"AND {test}")
    late = any(FILTERS[condition.name].late for condition in query.conditions)
    text = sql_file("list_records").format(
        order="ASC" if query.direction is Direction.ASC else "DESC",
        conditions="\n        ".join(conditions),
        late_join=sql_file("list_records_late_join") if late else "",
    )
    return Statement(text, tuple(arguments))
