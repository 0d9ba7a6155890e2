"""`auditap tokens`: creates, lists and revokes tokens of the log API."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table

from auditap.cli.administration import as_administrator
from auditap.database.tokens import create_token, list_tokens, revoke_token
from log_api.ports import Permission
from redactor.decode.identifiers import valid_owner_id
from schemas.errors import StartupError

_PERMISSIONS = [str(one) for one in Permission]


@click.group()
def tokens() -> None:
    """Create, list and revoke tokens of the log API."""


@tokens.command("create")
@click.argument("name")
@click.option(
    "--account", "accounts", multiple=True, help="An account that the token may read; repeat for several."
)
@click.option("--all-accounts", is_flag=True, help="Allow every account.")
@click.option(
    "--permission",
    "permissions",
    type=click.Choice(_PERMISSIONS),
    multiple=True,
    default=[str(Permission.AUDIT_LOGS)],
    show_default=True,
    help="A permission of the token; repeat for several.",
)
@click.option(
    "--email",
    help="The address of its user. The token then also works as X-Auth-Key and reads this user's log.",
)
@click.option(
    "--requests-per-s",
    type=click.FloatRange(0, min_open=True),
    help="Its rate limit, after a burst of api.requests_burst; by default api.requests_per_s.",
)
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True)
def tokens_create(
    *,
    name: str,
    accounts: tuple[str, ...],
    all_accounts: bool,
    permissions: tuple[str, ...],
    email: str | None,
    requests_per_s: float | None,
    days: int,
) -> None:
    """Create a token and print it once; only its hash is stored."""
    if bool(accounts) == all_accounts:
        raise click.UsageError("Give either --account or --all-accounts.")
    if any(valid_owner_id(each) != each for each in accounts):
        raise click.UsageError(
            "No record has this --account: give an id without blanks around it, or --all-accounts for every account."
        )
    expires_at = datetime.now(UTC) + timedelta(days=days)
    token_id, token = as_administrator(
        lambda connection: create_token(
            connection,
            name,
            None if all_accounts else accounts,
            permissions,
            expires_at,
            email=email,
            requests_per_s=requests_per_s,
        )
    )
    click.echo(f"token {token_id}, valid until {expires_at:%Y-%m-%d}; it is not shown again:", err=True)
    click.echo(token)


@tokens.command("list")
@click.option("--json", "as_json", is_flag=True)
def tokens_list(as_json: bool) -> None:
    """List the tokens, newest first."""
    rows = as_administrator(list_tokens)
    if as_json:
        for row in rows:
            click.echo(json.dumps(dict(row), default=str))
        return
    table = Table("id", "name", "access", "state")
    table.columns[0].no_wrap = True  # `tokens revoke` needs the whole id
    table.columns[2].overflow = "fold"
    now = datetime.now(UTC)
    for row in rows:
        rate = row["requests_per_s"]
        access = [
            "all accounts" if row["accounts"] is None else "\n".join(row["accounts"]),
            *row["permissions"],
            *([] if rate is None else [f"{rate:g} requests/s"]),
        ]
        state = "revoked" if row["revoked_at"] else "expired" if row["expires_at"] < now else "active"
        table.add_row(
            str(row["id"]),
            "\n".join(filter(None, (row["name"], row["email"]))),
            "\n".join(access),
            f"{state}\n{row['expires_at']:%Y-%m-%d}",
        )
    Console().print(table)


@tokens.command("revoke")
@click.argument("token_id", type=click.UUID)
def tokens_revoke(token_id: UUID) -> None:
    """Revoke a token. It is rejected within seconds."""
    if not as_administrator(lambda connection: revoke_token(connection, token_id)):
        raise StartupError("There is no valid token with this id: see `auditap tokens list`.")
    click.echo("revoked")
