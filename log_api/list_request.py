"""From the checked parameters of the list to its query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_interface
from uuid import UUID

from starlette.datastructures import ImmutableMultiDict

from log_api.cursors import Cursors
from log_api.listing import FILTERS, Condition, Direction, FilterValue, ListQuery
from log_api.moments import moment_ms

_LIMIT = 100
_PRODUCTS = "resource_product"
_CATEGORY = "product_category"
# The old name of a filter, and its name.
_ALIASES = {"audit_log_id": "id"}


class UnfitParameter(Exception):
    """A value that fits the document and still cannot be used. Holds the parameter's name alone."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class ListRequests:
    """Reads list requests. `categories`: the products of each category, named in lower case."""

    def __init__(self, cursors: Cursors, records_max: int, categories: Mapping[str, tuple[str, ...]]) -> None:
        self._cursors = cursors
        self._records_max = records_max
        self._categories = categories

    def query(self, account_id: str, parameters: ImmutableMultiDict[str, str]) -> ListQuery:
        """Return what is asked for. Raises UnfitParameter."""
        limit = parameters.get("limit")
        asked = ListQuery(
            account_id,
            _moment_ms("since", parameters),
            _moment_ms("before", parameters),
            Direction(parameters.get("direction", Direction.DESC)),
            min(_LIMIT, self._records_max) if limit is None else int(float(limit)),
            tuple(self._conditions(parameters)),
        )
        cursor = parameters.get("cursor")
        if cursor is None:
            return asked
        position = self._cursors.position(asked, cursor)
        if position is None:
            raise UnfitParameter("cursor")
        return replace(asked, after=position)

    def _conditions(self, parameters: ImmutableMultiDict[str, str]) -> Iterator[Condition]:
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

    def _products(self, sent: str, category: str) -> tuple[str, ...]:
        try:
            return self._categories[category.lower()]
        except KeyError:
            raise UnfitParameter(sent) from None


def _moment_ms(name: str, parameters: ImmutableMultiDict[str, str]) -> int:
    found = moment_ms(parameters[name])
    if found is None:
        raise UnfitParameter(name)
    return found


def _value(name: str, sql_type: str, text: str) -> FilterValue:
    try:
        if sql_type == "uuid":
            return UUID(text)
        if sql_type == "smallint":
            return int(text)
        if sql_type == "inet" and "%" not in text:
            return ip_interface(text)
    except ValueError:
        raise UnfitParameter(name) from None
    if sql_type == "inet":
        raise UnfitParameter(name)
    return text
