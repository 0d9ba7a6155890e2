"""What answers each operation of the document."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from log_api import export, v1
from log_api.access_log import TOKEN
from log_api.access_requests import access_request
from log_api.completeness import CompleteBefore, completeness_info, shown_gap
from log_api.config import LogApiConfig
from log_api.contract import CheckedRequest, Contract, Operation
from log_api.cursors import Cursors, Position
from log_api.documentation import documentation_page, documentation_policy
from log_api.failures import ApiFailure, bad_parameter, not_found, too_many_requests
from log_api.listing import ListQuery
from log_api.ports import LogDatabase, Token
from log_api.rates import RateLimits
from log_api.records import AuditRecord, OrganizationRecord, Page, organization_record, page_info
from log_api.requests import Numbered, Parameters, Requests, UnfitParameter
from log_api.summary import summarize
from log_api.tail import Tail
from log_api.tokens import TokenCheck, authorize
from schemas.errors import RetryableError
from schemas.identity import id_ms, rfc3339_ms

_JSON = "application/json"
_GAPS_MAX = 1_000
_COMPLETE_KEPT_MS = 1_000


class Asked(NamedTuple):
    """A request that may be answered: of a known token, for accounts that the token is good for.

    `accounts`: the path's account, or those of its organization, or the token's own; None: whatever the account.
    """

    operation: Operation
    request: Request
    token: Token
    accounts: tuple[str, ...] | None
    parameters: Parameters

    def one_scope(self) -> tuple[str, ...]:
        """Return the accounts of a route whose path names them."""
        if self.accounts is None:
            raise not_found()
        return self.accounts


Answer = Callable[[Operation, Request], Awaitable[Response]]
_Method = Callable[[Asked], Awaitable[Response]]


class Answers:
    """One method for each operation of the document. Who may ask what is decided before any of them is called."""

    def __init__(
        self,
        database: LogDatabase,
        config: LogApiConfig,
        contract: Contract,
        clock_ms: Callable[[], int],
        stopping: Callable[[], bool],
    ) -> None:
        self._database = database
        self._config = config
        self._contract = contract
        self._clock_ms = clock_ms
        self._stopping = stopping
        self._cursors = Cursors(config.cursor_key)
        self._requests = Requests(config, self._cursors, clock_ms)
        self._tokens = TokenCheck(database, clock_ms, config.token_cache_ms, config.tokens_cached_max)
        self._rates = RateLimits(config.requests_burst, config.tokens_cached_max, time.monotonic)
        self._exporter = export.Exporter(database, config.export_retries, config.retry_after_s)
        self._complete_before = CompleteBefore(database, _COMPLETE_KEPT_MS)
        self._streams = 0

    def by_operation(self) -> Mapping[str, Answer]:
        """Return what answers, by operation id."""
        methods: dict[str, _Method] = {
            "listAuditLogs": self._list,
            "getAuditLog": self._get,
            "getAuditLogHistory": self._history,
            "listProductCategories": self._product_categories,
            "exportAuditLogs": self._export,
            "tailAuditLogs": self._tail,
            "summarizeAuditLogs": self._summary,
            "listOrganizationAuditLogs": self._list,
            "getOrganizationAuditLogHistory": self._history,
            "listAuditLogsV1": self._v1,
            "listUserAuditLogsV1": self._v1_of_user,
            "listAccessRequests": self._access_requests,
            "showCompleteness": self._completeness,
            "listAlerts": self._alerts,
            "acknowledgeAlert": self._acknowledge_alert,
            "verifyToken": self._verify_token,
        }
        pages = {
            "getDocument": (msgspec.json.encode(self._contract.document), _JSON, {}),
            "getDocumentation": (
                documentation_page(self._contract.document),
                "text/html; charset=utf-8",
                {"Content-Security-Policy": documentation_policy()},
            ),
        }
        return {name: self._secured(method) for name, method in methods.items()} | {
            name: self._public(*page) for name, page in pages.items()
        }

    def _public(self, body: bytes, media_type: str, headers: dict[str, str]) -> Answer:
        async def answer(operation: Operation, request: Request) -> Response:
            self._checked(operation, request).require_parameters()
            return Response(body, media_type=media_type, headers=headers)

        return answer

    def _secured(self, method: _Method) -> Answer:
        async def answer(operation: Operation, request: Request) -> Response:
            token = await self._tokens.authenticate(request.headers)
            request.scope["state"][TOKEN] = token
            wait_s = self._rates.wait_s(token.id, token.requests_per_s or self._config.requests_per_s)
            if wait_s:
                raise too_many_requests(wait_s)
            checked = self._checked(operation, request)
            accounts = self._scope(operation, request, token)
            checked.require_parameters()
            try:
                return await method(Asked(operation, request, token, accounts, checked.query))
            except UnfitParameter as unfit:
                name = unfit.name
            raise self._contract.bad_query(operation, name)

        return answer

    def _checked(self, operation: Operation, request: Request) -> CheckedRequest:
        query_string = request.scope["query_string"]
        if len(query_string) > self._config.query_bytes_max:
            raise bad_parameter("query", f"at most {self._config.query_bytes_max} bytes")
        pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
        checked = self._contract.check(operation, request.path_params, pairs, request.headers)
        checked.require_route()
        return checked

    def _scope(self, operation: Operation, request: Request, token: Token) -> tuple[str, ...] | None:
        """Return the accounts that are asked about. Raises ApiFailure unless the token is good for all of them."""
        named = request.path_params
        if "organization_id" in named:
            accounts = self._config.organizations.get(named["organization_id"])
            if accounts is None:
                # Who may not see every account learns nothing about which organizations there are.
                authorize(token, operation.permission or "", ("",))
                raise not_found()
        elif "account_id" in named:
            accounts = (named["account_id"],)
        else:
            accounts = None if token.accounts is None else tuple(sorted(token.accounts))
        if operation.permission is not None:
            authorize(token, operation.permission, accounts)
        return accounts

    async def _list(self, asked: Asked) -> Response:
        query = self._requests.listing(asked.accounts, asked.parameters)
        complete_ms = await self._complete_before_ms(asked, query)
        page = await self._database.page(query)
        info = page_info(len(page.records), self._cursor(query, page, complete_ms), complete_ms)
        return _page(self._shown(asked, page), info)

    async def _complete_before_ms(self, asked: Asked, query: ListQuery) -> int | None:
        """Return what was complete before the first page of the walk was read: of that, no page lacks anything."""
        if "cursor" in asked.parameters:
            return query.complete_before_ms
        return await self._complete_before.at_ms()

    async def _get(self, asked: Asked) -> Response:
        return _result(await self._source(asked))

    async def _history(self, asked: Asked) -> Response:
        self._requests.check_history(asked.parameters)
        source = await self._source(asked)
        if source.resource.id is None:
            nothing = page_info(0, None, await self._complete_before.at_ms())
            return _page([], {**nothing, "history_status": "unavailable"})
        query = self._requests.history(asked.accounts, asked.parameters, source)
        complete_ms = await self._complete_before_ms(asked, query)
        page = await self._database.page(query)
        exact = source.resource.product is not None and source.resource.type is not None
        info = page_info(len(page.records), self._cursor(query, page, complete_ms), complete_ms)
        status = "exact" if exact else "approximate"
        return _page(self._shown(asked, page), {**info, "history_status": status})

    async def _source(self, asked: Asked) -> AuditRecord:
        """Return the record that the path names."""
        found = await self._database.records(asked.accounts, [UUID(asked.request.path_params["audit_id"])])
        if not found:
            raise not_found()
        return found[0]

    def _shown(self, asked: Asked, page: Page) -> list[AuditRecord] | list[OrganizationRecord]:
        organization = asked.request.path_params.get("organization_id")
        if organization is None:
            return list(page.records)
        return [organization_record(one, organization) for one in page.records]

    def _cursor(self, query: ListQuery, page: Page, complete_ms: int | None) -> str | None:
        return None if page.after is None else self._cursors.after(query, Position(page.after, complete_ms))

    async def _completeness(self, asked: Asked) -> Response:
        since_ms, before_ms = self._requests.span_ms(asked.parameters)
        complete_ms = await self._complete_before.at_ms()
        found = await self._database.gaps(since_ms, before_ms, _GAPS_MAX)
        info = completeness_info(found, await self._database.taps(), complete_ms)
        return _result([shown_gap(each) for each in found.gaps], result_info=info)

    async def _product_categories(self, _asked: Asked) -> Response:
        return _result(
            [
                {
                    "label": category.label,
                    "value": value,
                    "products": [
                        {"label": label, "value": product} for product, label in category.products.items()
                    ],
                }
                for value, category in self._config.product_categories.items()
            ]
        )

    async def _export(self, asked: Asked) -> Response:
        query = self._requests.export(asked.accounts, asked.parameters)
        if asked.parameters.get("format") == "csv":
            lines = self._exporter.csv(query, export.CSV_HEADER, export.v2_cells)
            return self._stream(lines, "text/csv; charset=utf-8")
        return self._stream(self._exporter.ndjson(query), "application/x-ndjson")

    async def _tail(self, asked: Asked) -> Response:
        conditions = self._requests.conditions(asked.parameters)
        since_ms = self._requests.tail_since_ms(asked.parameters)
        last = asked.request.headers.get("last-event-id")
        if last:
            since_ms = max(id_ms(UUID(last).hex) - self._config.tail_lookback_ms, 0)
        elif since_ms is None:
            since_ms = self._clock_ms()

        async def still_allowed() -> bool:
            if self._stopping():
                return False
            try:
                return await self._tokens.authenticate(asked.request.headers) == asked.token
            except ApiFailure:
                return False
            except RetryableError:
                return True

        tail = Tail(self._database, self._config, self._clock_ms, asyncio.sleep, still_allowed)
        query = ListQuery(asked.accounts, 0, 0, conditions=conditions)
        return self._stream(tail.events(query, since_ms), "text/event-stream")

    async def _summary(self, asked: Asked) -> Response:
        query = self._requests.summary(asked.one_scope(), asked.parameters)
        found = await summarize(self._database, query, self._config.statement_timeout_ms / 1000)
        info = {
            "count": len(found.buckets),
            "complete": found.complete,
            "counted_since": rfc3339_ms(max(found.counted_since_ms, 0)),
        }
        return _result(found.buckets, result_info=info)

    async def _alerts(self, asked: Asked) -> Response:
        [account] = asked.one_scope()
        query = self._requests.alerts(account, asked.parameters)
        found = await self._database.alerts(query)
        shown = found[: query.limit - 1]
        info: dict[str, Any] = {"count": len(shown)}
        if len(found) > len(shown):
            info["after"] = shown[-1]["id"]
        return _result(shown, result_info=info)

    async def _acknowledge_alert(self, asked: Asked) -> Response:
        [account] = asked.one_scope()
        alert_id = UUID(asked.request.path_params["alert_id"])
        alert = await self._database.acknowledge(account, alert_id, asked.token.email or asked.token.name)
        if alert is None:
            raise not_found()
        return _result(alert)

    async def _v1(self, asked: Asked) -> Response:
        return await self._v1_page(asked, self._requests.v1(asked.accounts, asked.parameters))

    async def _v1_of_user(self, asked: Asked) -> Response:
        numbered = self._requests.v1(asked.accounts, asked.parameters)
        if asked.token.email is None:
            # Nobody's token: nobody did anything.
            return _numbered_page([], numbered)
        return await self._v1_page(asked, self._requests.of_user(numbered, asked.token.email))

    async def _v1_page(self, asked: Asked, numbered: Numbered) -> Response:
        if asked.parameters.get("export") == "true":
            query = replace(numbered.query, limit=self._config.export_records, skip=0, whole=False)
            return self._stream(
                self._exporter.csv(query, v1.CSV_HEADER, v1.v1_cells), "text/csv; charset=utf-8"
            )
        page = await self._database.page(numbered.query)
        return _numbered_page([v1.v1_record(one) for one in page.records], numbered)

    async def _access_requests(self, asked: Asked) -> Response:
        fields = self._requests.access_fields(asked.parameters)
        page = await self._database.page(self._requests.access(asked.accounts, asked.parameters).query)
        return _result([access_request(one, fields) for one in page.records])

    async def _verify_token(self, asked: Asked) -> Response:
        token = asked.token
        return _result({"id": token.id.hex, "status": "active", "expires_on": rfc3339_ms(token.expires_ms)})

    def _stream(self, chunks: AsyncIterator[bytes], media_type: str) -> Response:
        if self._streams >= self._config.streams_max:
            raise too_many_requests(self._config.retry_after_s)

        async def counted() -> AsyncIterator[bytes]:
            self._streams += 1
            try:
                async for chunk in chunks:
                    yield chunk
            finally:
                self._streams -= 1

        return StreamingResponse(counted(), media_type=media_type)


def _page(records: object, info: Mapping[str, Any]) -> Response:
    body = {"success": True, "errors": [], "result": records, "result_info": info}
    return Response(msgspec.json.encode(body), media_type=_JSON)


def _result(result: object, **others: object) -> Response:
    body = {"success": True, "errors": [], "messages": [], "result": result, **others}
    return Response(msgspec.json.encode(body), media_type=_JSON)


def _numbered_page(records: list[v1.V1Record], numbered: Numbered) -> Response:
    info = {"page": numbered.page, "per_page": numbered.query.limit, "count": len(records)}
    return _result(records, result_info=info)
