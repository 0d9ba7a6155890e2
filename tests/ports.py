"""Ports for the servers that tests start."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from auditap.runtime import child_process

# Neither ports of outgoing connections, one of which may begin before the server does, nor those that auditap chooses.
_PORTS = range(10_000, 20_000)
_LAST_PORT = Path(tempfile.gettempdir()) / f"auditap-test-port-{os.getuid()}"


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that is free, and that no other test process of this user is given."""
    with _LAST_PORT.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        last = int(file.read() or _PORTS.start)
        following = (_PORTS[(last + step) % len(_PORTS)] for step in range(1, len(_PORTS)))
        port = next(port for port in following if child_process.is_free(port))
        file.truncate(0)
        file.write(str(port))
    return port
