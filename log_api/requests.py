"""From the checked parameters of each route to what is asked of the database."""

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
from log_api.listing import (
    EMAIL,
    EMAIL_PATTERN,
    FILTERS,
    LOGINS,
    Condition,
    Direction,
    Field,
    FilterValue,
    ListQuery,
    SummaryQuery,
)
from log_api.moments import moment_ms
from log_api.ports import AlertQuery
from log_api.records import AuditRecord
from schemas.identity import first_id_at

Parameters = ImmutableMultiDict[str, str]

_LIMIT = 100
_ACCESS_LIMIT = 25
_PRODUCTS = "resource_product"
_CATEGORY = "product_category"
# The old name of a filter, and its name.
_ALIASES = {"audit_log_id": "id"}
_V1_FILTERS = {
    "id": "id",
    "action.type": "action_type",
    "actor.email": EMAIL,
    "actor.ip": "actor_ip_address",
    "zone.name": "zone_name",
}
_HOUR_MS = 3_600_000
_AHEAD_MS = 24 * _HOUR_MS
_PANE_MS = 600_000
_HOPS_MS = {"10m": _PANE_MS, "30m": 3 * _PANE_MS, "1h": _HOUR_MS}
_BUCKETS_MS = {"hour": _HOUR_MS, "day": 24 * _HOUR_MS}
_LIKE_SPECIAL = re.compile(r"([\\%_])")


class UnfitParameter(Exception):
    """A value that fits the document and still cannot be used. Holds the parameter's name alone."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Numbered(NamedTuple):
    """A page by its number."""

    query: ListQuery
    page: int


class Requests:
    """Reads requests. Every method raises UnfitParameter; `accounts` None: whatever the account."""

    def __init__(self, config: LogApiConfig, cursors: Cursors, clock_ms: Callable[[], int]) -> None:
        self._config = config
        self._clock_ms = clock_ms
        self._cursors = cursors
        self._limit = min(_LIMIT, config.page_records_max)

    def listing(self, accounts: tuple[str, ...] | None, parameters: Parameters) -> ListQuery:
        """Return what a list asks for."""
        return self._page(accounts, parameters, self.conditions(parameters))

    def history(
        self, accounts: tuple[str, ...] | None, parameters: Parameters, source: AuditRecord
    ) -> ListQuery:
        """Return what the history of a record's resource asks for; the record must name its resource's id."""
        _moment_ms("action_time", parameters)
        resource = source.resource
        named = {
            "resource_id": resource.id,
            "resource_product": resource.product,
            "resource_type": resource.type,
        }
        conditions = [Condition(name, False, (value,)) for name, value in named.items() if value is not None]
        owner = accounts if source.account.id is None else (source.account.id,)
        return self._page(owner, parameters, tuple(conditions))

    def check_history(self, parameters: Parameters) -> None:
        """Read what a history asks for as far as no record is needed."""
        for name in ("action_time", "since", "before"):
            _moment_ms(name, parameters)

    def export(self, accounts: tuple[str, ...] | None, parameters: Parameters) -> ListQuery:
        """Return the first page of an export."""
        asked = ListQuery(
            accounts,
            _moment_ms("since", parameters),
            _moment_ms("before", parameters),
            Direction.ASC,
            self._config.export_records,
            self.conditions(parameters),
        )
        after = parameters.get("after")
        return asked if after is None else replace(asked, after=_uuid("after", after))

    def span_ms(self, parameters: Parameters) -> tuple[int, int]:
        """Return the range of time (Unix ms) that is asked about."""
        return _moment_ms("since", parameters), _moment_ms("before", parameters)

    def tail_since_ms(self, parameters: Parameters) -> int | None:
        """Return from when on (Unix ms) records are followed, None for now."""
        return _moment_ms("since", parameters) if "since" in parameters else None

    def summary(self, accounts: tuple[str, ...], parameters: Parameters) -> SummaryQuery:
        """Return what a summary asks for."""
        since_ms, before_ms = _moment_ms("since", parameters), _moment_ms("before", parameters)
        step_ms = _BUCKETS_MS[parameters.get("bucket", "day")]
        if "hop" in parameters:
            return self._hopping(accounts, parameters, since_ms, before_ms)
        first = since_ms // step_ms + 1
        inner = range(first * step_ms, before_ms, step_ms)
        if len(inner) >= self._config.summary_buckets_max:
            raise UnfitParameter("bucket")
        bounds = (since_ms, *inner, before_ms) if since_ms < before_ms else (since_ms, since_ms)
        field = Field(parameters.get("by", Field.ACTION_TYPE))
        conditions = self.conditions(parameters)
        of_trends = parameters.get("source") == "trends"
        if of_trends and (conditions or since_ms % _HOUR_MS or before_ms % _HOUR_MS):
            raise UnfitParameter("source")
        return SummaryQuery(accounts, bounds, field, conditions, of_trends)

    def _hopping(
        self, accounts: tuple[str, ...], parameters: Parameters, since_ms: int, before_ms: int
    ) -> SummaryQuery:
        """Return what a summary of windows asks for that begin at every hop: only trends have them."""
        window_ms, hop_ms = _BUCKETS_MS[parameters.get("bucket", "day")], _HOPS_MS[parameters["hop"]]
        if parameters.get("source") != "trends" or window_ms <= hop_ms:
            raise UnfitParameter("hop")
        if self.conditions(parameters) or since_ms % hop_ms or before_ms % hop_ms:
            raise UnfitParameter("source")
        hops = window_ms // hop_ms
        if (before_ms - since_ms) // hop_ms - hops >= self._config.summary_buckets_max:
            raise UnfitParameter("bucket")
        bounds = tuple(range(since_ms, max(before_ms, since_ms) + 1, hop_ms))
        field = Field(parameters.get("by", Field.ACTION_TYPE))
        width_ms = _HOUR_MS if hop_ms == _HOUR_MS else _PANE_MS
        return SummaryQuery(accounts, bounds, field, of_trends=True, hops=hops, trend_ms=width_ms)

    def alerts(self, account: str, parameters: Parameters) -> AlertQuery:
        """Return what a list of alerts asks for: one more than a page holds."""
        since_ms = _moment_ms("since", parameters) if "since" in parameters else 0
        before_ms = _moment_ms("before", parameters) if "before" in parameters else self.end_ms()
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
            _whole("limit", parameters, self._limit) + 1,
        )

    def v1(self, accounts: tuple[str, ...] | None, parameters: Parameters) -> Numbered:
        """Return what a list of v1 asks for."""
        values: dict[str, FilterValue] = {}
        for sent, name in _V1_FILTERS.items():
            if sent in parameters:
                values[name] = _value(sent, FILTERS[name].sql_type, parameters[sent])
        conditions = [Condition(name, False, (value,)) for name, value in values.items()]
        if parameters.get("hide_user_logs") == "true":
            conditions.append(Condition("resource_scope", True, ("user",)))
        before_ms = _moment_ms("before", parameters) if "before" in parameters else self.end_ms()
        return self._numbered(
            accounts, parameters, _whole("per_page", parameters, self._limit), before_ms, conditions
        )

    def of_user(self, numbered: Numbered, email: str) -> Numbered:
        """Return the same page of what a user did."""
        theirs = Condition(EMAIL, False, (email,))
        query = replace(numbered.query, conditions=(theirs, *numbered.query.conditions))
        return numbered._replace(query=query)

    def access(self, accounts: tuple[str, ...] | None, parameters: Parameters) -> Numbered:
        """Return what a list of logins asks for."""
        conditions = [Condition(LOGINS, False, ACTIONS)]
        email = parameters.get("email")
        if email is not None:
            operator = parameters.get("emailOp", "contains")
            excluded = operator == "neq"
            if parameters.get("email_exact") == "true" or operator == "eq":
                conditions.append(Condition(EMAIL, excluded, (email,)))
            else:
                pattern = _LIKE_SPECIAL.sub(r"\\\1", email)
                conditions.append(Condition(EMAIL_PATTERN, excluded, (f"%{pattern}%",)))
        # `until` is the range's last moment, not the one after it.
        before_ms = _moment_ms("until", parameters) + 1 if "until" in parameters else self.end_ms()
        limit = _whole("per_page", parameters, _whole("limit", parameters, _ACCESS_LIMIT))
        return self._numbered(accounts, parameters, limit, before_ms, conditions)

    def access_fields(self, parameters: Parameters) -> frozenset[str]:
        """Return the fields of logins that are to be shown."""
        if "fields" not in parameters:
            return frozenset(FIELDS)
        fields = frozenset(name.strip() for name in parameters["fields"].split(","))
        if not fields.issubset(FIELDS):
            raise UnfitParameter("fields")
        return fields

    def conditions(self, parameters: Parameters) -> tuple[Condition, ...]:
        """Return the filters that are asked for."""
        return tuple(self._conditions(parameters))

    def end_ms(self) -> int:
        """Return the end of a range that has none: beyond any clock that records are taken from."""
        return self._clock_ms() + _AHEAD_MS

    def _page(
        self,
        accounts: tuple[str, ...] | None,
        parameters: Parameters,
        conditions: tuple[Condition, ...],
    ) -> ListQuery:
        asked = ListQuery(
            accounts,
            _moment_ms("since", parameters),
            _moment_ms("before", parameters),
            Direction(parameters.get("direction", Direction.DESC)),
            _whole("limit", parameters, self._limit),
            conditions,
        )
        cursor = parameters.get("cursor")
        if cursor is None:
            return asked
        position = self._cursors.position(asked, cursor)
        if position is None:
            raise UnfitParameter("cursor")
        return replace(asked, after=position.last_id, complete_before_ms=position.complete_before_ms)

    def _numbered(
        self,
        accounts: tuple[str, ...] | None,
        parameters: Parameters,
        limit: int,
        before_ms: int,
        conditions: list[Condition],
    ) -> Numbered:
        page = _whole("page", parameters, 1)
        if page * limit > self._config.numbered_records_max:
            raise UnfitParameter("page")
        query = ListQuery(
            accounts,
            _moment_ms("since", parameters) if "since" in parameters else 0,
            before_ms,
            Direction(parameters.get("direction", Direction.DESC)),
            limit,
            tuple(conditions),
            skip=(page - 1) * limit,
            whole=True,
        )
        return Numbered(query, page)

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
        for (name, excluded), united in values.items():
            yield Condition(name, excluded, tuple(united))

    def _products(self, sent: str, category: str) -> Mapping[str, str]:
        try:
            return self._config.product_categories[category.lower()].products
        except KeyError:
            raise UnfitParameter(sent) from None


def _whole(name: str, parameters: Parameters, otherwise: int) -> int:
    # Clients' numbers have fractions, which are zero.
    return int(float(parameters[name])) if name in parameters else otherwise


def _moment_ms(name: str, parameters: Parameters) -> int:
    found = moment_ms(parameters[name])
    if found is None:
        raise UnfitParameter(name)
    return found


def _uuid(name: str, text: str) -> UUID:
    # The class is lenient with white space.
    if not text.replace("-", "").isalnum():
        raise UnfitParameter(name)
    try:
        return UUID(text)
    except ValueError:
        raise UnfitParameter(name) from None


def _value(name: str, sql_type: str, text: str) -> FilterValue:
    if sql_type == "uuid":
        return _uuid(name, text)
    try:
        if sql_type == "smallint":
            return int(text)
        if sql_type == "inet" and "%" not in text:
            return ip_interface(text)
    except ValueError:
        raise UnfitParameter(name) from None
    if sql_type == "inet":
        raise UnfitParameter(name)
    return text
