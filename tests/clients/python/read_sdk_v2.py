"""Reads a log with the Python SDK, version 2, which hands out single pages and knows audit logs v1 alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import CloudFlare

from tests.clients.python.conversation import FailedError, requested, show


def pages(request: dict[str, Any]) -> Iterator[list[Any]]:
    client = CloudFlare.CloudFlare(
        token=request["token"], base_url=request["base_url"], raw=True, warnings=False
    )
    query = {
        name: request[name] for name in ("since", "before", "direction", "per_page") if request.get(name)
    }
    number = 1
    while True:
        try:
            page = client.accounts.audit_logs.get(request["account"], params={**query, "page": number})
        except CloudFlare.exceptions.CloudFlareAPIError as error:
            # Its only number is the code in the answer.
            raise FailedError(type(error).__name__, 0, [int(error)]) from None
        if not page["result"]:
            return
        yield page["result"]
        number = page["result_info"]["page"] + 1


if __name__ == "__main__":
    show(pages(requested()))
