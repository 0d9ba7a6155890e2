"""`auditap migrate`."""

from __future__ import annotations

import asyncio

import click

from auditap.cli.startup import configured_settings
from auditap.database.connection import administrator
from auditap.database.roles import roles_that_log_in, set_role_password
from auditap.database.schema import migrate, set_log_layout
from auditap.plain_text import counted
from auditap.settings import admin_dsn


@click.command("migrate")
def migrate_command() -> None:
    """Bring the database's schema up to date and let its roles log in."""
    settings = configured_settings()
    passwords = {
        "auditap_writer": settings.postgres.writer_password,
        "auditap_reader": settings.postgres.reader_password,
        "auditap_maintainer": settings.postgres.maintainer_password,
        "auditap_alerting": settings.postgres.alerting_password,
        "auditap_operator": settings.postgres.operator_password,
    }
    interval, days = settings.postgres.partition_interval, settings.ingest.bounds.retention_days

    async def run() -> None:
        async with administrator(admin_dsn(settings)) as connection:
            applied = await migrate(connection)
            await set_log_layout(connection, interval, days)
            had_login = await roles_that_log_in(connection)
            for role, password in passwords.items():
                if password is not None:
                    await set_role_password(connection, role, password.get_secret_value())
        click.echo(f"applied: {', '.join(applied)}" if applied else "up to date")
        click.echo(f"records are partitioned by {interval} and kept for {counted(days, 'day')}")
        for role, password in passwords.items():
            if password is not None:
                state = "may log in"
            elif role in had_login:
                state = "may log in; its password is unchanged"
            else:
                setting = f"postgres.{role.removeprefix('auditap_')}_password"
                state = f"got no password: set {setting}, or give it one in Postgres"
            click.echo(f"{role} {state}")

    asyncio.run(run())
