"""The handler of each operation in the OpenAPI document."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from log_api import export, v1
from log_api.access_requests import access_request
from log_api.alerts import alert_records_query
from log_api.authentication import Authenticator, authorize
from log_api.authorized_request import AuthorizedRequest
from log_api.change_reads import changes_of
from log_api.changes import Changes, changes_json
from log_api.completeness import completeness_info, gap_json
from log_api.config import LogApiConfig
from log_api.contract import CheckedRequest, Contract, Operation
from log_api.cursors import Cursors, Position
from log_api.dead_letters import COUNT_MAX, dead_letter_json
from log_api.disconnects import unless_disconnected
from log_api.documentation import documentation_page, documentation_policy
from log_api.errors import ApiError, bad_parameter, not_found, too_many_requests
from log_api.fair_shares import SharedPlaces
from log_api.path_segments import ALL_ACCOUNTS
from log_api.ports import AlertQuery, LogDatabase, Permission, Token
from log_api.query_parameters import InvalidParameter, NumberedQuery, QueryReader
from log_api.rate_limits import RateLimits
from log_api.records import (
    AuditRecord,
    Page,
    organization_record,
    page_info,
    record_with_changes,
    request_line,
)
from log_api.request_log import HEADERS_STATE, TOKEN_STATE
from log_api.responses import (
    JSON,
    PIECE_BYTES,
    Stream,
    array,
    numbered_page,
    page_response,
    result_response,
    sent_within_share,
)
from log_api.session_routes import SessionRoutes
from log_api.sessions import Sessions
from log_api.sql_builder import ListQuery
from log_api.summary import summarize
from log_api.tail import Tail
from log_api.taps import tap_run_json, taps_info
from log_api.unmatched import count_unmatched
from schemas.errors import RetryableError
from schemas.identity import id_ms, rfc3339_ms
from schemas.metric_defs import Metrics

_GAPS_MAX = 1_000
_TAP_RUNS_MAX = 200
_ACCOUNTS_MAX = 1_000
# As many days as one request counts: each is a statement at least.
_UNMATCHED_RANGE_MS_MAX = 366 * 86_400_000
# Every page of authentication logs but the last counts anew, so the count must be cheap beside the page.
_COUNTED_MAX = 10_000


Handler = Callable[[Operation, Request], Awaitable[Response]]
_AuthorizedHandler = Callable[[AuthorizedRequest], Awaitable[Response]]


class Handlers:
    """One method for each operation. Authentication, rate limit, validation and authorization precede every call of one."""

    def __init__(
        self,
        database: LogDatabase,
        config: LogApiConfig,
        contract: Contract,
        metrics: Metrics,
        *,
        clock_ms: Callable[[], int],
        stopping: Callable[[], bool],
    ) -> None:
        self._database = database
        self._config = config
        self._contract = contract
        self._clock_ms = clock_ms
        self._stopping = stopping
        self._cursors = Cursors(config.cursor_key)
        self._queries = QueryReader(config, self._cursors, clock_ms)
        self._sessions = Sessions(config.cursor_key, clock_ms)
        self._authenticator = Authenticator(
            database, self._sessions, clock_ms, config.limits.token_cache_ms, config.limits.tokens_cached_max
        )
        self._rate_limits = RateLimits(config.requests_burst, config.limits.tokens_cached_max, time.monotonic)
        self._database = database
        self._streams = SharedPlaces(config.streams_max)
        self._responses = SharedPlaces(config.limits.responses_bytes_max // PIECE_BYTES)
        metrics.log_api_streams.set_function(lambda: self._streams.taken)
        self._refused = metrics.log_api_refused

    def by_operation(self) -> Mapping[str, Handler]:
        """Return the handlers by the `operationId` of the OpenAPI document."""
        methods: dict[str, _AuthorizedHandler] = {
            "listAuditLogs": self._list,
            "listRequests": self._requests,
            "getAuditLog": self._get,
            "getAuditLogHistory": self._history,
            "getAuditLogChanges": self._changes,
            "listProductCategories": self._product_categories,
            "exportAuditLogs": self._export,
            "tailAuditLogs": self._tail,
            "summarizeAuditLogs": self._summary,
            "listOrganizationAuditLogs": self._list,
            "getOrganizationAuditLogHistory": self._history,
            "listAuditLogsV1": self._v1,
            "listUserAuditLogsV1": self._v1_of_user,
            "listAccessRequests": self._access_requests,
            "listAccessRequestsHyphen": self._access_requests,
            "showCompleteness": self._completeness,
            "listTaps": self._taps,
            "countDeadLetters": self._dead_letters,
            "countUnmatched": self._unmatched,
            "listAlerts": self._alerts,
            "getAlert": self._alert,
            "listAlertRecords": self._alert_records,
            "acknowledgeAlert": self._acknowledge_alert,
            "verifyToken": self._verify_token,
            "verifyAccountToken": self._verify_token,
            "getUser": self._user,
            "listAccounts": self._accounts,
            **SessionRoutes(self._sessions).by_operation(),
        }
        pages = {
            "getDocument": (msgspec.json.encode(self._contract.document), JSON, {}),
            "getDocumentation": (
                documentation_page(self._contract.document),
                "text/html; charset=utf-8",
                {"Content-Security-Policy": documentation_policy()},
            ),
        }
        return {name: self._authorized(method) for name, method in methods.items()} | {
            name: self._public(*page) for name, page in pages.items()
        }

    def _public(self, body: bytes, media_type: str, headers: dict[str, str]) -> Handler:
        async def handle(operation: Operation, request: Request) -> Response:
            self._checked(operation, request).require_parameters()
            return Response(body, media_type=media_type, headers=headers)

        return handle

    def _authorized(self, handler: _AuthorizedHandler) -> Handler:
        async def handle(operation: Operation, request: Request) -> Response:
            token = await self._token_of(operation, request)
            # Before any check that may end the request, so that its log line names the token all the same.
            request.scope["state"][TOKEN_STATE] = token
            per_s = token.requests_per_s or self._config.requests_per_s
            wait_s = self._rate_limits.wait_s(token.id, per_s)
            request.scope["state"][HEADERS_STATE] = self._rate_limits.headers(token.id, per_s)
            if wait_s:
                self._refused.labels("rate").inc()
                raise too_many_requests(wait_s)
            checked = self._checked(operation, request)
            accounts = self._scope(operation, request, token)
            checked.require_parameters()
            authorized = AuthorizedRequest(
                operation,
                request,
                token,
                accounts,
                checked.query,
                self._database.reads_of(token),
            )
            try:
                response = await unless_disconnected(request, handler(authorized))
                return sent_within_share(response, self._responses, token.requester)
            except InvalidParameter as error:
                name = error.name
            # Raised here, so that the error has no context that could hold a value.
            raise self._contract.bad_query(operation, name)

        return handle

    async def _token_of(self, operation: Operation, request: Request) -> Token:
        """Return the valid token of a request. Raises ApiError (401, 403), RetryableError."""
        if operation.id == SessionRoutes.BEGIN:
            return await self._authenticator.sign_in(request.headers)
        return await self._authenticator.authenticate(request.headers, request.method)

    def _checked(self, operation: Operation, request: Request) -> CheckedRequest:
        query_string = request.scope["query_string"]
        if len(query_string) > self._config.limits.query_bytes_max:
            raise bad_parameter("query", f"at most {self._config.limits.query_bytes_max} bytes")
        pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
        checked = self._contract.check(operation, request.path_params, pairs, request.headers)
        checked.require_route()
        return checked

    def _scope(self, operation: Operation, request: Request, token: Token) -> tuple[str, ...] | None:
        """Return the accounts of a request. Raises ApiError unless the token has the permission for all of them."""
        path = request.path_params
        if "organization_id" in path:
            accounts = self._config.organizations.get(path["organization_id"])
            if accounts is None:
                # Only tokens for every account may learn that an organization does not exist.
                authorize(token, operation.permission or "", ("",))
                raise not_found()
        elif path.get("account_id", ALL_ACCOUNTS) != ALL_ACCOUNTS:
            accounts = (path["account_id"],)
        else:
            accounts = None if token.accounts is None else tuple(sorted(token.accounts))
        authorize(token, operation.permission, accounts)
        return accounts

    async def _list(self, request: AuthorizedRequest) -> Response:
        page, info = await self._page_of(request)
        return page_response(await self._response_records(request, page), info)

    async def _requests(self, request: AuthorizedRequest) -> Response:
        page, info = await self._page_of(request)
        return page_response(await array(request, page.records, request_line), info)

    async def _page_of(self, request: AuthorizedRequest) -> tuple[Page, Mapping[str, Any]]:
        """Return a page of the records that the request's filters match, and what `result_info` says of it."""
        query = self._queries.list_query(request.accounts, request.query)
        # Before the page: a record stored between the two must not be below the watermark and missing on the page.
        watermark_ms = await self._watermark_ms(request, query)
        page = await request.reads.page(query)
        return page, page_info(len(page.records), self._cursor(query, page, watermark_ms), watermark_ms)

    async def _watermark_ms(self, request: AuthorizedRequest, query: ListQuery) -> int | None:
        """Return the watermark at the time when the first page of the list was read: every page is complete below it."""
        if "cursor" in request.query:
            return query.complete_before_ms
        return await self._database.complete_before_ms()

    async def _get(self, request: AuthorizedRequest) -> Response:
        return result_response(await self._source(request))

    async def _history(self, request: AuthorizedRequest) -> Response:
        self._queries.check_history(request.query)
        source = await self._source(request)
        if source.resource.id is None:
            empty = page_info(0, None, await self._database.complete_before_ms())
            return page_response([], {**empty, "history_status": "unavailable"})
        query = self._queries.history_query(request.accounts, request.query, source)
        watermark_ms = await self._watermark_ms(request, query)
        page = await request.reads.page(query)
        exact = source.resource.product is not None and source.resource.type is not None
        info = page_info(len(page.records), self._cursor(query, page, watermark_ms), watermark_ms)
        changes: Mapping[str, Changes] = {}
        if request.query.get("changes") == "true":
            changes = await changes_of(request.reads, request.accounts, page.records)
        status = "exact" if exact else "approximate"
        records = await self._response_records(request, page, changes)
        return page_response(records, {**info, "history_status": status})

    async def _changes(self, request: AuthorizedRequest) -> Response:
        source = await self._source(request)
        found = await changes_of(request.reads, request.accounts, [source])
        return result_response({"id": source.id, **changes_json(found[source.id])})

    async def _source(self, request: AuthorizedRequest) -> AuditRecord:
        """Return the record in the path. Raises ApiError (404)."""
        found = await request.reads.records(request.accounts, [UUID(request.http.path_params["audit_id"])])
        if not found:
            raise not_found()
        return found[0]

    async def _response_records(
        self, request: AuthorizedRequest, page: Page, changes: Mapping[str, Changes] = MappingProxyType({})
    ) -> msgspec.Raw:
        organization = request.http.path_params.get("organization_id")
        keep = self._config.keep_unknown_values

        def shape(record: AuditRecord) -> AuditRecord:
            if record.id in changes:
                record = record_with_changes(record, changes_json(changes[record.id]))
            if organization is None:
                return record
            return organization_record(record, organization, keep_unknown_values=keep)

        return await array(request, page.records, shape)

    def _cursor(self, query: ListQuery, page: Page, watermark_ms: int | None) -> str | None:
        return None if page.after is None else self._cursors.after(query, Position(page.after, watermark_ms))

    async def _completeness(self, request: AuthorizedRequest) -> Response:
        since_ms, before_ms = self._queries.time_range_ms(request.query)
        watermark_ms = await self._database.complete_before_ms()
        found = await request.reads.gaps(since_ms, before_ms, _GAPS_MAX)
        info = completeness_info(found, await request.reads.taps(), watermark_ms)
        return result_response([gap_json(gap) for gap in found.gaps], result_info=info)

    async def _product_categories(self, _request: AuthorizedRequest) -> Response:
        return result_response(
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

    async def _export(self, request: AuthorizedRequest) -> Response:
        query = self._queries.export_query(request.accounts, request.query)
        exporter = self._exporter(request)
        if request.query.get("format") == "csv":
            lines = exporter.csv(query, export.CSV_HEADER, export.v2_cells)
            return self._stream(request, lines, "text/csv; charset=utf-8")
        return self._stream(request, exporter.ndjson(query), "application/x-ndjson")

    def _exporter(self, request: AuthorizedRequest) -> export.Exporter:
        limits = self._config.limits
        return export.Exporter(request.reads, limits.export_retries, limits.retry_after_s)

    async def _tail(self, request: AuthorizedRequest) -> Response:
        conditions = self._queries.conditions(request.query)
        since_ms = self._queries.tail_since_ms(request.query)
        last_event_id = request.http.headers.get("last-event-id")
        if last_event_id:
            # Records before the last event may have been stored since: as far back as each poll looks.
            since_ms = max(id_ms(UUID(last_event_id).hex) - self._config.limits.tail_lookback_ms, 0)
        elif since_ms is None:
            since_ms = self._clock_ms()

        async def may_continue() -> bool:
            if self._stopping():
                return False
            try:
                # A token that is revoked, expires or changes its accounts ends the tail.
                found = await self._authenticator.authenticate(request.http.headers, "GET")
            except ApiError:
                return False
            # The database being away says nothing about the token.
            except RetryableError:
                return True
            return found == request.token

        tail = Tail(request.reads, self._config, self._clock_ms, asyncio.sleep, may_continue)
        query = ListQuery(request.accounts, 0, 0, conditions=conditions)
        return self._stream(request, tail.events(query, since_ms), "text/event-stream")

    async def _summary(self, request: AuthorizedRequest) -> Response:
        query = self._queries.summary_query(request.accounts, request.query)
        found = await summarize(request.reads, query, self._config.statement_timeout_ms / 1000)
        info = {
            "count": len(found.buckets),
            "complete": found.complete,
            "counted_since": rfc3339_ms(max(found.counted_since_ms, 0)),
            "source": "trends" if query.from_trends else "records",
        }
        return result_response(found.buckets, result_info=info)

    async def _alerts(self, request: AuthorizedRequest) -> Response:
        query = self._queries.alert_query(request.path_account(), request.query)
        found = await request.reads.alerts(query)
        # The query asks for one alert more than the page holds, to learn whether there is a next page.
        alerts = found[: query.limit - 1]
        info: dict[str, Any] = {"count": len(alerts)}
        if len(found) > len(alerts):
            info["after"] = alerts[-1]["id"]
        return result_response(alerts, result_info=info)

    async def _taps(self, request: AuthorizedRequest) -> Response:
        watermark_ms = await self._database.complete_before_ms()
        found = await request.reads.tap_runs(_TAP_RUNS_MAX)
        return result_response(
            [tap_run_json(run) for run in found.runs], result_info=taps_info(found, watermark_ms)
        )

    async def _dead_letters(self, request: AuthorizedRequest) -> Response:
        # A dead letter has no account, so only a token for every account may count it.
        authorize(request.token, request.operation.permission, ("",))
        found = await request.reads.dead_letters(COUNT_MAX)
        return result_response([dead_letter_json(one) for one in found], result_info={"count": len(found)})

    async def _unmatched(self, request: AuthorizedRequest) -> Response:
        since_ms, before_ms = self._queries.time_range_ms(request.query)
        if before_ms - since_ms > _UNMATCHED_RANGE_MS_MAX:
            raise InvalidParameter("since")
        time_s = self._config.statement_timeout_ms / 1000
        found = await count_unmatched(request.reads, request.accounts, (since_ms, before_ms), time_s)
        info = {
            "count": len(found.listed),
            "complete": found.complete,
            "counted_since": rfc3339_ms(max(found.counted_since_ms, 0)),
        }
        return result_response(found.listed, result_info=info)

    async def _alert(self, request: AuthorizedRequest) -> Response:
        account, alert_id = request.path_account(), UUID(request.http.path_params["alert_id"])
        alert = await self._found_alert(request, account, alert_id)
        deliveries = await request.reads.deliveries(account, alert_id)
        return result_response({**alert, "deliveries": deliveries})

    async def _alert_records(self, request: AuthorizedRequest) -> Response:
        account, alert_id = request.path_account(), UUID(request.http.path_params["alert_id"])
        authorize(request.token, Permission.ALERTS, request.accounts)
        limit = self._queries.limit(request.query)
        alert = await self._found_alert(request, account, alert_id)
        page = await request.reads.page(alert_records_query(account, alert, limit))
        info = {"count": len(page.records), "complete": page.after is None, "counted": alert["records"]}
        return page_response(await array(request, page.records), {**info, "exact": False})

    async def _found_alert(
        self, request: AuthorizedRequest, account: str, alert_id: UUID
    ) -> Mapping[str, Any]:
        """Return an alert of the account. Raises ApiError (404)."""
        after = UUID(int=min(alert_id.int + 1, (1 << 128) - 1))
        found = await request.reads.alerts(AlertQuery(account, alert_id, after, None, None, None, 1))
        if not found:
            raise not_found()
        return found[0]

    async def _acknowledge_alert(self, request: AuthorizedRequest) -> Response:
        account = request.path_account()
        alert_id = UUID(request.http.path_params["alert_id"])
        alert = await request.reads.acknowledge(account, alert_id, request.token)
        if alert is None:
            raise not_found()
        return result_response(alert)

    async def _v1(self, request: AuthorizedRequest) -> Response:
        return await self._v1_page(request, self._queries.v1_query(request.accounts, request.query))

    async def _v1_of_user(self, request: AuthorizedRequest) -> Response:
        numbered = self._queries.v1_query(request.accounts, request.query)
        if request.token.email is None:
            # A token without a user: no user's actions to list.
            return numbered_page([], 0, numbered)
        return await self._v1_page(request, self._queries.for_user(numbered, request.token.email))

    async def _v1_page(self, request: AuthorizedRequest, numbered: NumberedQuery) -> Response:
        if request.query.get("export") == "true":
            query = replace(numbered.query, limit=self._config.limits.export_records, skip=0, whole=False)
            lines = self._exporter(request).csv(query, v1.CSV_HEADER, v1.v1_cells)
            return self._stream(request, lines, "text/csv; charset=utf-8")
        page = await self._numbered(request, numbered)
        try:
            changes = await changes_of(request.reads, request.accounts, page.records)
        except RetryableError:
            # The list is worth more than the values before, which clients of v1 know to be empty at times.
            changes = {}
        entries = await array(request, page.records, lambda one: v1.v1_record(one, changes.get(one.id)))
        return numbered_page(entries, len(page.records), numbered)

    async def _numbered(self, request: AuthorizedRequest, numbered: NumberedQuery) -> Page:
        """Return a page by its number. Raises InvalidParameter if there are records that page numbers do not reach."""
        if numbered.reachable:
            return await request.reads.page(numbered.query)
        reach = self._config.limits.numbered_records_max
        if await request.reads.ids(replace(numbered.query, skip=reach, limit=1)):
            raise InvalidParameter("page")
        return Page([], None)

    async def _access_requests(self, request: AuthorizedRequest) -> Response:
        fields = self._queries.access_fields(request.query)
        numbered = self._queries.access_query(request.accounts, request.query)
        page = await self._numbered(request, numbered)
        entries = await array(request, page.records, lambda one: access_request(one, fields))
        total = await self._total(request, numbered, page)
        return numbered_page(entries, len(page.records), numbered, total_count=total)

    async def _total(self, request: AuthorizedRequest, numbered: NumberedQuery, page: Page) -> int:
        """Return the number of records on all pages, or fewer: more than this page's end if there is a next page."""
        is_last = page.after is None
        known = numbered.query.skip + len(page.records) + (not is_last) if page.records else 0
        if known >= _COUNTED_MAX or (is_last and (page.records or numbered.page == 1)):
            return known
        # Not `whole`: what was counted until the time limit is a lower bound, and none is worth failing the page.
        try:
            counted = await request.reads.ids(
                replace(numbered.query, skip=0, limit=_COUNTED_MAX, whole=False)
            )
        except RetryableError:
            return known
        return max(known, len(counted))

    async def _verify_token(self, request: AuthorizedRequest) -> Response:
        token = request.token
        return result_response(
            {"id": token.id.hex, "status": "active", "expires_on": rfc3339_ms(token.expires_ms)}
        )

    async def _user(self, request: AuthorizedRequest) -> Response:
        # Clients that probe for a user demand a text.
        return result_response({"id": request.token.id.hex, "email": request.token.email or ""})

    async def _accounts(self, request: AuthorizedRequest) -> Response:
        page, per_page = self._queries.page_numbers(request.query)
        readable: Sequence[str] | None = request.accounts
        if readable is None:
            readable = await request.reads.accounts(_ACCOUNTS_MAX)
        listed = readable[(page - 1) * per_page : page * per_page]
        info = {"page": page, "per_page": per_page, "count": len(listed)}
        return result_response(
            [{"id": account, "name": account, "type": "standard"} for account in listed], result_info=info
        )

    def _stream(self, request: AuthorizedRequest, chunks: AsyncIterator[bytes], media_type: str) -> Response:
        return Stream(chunks, media_type, self._streams, request.token.requester)
