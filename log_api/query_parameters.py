"""Turns the validated query parameters of each route into a query of the database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_interface
from typing import NamedTuple
from uuid import UUID

from starlette.datastructures import ImmutableMultiDict

from log_api.access_requests import ACTIONS, FIELDS
from log_api.config import LogApiConfig
from log_api.cursors import Cursors
from log_api.ports import AlertQuery
from log_api.records import AuditRecord
from log_api.sql_builder import (
    EMAIL,
    FILTERS,
    LOGIN_EMAIL,
    LOGIN_EMAIL_PATTERN,
    LOGIN_FILTERS,
    LOGINS,
    TREND_FIELDS,
    Condition,
    Direction,
    Field,
    FilterValue,
    ListQuery,
    SummaryQuery,
)
from log_api.timestamps import parse_timestamp_ms
from schemas.addresses import unmapped_interface
from schemas.identity import first_id_at

Parameters = ImmutableMultiDict[str, str]

_LIMIT = 100
_ACCESS_LIMIT = 25
_PRODUCTS = "resource_product"
_CATEGORY = "product_category"
# Deprecated names of filters.
_ALIASES = {"audit_log_id": "id"}
_V1_FILTERS = {
    "id": "id",
    "action.type": "action_type",
    "actor.email": EMAIL,
    "actor.ip": "actor_ip_address",
    "zone.name": "zone_name",
}
_HOUR_MS = 3_600_000
# No record has a time further ahead than this: ingest clamps clocks that are.
_AHEAD_MS = 24 * _HOUR_MS
# The narrower of the two widths in which alerting counts trends: hopping windows are sums of these.
_PANE_MS = 600_000
_HOPS_MS = {"10m": _PANE_MS, "30m": 3 * _PANE_MS, "1h": _HOUR_MS}
_BUCKETS_MS = {"minute": 60_000, "ten_minutes": _PANE_MS, "hour": _HOUR_MS, "day": 24 * _HOUR_MS}
_LIKE_SPECIAL = re.compile(r"([\\%_])")


class InvalidParameter(Exception):
    """A parameter is valid by the document and still cannot be used. The message is the parameter's name alone."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class NumberedQuery(NamedTuple):
    """A query for a page by its number. `reachable`: whether its records are among those that page numbers may reach."""

    query: ListQuery
    page: int
    reachable: bool = True


class QueryReader:
    """Builds queries from query parameters. Every method may raise InvalidParameter; `accounts` None: every account."""

    def __init__(self, config: LogApiConfig, cursors: Cursors, clock_ms: Callable[[], int]) -> None:
        self._config = config
        self._clock_ms = clock_ms
        self._cursors = cursors
        self._limit = min(_LIMIT, config.limits.page_records_max)

    def list_query(self, accounts: tuple[str, ...] | None, parameters: Parameters) -> ListQuery:
        return self._page(accounts, parameters, self.conditions(parameters))

    def history_query(
        self, accounts: tuple[str, ...] | None, parameters: Parameters, source: AuditRecord
    ) -> ListQuery:
        """Return the query for the history of the resource of `source`, whose `resource.id` must not be None."""
        _timestamp_ms("action_time", parameters)
        resource = source.resource
        values = {
            "resource_id": resource.id,
            "resource_product": resource.product,
            "resource_type": resource.type,
        }
        conditions = [Condition(name, False, (value,)) for name, value in values.items() if value is not None]
        owner = accounts if source.account.id is None else (source.account.id,)
        return self._page(owner, parameters, tuple(conditions))

    def check_history(self, parameters: Parameters) -> None:
        """Validate the parameters of a history before its record is read."""
        for name in ("action_time", "since", "before"):
            _timestamp_ms(name, parameters)

    def export_query(self, accounts: tuple[str, ...] | None, parameters: Parameters) -> ListQuery:
        """Return the query for the first page of an export."""
        query = ListQuery(
            accounts,
            _timestamp_ms("since", parameters),
            _timestamp_ms("before", parameters),
            Direction.ASC,
            self._config.limits.export_records,
            self.conditions(parameters),
        )
        after = parameters.get("after")
        return query if after is None else replace(query, after=_uuid("after", after))

    def time_range_ms(self, parameters: Parameters) -> tuple[int, int]:
        """Return the half-open time range of a request (Unix ms)."""
        return _timestamp_ms("since", parameters), _timestamp_ms("before", parameters)

    def limit(self, parameters: Parameters) -> int:
        """Return the most records that a page may hold."""
        return _integer("limit", parameters, self._limit)

    def tail_since_ms(self, parameters: Parameters) -> int | None:
        """Return the time (Unix ms) at which a tail starts; None: now."""
        return _timestamp_ms("since", parameters) if "since" in parameters else None

    def summary_query(self, accounts: tuple[str, ...] | None, parameters: Parameters) -> SummaryQuery:
        since_ms, before_ms = _timestamp_ms("since", parameters), _timestamp_ms("before", parameters)
        step_ms = _BUCKETS_MS[parameters.get("bucket", "day")]
        if "hop" in parameters:
            return self._hopping_query(accounts, parameters, since_ms, before_ms)
        first = since_ms // step_ms + 1
        boundaries = range(first * step_ms, before_ms, step_ms)
        if len(boundaries) >= self._config.limits.summary_buckets_max:
            raise InvalidParameter("bucket")
        bounds = (since_ms, *boundaries, before_ms) if since_ms < before_ms else (since_ms, since_ms)
        field = Field(parameters.get("by", Field.ACTION_TYPE))
        conditions = self.conditions(parameters)
        from_trends = parameters.get("source") == "trends"
        if from_trends and (conditions or since_ms % _HOUR_MS or before_ms % _HOUR_MS or step_ms < _HOUR_MS):
            raise InvalidParameter("source")
        if from_trends and (accounts is None or field not in TREND_FIELDS):
            raise InvalidParameter("source")
        return SummaryQuery(accounts, bounds, field, conditions, from_trends)

    def _hopping_query(
        self, accounts: tuple[str, ...] | None, parameters: Parameters, since_ms: int, before_ms: int
    ) -> SummaryQuery:
        """Return the query for overlapping windows, one starting at every hop. Only trends support them."""
        window_ms, hop_ms = _BUCKETS_MS[parameters.get("bucket", "day")], _HOPS_MS[parameters["hop"]]
        if parameters.get("source") != "trends" or window_ms <= hop_ms:
            raise InvalidParameter("hop")
        if self.conditions(parameters) or since_ms % hop_ms or before_ms % hop_ms:
            raise InvalidParameter("source")
        hops = window_ms // hop_ms
        if (before_ms - since_ms) // hop_ms - hops >= self._config.limits.summary_buckets_max:
            raise InvalidParameter("bucket")
        bounds = tuple(range(since_ms, max(before_ms, since_ms) + 1, hop_ms))
        field = Field(parameters.get("by", Field.ACTION_TYPE))
        if accounts is None or field not in TREND_FIELDS:
            raise InvalidParameter("source")
        width_ms = _HOUR_MS if hop_ms == _HOUR_MS else _PANE_MS
        return SummaryQuery(accounts, bounds, field, from_trends=True, hops=hops, trend_ms=width_ms)

    def alert_query(self, account: str, parameters: Parameters) -> AlertQuery:
        """Return the query for alerts. Its limit is one more than the page holds."""
        since_ms = _timestamp_ms("since", parameters) if "since" in parameters else 0
        before_ms = _timestamp_ms("before", parameters) if "before" in parameters else self.open_end_ms()
        before = first_id_at(before_ms)
        if "after" in parameters:
            before = min(before, _uuid("after", parameters["after"]))
        acknowledged = {"true": True, "false": False}.get(parameters.get("acknowledged", ""))
        return AlertQuery(
            account,
            first_id_at(since_ms),
            before,
            tuple(parameters.getlist("severity")) or None,
            tuple(parameters.getlist("rule")) or None,
            acknowledged,
            _integer("limit", parameters, self._limit) + 1,
        )

    def v1_query(self, accounts: tuple[str, ...] | None, parameters: Parameters) -> NumberedQuery:
        values: dict[str, FilterValue] = {}
        for sent, name in _V1_FILTERS.items():
            if sent in parameters:
                values[name] = _value(sent, FILTERS[name].sql_type, parameters[sent])
        conditions = [Condition(name, False, (value,)) for name, value in values.items()]
        if parameters.get("hide_user_logs") == "true":
            conditions.append(Condition("resource_scope", True, ("user",)))
        before_ms = _timestamp_ms("before", parameters) if "before" in parameters else self.open_end_ms()
        return self._numbered(
            accounts, parameters, _integer("per_page", parameters, self._limit), before_ms, conditions
        )

    def page_numbers(self, parameters: Parameters) -> tuple[int, int]:
        """Return the number of a page, and how many it holds."""
        return _integer("page", parameters, 1), _integer("per_page", parameters, self._limit)

    def for_user(self, numbered: NumberedQuery, email: str) -> NumberedQuery:
        """Return the query restricted to the actions of a user."""
        by_user = Condition(EMAIL, False, (email,))
        query = replace(numbered.query, conditions=(by_user, *numbered.query.conditions))
        return numbered._replace(query=query)

    def access_query(self, accounts: tuple[str, ...] | None, parameters: Parameters) -> NumberedQuery:
        conditions = [Condition(LOGINS, False, ACTIONS)]
        email = parameters.get("email")
        if email is not None:
            operator = parameters.get("emailOp", "contains")
            excluded = operator == "neq"
            if parameters.get("email_exact") == "true" or operator == "eq":
                conditions.append(Condition(LOGIN_EMAIL, excluded, (email,)))
            else:
                pattern = _LIKE_SPECIAL.sub(r"\\\1", email)
                conditions.append(Condition(LOGIN_EMAIL_PATTERN, excluded, (f"%{pattern}%",)))
        for name in LOGIN_FILTERS:
            if name in parameters:
                excluded = parameters.get(f"{name}Op") == "neq"
                conditions.append(Condition(name, excluded, (parameters[name],)))
        # `until` is inclusive.
        before_ms = _timestamp_ms("until", parameters) + 1 if "until" in parameters else self.open_end_ms()
        limit = _integer("per_page", parameters, _integer("limit", parameters, _ACCESS_LIMIT))
        return self._numbered(accounts, parameters, limit, before_ms, conditions)

    def access_fields(self, parameters: Parameters) -> frozenset[str]:
        """Return the fields to include in authentication log entries."""
        if "fields" not in parameters:
            return frozenset(FIELDS)
        fields = frozenset(name.strip() for name in parameters["fields"].split(","))
        if not fields.issubset(FIELDS):
            raise InvalidParameter("fields")
        return fields

    def conditions(self, parameters: Parameters) -> tuple[Condition, ...]:
        return tuple(self._conditions(parameters))

    def open_end_ms(self) -> int:
        """Return the end of a time range without one: later than any record, also from a tap whose clock is ahead."""
        return self._clock_ms() + _AHEAD_MS

    def _page(
        self,
        accounts: tuple[str, ...] | None,
        parameters: Parameters,
        conditions: tuple[Condition, ...],
    ) -> ListQuery:
        query = ListQuery(
            accounts,
            _timestamp_ms("since", parameters),
            _timestamp_ms("before", parameters),
            Direction(parameters.get("direction", Direction.DESC)),
            _integer("limit", parameters, self._limit),
            conditions,
        )
        cursor = parameters.get("cursor")
        if cursor is None:
            return query
        position = self._cursors.position(query, cursor)
        if position is None:
            raise InvalidParameter("cursor")
        return replace(query, after=position.last_id, complete_before_ms=position.complete_before_ms)

    def _numbered(
        self,
        accounts: tuple[str, ...] | None,
        parameters: Parameters,
        limit: int,
        before_ms: int,
        conditions: list[Condition],
    ) -> NumberedQuery:
        page = _integer("page", parameters, 1)
        query = ListQuery(
            accounts,
            _timestamp_ms("since", parameters) if "since" in parameters else 0,
            before_ms,
            Direction(parameters.get("direction", Direction.DESC)),
            limit,
            tuple(conditions),
            skip=(page - 1) * limit,
            # A page number stands for what is skipped before it, so no page may end early.
            whole=True,
        )
        return NumberedQuery(query, page, page * limit <= self._config.limits.numbered_records_max)

    def _conditions(self, parameters: Parameters) -> Iterator[Condition]:
        values: dict[tuple[str, bool], list[FilterValue]] = {}
        for sent, text in parameters.multi_items():
            base, negated, _ = sent.partition(".not")
            name = _ALIASES.get(base, base)
            if name == _CATEGORY:
                values.setdefault((_PRODUCTS, bool(negated)), []).extend(self._products(sent, text))
            elif name in FILTERS:
                values.setdefault((name, bool(negated)), []).append(
                    _value(sent, FILTERS[name].sql_type, text)
                )
        for (name, excluded), alternatives in values.items():
            yield Condition(name, excluded, tuple(alternatives))

    def _products(self, sent: str, category: str) -> Mapping[str, str]:
        try:
            return self._config.product_categories[category.lower()].products
        except KeyError:
            raise InvalidParameter(sent) from None


def _integer(name: str, parameters: Parameters, default: int) -> int:
    # The SDK sends integers as floats, such as 25.0.
    return int(float(parameters[name])) if name in parameters else default


def _timestamp_ms(name: str, parameters: Parameters) -> int:
    at_ms = parse_timestamp_ms(parameters[name])
    if at_ms is None:
        raise InvalidParameter(name)
    return at_ms


def _uuid(name: str, text: str) -> UUID:
    # UUID() also accepts braces, white space and prefixes.
    if not text.replace("-", "").isalnum():
        raise InvalidParameter(name)
    try:
        return UUID(text)
    except ValueError:
        raise InvalidParameter(name) from None


def _value(name: str, sql_type: str, text: str) -> FilterValue:
    if sql_type == "uuid":
        return _uuid(name, text)
    try:
        if sql_type == "smallint":
            return int(text)
        if sql_type == "inet" and "%" not in text:
            return unmapped_interface(ip_interface(text))
    except ValueError:
        raise InvalidParameter(name) from None
    if sql_type == "inet":
        raise InvalidParameter(name)
    return text
