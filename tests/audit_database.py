"""A migrated database and the addresses of its roles."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from auditap.database import ROLES, administrator, let_role_log_in, migrate

# One password per role, because roles are shared by all databases of a server and tests may overlap.
_PASSWORD = "for-tests-only"


@dataclass(frozen=True)
class AuditDatabase:
    """Addresses of one migrated database: as superuser, as the ingestor, the log API, who drops what is old,
    the watcher, who decides on dead letters."""

    admin_dsn: str
    writer_dsn: str
    reader_dsn: str
    maintainer_dsn: str = ""
    watcher_dsn: str = ""
    operator_dsn: str = ""


async def migrated(admin_dsn: str) -> AuditDatabase:
    """Migrate an empty database and let all roles log in."""
    async with administrator(admin_dsn) as connection:
        await migrate(connection)
        for role in ROLES:
            await let_role_log_in(connection, role, _PASSWORD)
    return AuditDatabase(admin_dsn, *(_as(admin_dsn, role) for role in ROLES))


def _as(dsn: str, role: str) -> str:
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"{role}:{_PASSWORD}@{parts.netloc.rpartition('@')[2]}").geturl()
