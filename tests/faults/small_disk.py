"""A disk of its own that can be full: a tmpfs, where mounting is allowed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SIZE_BYTES = 2 * 1024**3
_TRIES_MAX = 100


class SmallDisk:
    """A tmpfs at `path`, an existing empty folder. Filled by shrinking it to what it holds: no byte more fits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mounted = False

    def mount(self) -> bool:
        """Return whether this user may mount here; where not, the folder stays an ordinary one."""
        self.mounted = os.geteuid() == 0 and _mount(
            "-t", "tmpfs", "-o", f"size={_SIZE_BYTES}", "tmpfs", self.path
        )
        return self.mounted

    def fill(self) -> None:
        # What is written between looking and shrinking makes it too small to be allowed.
        assert any(_mount("-o", f"remount,size={self._used_bytes()}", self.path) for _ in range(_TRIES_MAX))

    def empty(self) -> None:
        assert _mount("-o", f"remount,size={_SIZE_BYTES}", self.path)

    def _used_bytes(self) -> int:
        room = os.statvfs(self.path)
        # At least a page: a size of 0 is no limit.
        return max(room.f_blocks - room.f_bfree, 1) * room.f_frsize

    def unmount(self) -> None:
        """Take the disk away with all that is on it, even while somebody still looks at it."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True)
            self.mounted = False


def _mount(*arguments: object) -> bool:
    command = ["mount", *map(str, arguments)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
