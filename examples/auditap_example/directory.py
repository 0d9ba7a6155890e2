"""The directory: a service in which the enricher looks up the names of the example's ids."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from auditap_example.cast import accounts, tokens, users, zones


def directory_app() -> Starlette:
    """Return the directory: GET `/accounts/{id}`, `/zones/{id}`, `/users/{id}` and `/tokens/{id}`.

    Responds `{"result": {"name": …}}`, a zone and a token with their `account_id`, a user with the `email` instead; 404 with a
    result of null for an unknown id.
    """
    entries: dict[str, dict[str, Any]] = {}
    for account in accounts():
        entries[f"/accounts/{account.id}"] = {"name": account.name}
    for zone in zones():
        entries[f"/zones/{zone.id}"] = {"name": zone.name, "account_id": zone.account.id}
    for user in users():
        entries[f"/users/{user.user_id}"] = {"email": user.email}
    for token in tokens():
        entries[f"/tokens/{token.token_id}"] = {"name": token.token_name, "account_id": token.account.id}

    async def entry(request: Request) -> JSONResponse:
        found = entries.get(request.url.path)
        return JSONResponse({"result": found}, status_code=404 if found is None else 200)

    return Starlette(routes=[Route("/{kind}/{id}", entry, methods=["GET"])])
