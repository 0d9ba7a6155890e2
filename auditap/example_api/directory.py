"""The service that knows names: what an enricher asks about the ids it meets in the example's traffic."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from auditap.example_api.cast import accounts, tokens, users, zones

Entries = dict[str, dict[str, dict[str, str]]]


def directory_app() -> Starlette:
    """Return the directory: GET `/accounts/{id}`, `/zones/{id}`, `/users/{id}` and `/tokens/{id}`.

    Answers `{"result": {"id": …, "name": …}}`, a zone and a token with their `account_id`, a user with the `email`;
    404 with a result of null for what nobody knows.
    """
    entries = _entries()

    async def entry(request: Request) -> JSONResponse:
        found = entries.get(request.path_params["kind"], {}).get(request.path_params["id"])
        return JSONResponse({"result": found}, status_code=200 if found else 404)

    return Starlette(routes=[Route("/{kind}/{id}", entry, methods=["GET"])])


def _entries() -> Entries:
    return {
        "accounts": {account.id: {"id": account.id, "name": account.name} for account in accounts()},
        "zones": {
            zone.id: {"id": zone.id, "name": zone.name, "account_id": zone.account.id} for zone in zones()
        },
        "users": {user.user_id: _user(user.user_id, user.email or "") for user in users()},
        "tokens": {
            token.token_id: {
                "id": token.token_id,
                "name": token.token_name or "",
                "account_id": token.account.id,
            }
            for token in tokens()
            if token.token_id
        },
    }


def _user(user_id: str, email: str) -> dict[str, str]:
    return {"id": user_id, "email": email, "name": email.partition("@")[0].title()}
