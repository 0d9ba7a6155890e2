"""What strict clients demand of a page: the shapes of the Go SDK v7.9 and of the MCP server for audit logs, written anew.

Both reject a whole page for one record that does not fit. The types here are as narrow as the narrower of their versions.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    # As a JSON decoder of Go or zod: no text becomes a number, and no absent value is null.
    model_config = ConfigDict(strict=True)


class _Account(_Part):
    id: str
    name: str


class _Action(_Part):
    result: Literal["success", "failure", ""]
    time: datetime = Field(strict=False)
    type: Literal["create", "delete", "view", "update", "login"]
    description: str = ""


class _Actor(_Part):
    id: str = ""
    context: Literal["api_key", "api_token", "dash", "oauth", "origin_ca_key"] = "dash"
    # What zod's `email()` accepts: letters of ASCII, dots between others, a domain of two labels.
    email: str = Field(
        "",
        pattern=r"^([A-Za-z0-9_'+-]+\.)*[A-Za-z0-9_'+-]*[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9-]*\.)+[A-Za-z]{2,}$",
    )
    ip_address: str = ""
    token_id: str = ""
    token_name: str = ""
    type: Literal["account", "cloudflare_admin", "system", "user"] = "user"


class _Raw(_Part):
    cf_ray_id: str = ""
    method: str = ""
    status_code: int = 0
    uri: str = ""
    user_agent: str = ""


class _Resource(_Part):
    id: str = ""
    product: str = ""
    request: dict[str, Any] = {}
    response: dict[str, Any] = {}
    scope: str = ""
    type: str = ""


class _Zone(_Part):
    id: str = ""
    name: str = ""


class StrictRecord(_Part):
    id: str = Field(max_length=36)
    account: _Account
    action: _Action
    actor: _Actor
    raw: _Raw
    resource: _Resource
    zone: _Zone


class _Info(_Part):
    count: int
    cursor: str = ""


class StrictPage(_Part):
    """A page of audit logs v2."""

    success: Literal[True]
    errors: list[Any] = Field(max_length=0)
    result: list[StrictRecord]
    result_info: _Info
