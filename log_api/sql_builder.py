"""Queries of the log as values, and the SQL statements for them.

A filter is data: its name, the SQL expression of its value, the comparison, and the index that serves it. The texts of the
statements are the named queries in `schemas/queries/`; this module fills in their slots. Only constant text goes into a slot.
Every value that a client sent is an argument of the statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface
from typing import NamedTuple
from uuid import UUID

from schemas.identity import first_id_at
from schemas.sql import query as sql_file

FilterValue = str | int | UUID | IPv4Interface | IPv6Interface


class Direction(StrEnum):
    """The order of ids, which is the order of `action.time`."""

    DESC = "desc"
    ASC = "asc"


class Column(NamedTuple):
    """The value that a filter compares: an SQL expression over the record `r` and its enrichment `e`."""

    expression: str
    sql_type: str = "text"
    operator: str = "="
    """The comparison with each value of the filter; `<<=` matches the address itself and addresses in the network."""
    backfilled: bool = False
    """Whether the expression uses `e`."""


def _backfilled(name: str, operator: str = "=") -> Column:
    return Column(f"coalesce(r.{name}, e.{name})", operator=operator, backfilled=True)


FILTERS: dict[str, Column] = {
    "id": Column("r.id", "uuid"),
    "account_name": _backfilled("account_name"),
    "action_result": Column("r.action_result"),
    "action_type": Column("r.action_type"),
    "actor_context": Column("r.actor_context"),
    "actor_email": _backfilled("actor_email"),
    "actor_id": Column("r.actor_id"),
    "actor_ip_address": Column("r.actor_ip_address", "inet", "<<="),
    "actor_token_id": Column("r.actor_token_id"),
    "actor_token_name": _backfilled("actor_token_name"),
    "actor_type": Column("r.actor_type"),
    "exchange_host": Column("r.exchange_host"),
    "raw_cf_ray_id": Column("r.raw_cf_ray_id"),
    "raw_method": Column("r.raw_method"),
    "raw_status_code": Column("r.raw_status_code", "smallint"),
    "raw_uri": Column("r.raw_uri"),
    "resource_id": Column("r.resource_id"),
    "resource_product": Column("r.resource_product"),
    "resource_scope": Column("r.resource_scope"),
    "resource_type": Column("r.resource_type"),
    "unmatched": Column("r.receipt ->> 'unmatched'"),
    "altered": Column("coalesce(r.receipt ->> 'altered', 'false')"),
    "zone_id": Column("r.zone_id"),
    "zone_name": _backfilled("zone_name"),
}

EMAIL = "actor_email"
LOGINS = "logins"
LOGIN_EMAIL = "login_email"
LOGIN_EMAIL_PATTERN = "login_email_pattern"


# Escapes in JSON text that Postgres has no character for: NUL and lone halves of surrogate pairs. They are taken out by
# replacing matches with the first group: pairs of backslashes stay, because what follows them is no escape, and so do whole
# surrogate pairs.
UNREADABLE_ESCAPES = (
    r"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def _body_field(side: str, name: str, json_type: str) -> str:
    """Return the SQL of a field's text in the recorded body of `side`, NULL unless it has this type."""
    text = f"regexp_replace(r.resource_{side}::text, '{UNREADABLE_ESCAPES}', '\\1', 'g')::json"
    return f"CASE WHEN json_typeof({text} -> '{name}') = '{json_type}' THEN {text} ->> '{name}' END"


def _body_text(name: str) -> str:
    """Return the SQL of a text in the recorded bodies, the response's before the request's."""
    sides = [_body_field(side, name, "string") for side in ("response", "request")]
    return f"coalesce({', '.join(sides)})"


_LOGIN_EMAIL = f"coalesce({_body_text('user_email')}, r.actor_email, e.actor_email)"
# Of the response alone: a client must not decide whether its sign-in is shown as allowed.
_LOGIN_ALLOWED = (
    f"coalesce({_body_field('response', 'allowed', 'boolean')}, (r.action_result = 'success')::text)"
)

LOGIN_FILTERS: dict[str, Column] = {
    "allowed": Column(_LOGIN_ALLOWED),
    "app_type": Column(_body_text("app_type")),
    "app_uid": Column("r.resource_id"),
    "country_code": Column(_body_text("country")),
    "idp": Column(_body_text("connection")),
    "non_identity": Column(f"({_LOGIN_EMAIL} IS NULL)::text", backfilled=True),
    "ray_id": Column("coalesce(r.raw_cf_ray_id, replace(r.id::text, '-', ''))"),
}
"""The filters of authentication logs besides `email`, by the names that clients send. They compare what the entries show."""

# Besides the filters of the list, those that only the route for authentication logs uses.
_COLUMNS = (
    FILTERS
    | LOGIN_FILTERS
    | {
        LOGIN_EMAIL: Column(_LOGIN_EMAIL, backfilled=True),
        LOGIN_EMAIL_PATTERN: Column(_LOGIN_EMAIL, operator="LIKE", backfilled=True),
        # This must be the exact expression of the index on logins, or the planner does not use the index.
        LOGINS: Column("CASE WHEN r.resource_product = 'access' THEN r.resource_type END"),
    }
)

# The index on this filter finds exactly the matching records, in order of their ids.
EXACT = "resource_id"
# The filters with an index (0002_log_api.sql), the most selective first.
_INDEXED = (
    EXACT,
    "raw_cf_ray_id",
    "actor_id",
    EMAIL,
    "zone_id",
    LOGINS,
    "resource_type",
    "resource_product",
    "action_type",
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One filter: the record's value is one of `values` or, if `excluded`, it is none of them or missing."""

    name: str
    excluded: bool
    values: tuple[FilterValue, ...]


@dataclass(frozen=True, slots=True)
class ListQuery:
    """A page of the records of `accounts` (None: every account) with `since_ms` <= time < `before_ms` (Unix ms) that meet
    every condition.

    The page starts after the id `after` in `direction`, skips `skip` records and holds at most `limit`. `whole`: the page
    must not end early; a search that exceeds its time limit then fails. `complete_before_ms`: on a page that continues
    a cursor, the watermark when the first page was read.
    """

    accounts: tuple[str, ...] | None
    since_ms: int
    before_ms: int
    direction: Direction = Direction.DESC
    limit: int = 100
    conditions: tuple[Condition, ...] = ()
    after: UUID | None = None
    skip: int = 0
    whole: bool = False
    complete_before_ms: int | None = None

    def id_range(self) -> tuple[UUID, UUID]:
        """Return the half-open range of ids that the page reads, lowest first."""
        low, high = first_id_at(self.since_ms), first_id_at(self.before_ms)
        if self.after is None:
            return low, high
        if self.direction is Direction.ASC:
            return max(low, UUID(int=min(self.after.int + 1, _ID_MAX))), high
        return low, min(self.after, high)


_ID_MAX = (1 << 128) - 1


class Field(StrEnum):
    """The field whose values a summary counts."""

    ACTION_TYPE = "action_type"
    ACTION_RESULT = "action_result"
    RESOURCE_PRODUCT = "resource_product"
    ACTOR_ID = "actor_id"
    ACCOUNT_NAME = "account_name"
    ACTOR_CONTEXT = "actor_context"
    ACTOR_EMAIL = "actor_email"
    ACTOR_IP_ADDRESS = "actor_ip_address"
    ACTOR_TOKEN_ID = "actor_token_id"  # noqa: S105 — the name of a field
    ACTOR_TOKEN_NAME = "actor_token_name"  # noqa: S105 — the name of a field
    ACTOR_TYPE = "actor_type"
    EXCHANGE_HOST = "exchange_host"
    RAW_METHOD = "raw_method"
    RAW_STATUS_CODE = "raw_status_code"
    RAW_URI = "raw_uri"
    RESOURCE_ID = "resource_id"
    RESOURCE_SCOPE = "resource_scope"
    RESOURCE_TYPE = "resource_type"
    ZONE_ID = "zone_id"
    ZONE_NAME = "zone_name"


TREND_FIELDS = (Field.ACTION_TYPE, Field.ACTION_RESULT, Field.RESOURCE_PRODUCT, Field.ACTOR_ID)
"""The fields that trends can count."""


@dataclass(frozen=True, slots=True)
class SummaryQuery:
    """Counts of the records of `accounts` (None: every account) that meet every condition, per bucket and value of `field`.

    `bounds_ms` are the boundaries of the buckets in Unix milliseconds, ascending.
    """

    accounts: tuple[str, ...] | None
    bounds_ms: tuple[int, ...]
    field: Field
    conditions: tuple[Condition, ...] = ()
    from_trends: bool = False
    """Whether to add up the trends that alerting stored, instead of counting records."""
    hops: int = 1
    """The length of a window in buckets. If it is more than one, a window starts at every boundary and windows overlap."""
    trend_ms: int = 3_600_000
    """The width of the trends to add up: one hour, or ten minutes."""


class Statement(NamedTuple):
    """An SQL text and its positional arguments."""

    text: str
    arguments: tuple[object, ...]


class AccessPath(StrEnum):
    """A way to read the ids of a window. Each value is the name of a query in `schemas/queries/`."""

    ACCOUNTS = "scan_accounts"
    ALL = "scan_all"
    FILTER = "scan_filter"
    BACKFILLED_ACCOUNTS = "scan_backfilled_accounts"
    BACKFILLED_EMAILS = "scan_backfilled_emails"


# The table that holds the account of what an access path reads.
_BOUND_TABLES = {
    AccessPath.ACCOUNTS: "auditap.audit_records",
    AccessPath.BACKFILLED_ACCOUNTS: "auditap.audit_enrichments",
}


class Index(NamedTuple):
    """The index on a filter, and the position of that filter among the query's conditions."""

    name: str
    position: int


def best_index(query: ListQuery) -> Index | None:
    """Return the most selective index that serves one of the query's conditions, None if there is none."""
    found = [
        (_INDEXED.index(condition.name), position)
        for position, condition in enumerate(query.conditions)
        if _is_indexed(condition, query.accounts)
    ]
    if not found:
        return None
    rank, position = min(found)
    return Index(_INDEXED[rank], position)


def _is_indexed(condition: Condition, accounts: tuple[str, ...] | None) -> bool:
    if condition.excluded or condition.name not in _INDEXED:
        return False
    # The other indexes start with the account.
    return accounts is not None or condition.name == EMAIL


def hashes_statement(query: ListQuery, index: Index) -> Statement:
    """Return the statement that computes the index keys of a filter's values; column: hash."""
    hashed = index.name not in {EMAIL, LOGINS}
    values = list(query.conditions[index.position].values) if hashed else []
    return Statement(sql_file("scan_hashes"), (_accounts(query), values))


def backfilled_statement(query: ListQuery, window: tuple[UUID, UUID], index: Index | None) -> Statement:
    """Return the statement that finds which access paths to backfilled values a window needs.

    It has one row; columns: backfilled_accounts, backfilled_emails.
    """
    emails = None
    if index is not None and index.name == EMAIL:
        emails = list(query.conditions[index.position].values)
    return Statement(sql_file("scan_backfilled"), (_accounts(query), *window, emails))


def bound_statement(
    query: ListQuery, access_path: AccessPath, window: tuple[UUID, UUID], records: int
) -> Statement:
    """Return the statement that finds where a scan has read `records` records of each account.

    Columns: first_id, bound_id. `access_path` is one of ACCOUNTS, ALL and BACKFILLED_ACCOUNTS.
    """
    if access_path is AccessPath.ALL:
        text = sql_file("scan_bound_all").format(order=_order(query))
    else:
        table = _BOUND_TABLES[access_path]
        text = sql_file("scan_bound").format(order=_order(query), scope=_scope(query), table=table)
    return Statement(text, (_accounts(query), *window, records))


def scan_statement(
    query: ListQuery,
    access_path: AccessPath,
    window: tuple[UUID, UUID],
    limit: int,
    *,
    index: Index | None = None,
    hashes: Sequence[int] = (),
) -> Statement:
    """Return the statement that reads at most `limit` ids of a half-open window; column: id.

    `index` and the `hashes` of its values are for AccessPath.FILTER and AccessPath.BACKFILLED_EMAILS.
    """
    conditions = _conditions(query.conditions, 5)
    arguments: list[object] = [
        _accounts(query),
        *window,
        limit,
        *(list(one.values) for one in query.conditions),
    ]
    candidate = ""
    if index is not None and index.name == LOGINS:
        candidate = "stored.resource_product = 'access' AND stored.account_id = ANY($1::text[])"
    elif index is not None and index.name == EMAIL:
        table = "found" if access_path is AccessPath.BACKFILLED_EMAILS else "stored"
        candidate = f"{table}.actor_email = ANY(${5 + index.position}::text[])"
    elif index is not None:
        arguments.append(list(hashes))
        # As for logins: exactly the expression of the index.
        candidate = (
            f"hashtextextended(stored.account_id, hashtextextended(stored.{index.name}, 0))"
            f" = ANY(${len(arguments)}::bigint[])"
        )
    text = sql_file(access_path).format(
        order=_order(query),
        scope=_scope(query),
        conditions=conditions,
        join_enrichments=_enrichments_join(query.conditions),
        join_backfilled_record=sql_file("join_backfilled_record"),
        candidate=candidate,
    )
    return Statement(text, tuple(arguments))


def summary_statement(query: SummaryQuery, window: tuple[UUID, UUID]) -> Statement:
    """Return the statement that counts the records of a window; columns: bucket (from 1), value, count."""
    bounds = [first_id_at(at_ms) for at_ms in query.bounds_ms]
    column = _COLUMNS[query.field]
    # The text of an inet has the length of its prefix, which no record shows.
    value = f"host({column.expression})" if column.sql_type == "inet" else f"({column.expression})::text"
    joins = column.backfilled or any(_COLUMNS[one.name].backfilled for one in query.conditions)
    text = sql_file("count_all_records" if query.accounts is None else "count_records").format(
        value=value,
        conditions=_conditions(query.conditions, 5),
        join_enrichments=sql_file("join_enrichments") if joins else "",
        join_backfilled_record=sql_file("join_backfilled_record"),
    )
    values = (list(one.values) for one in query.conditions)
    accounts = None if query.accounts is None else list(query.accounts)
    return Statement(text, (accounts, *window, bounds, *values))


def unmatched_statement(
    accounts: tuple[str, ...] | None, window: tuple[UUID, UUID], groups_max: int
) -> Statement:
    """Return the statement that counts what matched no operation in a window; columns: reason, method, path, count, last_id."""
    if accounts is None:
        return Statement(sql_file("count_unmatched_all"), (None, *window, groups_max))
    text = sql_file("count_unmatched").format(join_backfilled_record=sql_file("join_backfilled_record"))
    return Statement(text, (list(accounts), *window, groups_max))


def _conditions(conditions: Sequence[Condition], first: int) -> str:
    """Return the conditions as SQL. Their arguments are numbered from `first`."""
    lines: list[str] = []
    for number, condition in enumerate(conditions, first):
        column = _COLUMNS[condition.name]
        test = f"{column.expression} {column.operator} ANY(${number}::{column.sql_type}[])"
        # NOT would leave out the records without a value, for which the comparison is null.
        lines.append(f"AND ({test}) IS NOT TRUE" if condition.excluded else f"AND {test}")
    return "\n    ".join(lines)


def _enrichments_join(conditions: Sequence[Condition]) -> str:
    uses_enrichment = any(_COLUMNS[condition.name].backfilled for condition in conditions)
    return sql_file("join_enrichments") if uses_enrichment else ""


def _order(query: ListQuery) -> str:
    return "ASC" if query.direction is Direction.ASC else "DESC"


def _scope(query: ListQuery) -> str:
    """Return the accounts in `$1` as an SQL table `scope (account_id)`."""
    # The planner sees a single account as a constant, and has statistics for it.
    if query.accounts is not None and len(query.accounts) == 1:
        return "(VALUES (($1::text[])[1])) AS scope (account_id)"
    return "unnest($1::text[]) AS scope (account_id)"


def _accounts(query: ListQuery) -> list[str] | None:
    return None if query.accounts is None else list(query.accounts)
