"""A request that has passed authentication, validation and authorization."""

from __future__ import annotations

from typing import NamedTuple

from starlette.requests import Request

from log_api.contract import Operation
from log_api.errors import not_found
from log_api.path_segments import ALL_ACCOUNTS
from log_api.ports import LogReads, Token
from log_api.query_parameters import Parameters


class AuthorizedRequest(NamedTuple):
    """A request with a valid token that has the route's permission for `accounts`.

    `accounts` is the account in the path, or those of its organization, or those of the token; None: every account, and
    records without one.
    """

    operation: Operation
    http: Request
    token: Token
    accounts: tuple[str, ...] | None
    query: Parameters
    reads: LogReads

    def path_account(self) -> str:
        """Return the account of a route that is for one. Raises ApiError (404) if its path has `-`, whatever the token."""
        account: str = self.http.path_params["account_id"]
        if account == ALL_ACCOUNTS:
            raise not_found()
        return account
