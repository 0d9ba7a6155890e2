"""An in-process client that validates every response against the OpenAPI document."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import jsonschema
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from starlette.applications import Starlette

from log_api.config import LogApiConfig, ProductCategory
from log_api.contract import contract_document
from log_api.ports import Permission, Token
from tests.unit.log_api.memory_log import MemoryLog

Query = str | Mapping[str, str] | Sequence[tuple[str, str]]

A, B = "a" * 32, "b" * 32
NOW_MS = 1_769_192_714_749
RANGE = {"since": "2026-01-23", "before": "2026-01-24"}
TOKEN = "atp_account-a"
WITH_CATEGORIES = LogApiConfig(
    cursor_key=b"k" * 32,
    product_categories={
        "messaging": ProductCategory("Messaging", {"alerting": "Alerts", "queues": "Queues"})
    },
)


def add_token(
    log: MemoryLog,
    text: str,
    accounts: set[str] | None,
    *permissions: str,
    for_ms: int = 60_000,
    email: str | None = None,
    requests_per_s: float | None = 1e6,
) -> Token:
    """Add a token; by default with the permission to read audit logs."""
    sha256 = hashlib.sha256(text.encode()).digest()
    token = Token(
        uuid.uuid5(uuid.NAMESPACE_OID, text),
        None if accounts is None else frozenset(accounts),
        frozenset(permissions or (Permission.AUDIT_LOGS,)),
        NOW_MS + for_ms,
        text,
        email,
        requests_per_s,
        sha256,
    )
    log.tokens[sha256] = token
    return token


class ApiClient:
    """Sends requests and checks that the document allows each response."""

    def __init__(self, app: Starlette, settings: LogApiConfig, token: str = TOKEN) -> None:
        self._token = token
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://log.test")
        self._prefix = settings.prefix
        self.headers = {"Authorization": f"Bearer {token}"}
        self.document = contract_document(settings)
        resource = DRAFT202012.create_resource(self.document)
        self._registry: Registry[Any] = Registry().with_resource("urn:document", resource)

    async def list(self, query: Query = "", account: str = A, token: str | None = None) -> httpx.Response:
        """GET the list; the time range is one day unless `query` is a string."""
        if isinstance(query, Mapping):
            query = {**RANGE, **query}
        elif not isinstance(query, str):
            query = [*RANGE.items(), *query]
        return await self.get(
            f"/accounts/{account}/logs/audit", query, {"Authorization": f"Bearer {token or self._token}"}
        )

    async def get(
        self,
        path: str,
        query: Query = "",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        method: str = "GET",
    ) -> httpx.Response:
        """Send a request below the prefix."""
        sent = query if isinstance(query, str) else httpx.QueryParams(query)  # type: ignore[arg-type]
        url = (
            httpx.URL(self._prefix + path, params=None)
            if not sent
            else httpx.URL(f"{self._prefix}{path}?{sent}")
        )
        response = await self._http.request(method, url, headers=headers)
        if method != "HEAD":
            self._check(path, method, response)
        return response

    async def close(self) -> None:
        await self._http.aclose()

    def _check(self, path: str, method: str, response: httpx.Response) -> None:
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert re.fullmatch("[0-9a-f]{16}", response.headers["cf-ray"])
        media_type = response.headers["content-type"].partition(";")[0]
        schema: dict[str, Any] = {"$ref": "#/components/schemas/Failure"}
        operation = self.document["paths"].get(self._template(path), {}).get(method.lower())
        if operation is not None:
            documented = operation["responses"][str(response.status_code)]
            if "$ref" in documented:
                documented = self.document["components"]["responses"][documented["$ref"].rpartition("/")[2]]
            for name in documented.get("headers", ()):
                assert name in response.headers
            schema = documented["content"][media_type]["schema"]
        if media_type == "application/json":
            found = {"$ref": f"urn:document{schema['$ref']}"} if "$ref" in schema else schema
            jsonschema.Draft202012Validator(found, registry=self._registry).validate(response.json())

    def _template(self, path: str) -> str:
        """Return the path template that matches a path; literal segments take precedence over parameters."""
        fitting = [
            template
            for template in self.document["paths"]
            if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path)
        ]
        return min(fitting, key=lambda template: template.count("{"), default="")
