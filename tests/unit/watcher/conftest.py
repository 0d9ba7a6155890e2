"""A database for the watcher's tests."""

from __future__ import annotations

import pytest

from tests.audit_database import AuditDatabase, migrated


@pytest.fixture
async def audit_database(database: str) -> AuditDatabase:
    return await migrated(database)
