"""Reads a log with the Python SDK, version 4 or later, in its strict mode: it raises for what it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cloudflare

from tests.clients.python.conversation import FailedError, requested, show


def pages(request: dict[str, Any]) -> Iterator[list[Any]]:
    client = cloudflare.Cloudflare(
        api_token=request["token"],
        base_url=request["base_url"],
        max_retries=request["retries"],
        timeout=120,
        _strict_response_validation=True,
    )
    # Calls of two versions, so of no one type.
    lists: dict[str, Any] = {"v1": client.audit_logs.list, "v2": client.accounts.logs.audit.list}
    size = {"v1": "per_page", "v2": "limit"}[request["reads"]]
    query: dict[str, Any] = {
        name: request[name] for name in ("since", "before", "direction") if name in request
    }
    if "not_result" in request:
        query["action_result"] = {"not": [request["not_result"]]}
    try:
        page = lists[request["reads"]](account_id=request["account"], **{size: request["per_page"]}, **query)
        while page.result:
            yield [record.model_dump(mode="json", by_alias=True) for record in page.result]
            if not page.has_next_page():
                return
            page = page.get_next_page()
    except cloudflare.APIStatusError as error:
        codes = [each.code for each in error.errors if each.code is not None]
        raise FailedError(type(error).__name__, error.status_code, codes) from None


if __name__ == "__main__":
    show(pages(requested()))
