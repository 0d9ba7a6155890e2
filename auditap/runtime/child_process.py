"""Run a server (Postgres, and Kafka in tests) as a child process that ends with its parent.

The child first runs this file as a program, which changes user and capabilities and then executes the server: the
process id stays the same, and nothing runs between fork and exec in the (threaded) parent. So this file imports the
standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 4
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522

# Below the range from which kernels take the ports of outgoing connections: a client that reconnects to a
# stopped server would otherwise sooner or later be given the server's own port, and keep it.
_PORTS = range(20_000, 32_768)


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a child runs as. `capability`: a Linux capability it keeps, to pass folders closed to that user."""

    uid: int
    gid: int
    capability: int | None = None


def start(
    argv: Sequence[str],
    *,
    ends_by: signal.Signals,
    account: Account | None = None,
    output: IO[bytes] | int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, out of reach of the terminal's Ctrl-C.

    On Linux the child gets the signal `ends_by` when the calling thread ends, however it ends: call this from
    the main thread. Raises OSError when the program cannot be started at all.
    """
    capability = -1 if account is None or account.capability is None else account.capability
    become = [
        str(os.getpid()),
        str(int(ends_by)),
        str(-1 if account is None else account.uid),
        str(-1 if account is None else account.gid),
        str(capability),
    ]
    return subprocess.Popen(  # noqa: S603  # the callers' commands are fixed, no shell
        [sys.executable, "-I", "-S", __file__, *become, *argv],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that is free now. Raises OSError when a thousand tries find none."""
    for _ in range(1000):
        port = random.choice(_PORTS)  # noqa: S311  # not a secret
        if is_free(port):
            return port
    raise OSError("no free TCP port on 127.0.0.1")


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def capabilities() -> set[int]:
    """Return the numbers of the Linux capabilities that this process can pass to a child; empty on other systems."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123
            masks = dict(line.split(":\t", 1) for line in status if line.startswith(("CapPrm", "CapBnd")))
    except FileNotFoundError:
        return set()
    held = int(masks["CapPrm"], 16) & int(masks["CapBnd"], 16)
    return {number for number in range(held.bit_length()) if held >> number & 1}


def _prctl(*arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[1:5]]
    if libc.prctl(ctypes.c_int(arguments[0]), *padded) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _hold(capability: int) -> None:
    """Keep one capability through exec, and no other."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    bit = 1 << capability
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; low, then high
    if libc.capset(ctypes.byref(header), ctypes.byref(sets)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _become(uid: int, gid: int, capability: int) -> None:
    if capability >= 0:
        # Keeps capabilities over the change of user. Without it the kernel would in addition answer access(2),
        # by which Postgres looks for its own programs, as if there were none.
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if capability >= 0:
        _hold(capability)


def _main(arguments: list[str]) -> None:
    parent, ends_by, uid, gid, capability = (int(value) for value in arguments[:5])
    argv = arguments[5:]
    if uid >= 0:
        _become(uid, gid, capability)
    if sys.platform == "linux":
        # After the change of user, which resets it.
        _prctl(_PR_SET_PDEATHSIG, ends_by)
    if os.getppid() != parent:
        sys.exit("the parent process has ended")
    os.execv(argv[0], argv)  # noqa: S606  # replacing this process is the purpose


if __name__ == "__main__":
    _main(sys.argv[1:])
