from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from auditap.runtime import child_process

_PARENT = """
import signal, sys
from auditap.runtime import child_process

child = child_process.start(["/bin/sleep", "600"], ends_by=signal.SIGKILL)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_ports_are_free_and_not_among_those_of_outgoing_connections() -> None:
    port = child_process.free_port()
    assert 20_000 <= port < 32_768
    assert child_process.is_free(port)

    with socket.create_server(("127.0.0.1", port)):
        assert not child_process.is_free(port)


def test_a_child_has_the_pid_it_was_started_with_and_a_session_of_its_own() -> None:
    child = child_process.start(["/bin/sh", "-c", "echo $$"], ends_by=signal.SIGKILL, output=subprocess.PIPE)
    output, _ = child.communicate(timeout=300)
    assert int(output) == child.pid

    child = child_process.start(["/bin/sleep", "600"], ends_by=signal.SIGKILL)
    try:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals children when their parent ends")
def test_a_child_ends_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    handle = os.pidfd_open(pid)
    try:
        parent.kill()
        parent.communicate()
        # Readable once the process has ended, whether or not anybody has waited for it yet.
        assert select.select([handle], [], [], 60)[0]
    finally:
        os.close(handle)
