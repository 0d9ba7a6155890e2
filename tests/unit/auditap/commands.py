"""Commands, as an administrator types them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path


async def run(folder: Path, dsn: str, *arguments: str) -> tuple[int, str, str]:
    """Run `auditap` in `folder` on a narrow terminal; return its exit code and what it wrote to stdout and stderr."""
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": "80", "AUDITAP_POSTGRES__ADMIN_DSN": dsn}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "auditap", *arguments),
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 300)
    return process.returncode or 0, out.decode(), err.decode()
