from __future__ import annotations

import pytest

from auditap import child_process


@pytest.fixture
def unused_port() -> int:
    """A port of loopback on which nobody listens."""
    return child_process.free_port()
