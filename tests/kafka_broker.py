"""A real Apache Kafka for tests: its own server jars, one KRaft node on loopback.

    async with KafkaBroker(tmp_path) as broker:
        ...  # broker.bootstrap is "127.0.0.1:PORT"

`python -m tests.kafka_broker` fetches the jars ahead of a test run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from auditap.runtime import child_process
from tests.ports import free_port

_ROOT = Path(__file__).resolve().parent.parent
_DEPLOY = _ROOT / "deploy" / "kafka"
_CACHE = _ROOT / ".cache" / "kafka"
_CLUSTER_ID = "YXVkaXRhcC10ZXN0cy1rcg"
_INSTALL = "install Java 17 and Maven (Debian: apt-get install openjdk-17-jre-headless maven)"

_FETCH_SECONDS_MAX = 600
_START_SECONDS_MAX = 180
_STOP_SECONDS_MAX = 60


class KafkaUnavailableError(Exception):
    """No broker can be started on this machine; the message says why and what to install."""


class KafkaBroker:
    """One broker process; data and ports stay the same from start to start.

    `base_dir` is an existing folder on a real disk. `session_timeout_ms`: how long the broker may stand still and keep its
    partitions; one that was killed starts again only after as long. `stop` ends the broker in good order, `kill` as a power
    cut would. Raises KafkaUnavailableError when it cannot be started.
    """

    def __init__(self, base_dir: Path, session_timeout_ms: int = 3_000) -> None:
        self._base_dir = base_dir
        self._session_timeout_ms = session_timeout_ms
        self._port = free_port()
        self._controller_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def log_file(self) -> Path:
        return self._base_dir / "kafka.log"

    @property
    def pid(self) -> int | None:
        """The broker's process id, None while it is down."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Return once the broker answers clients; no-op while it runs."""
        if self._process is not None:
            return
        properties = self._base_dir / "server.properties"
        if not properties.exists():
            await self._format(properties)
        self._process = self._java("kafka.Kafka", str(properties))
        try:
            await self._wait_until_it_answers()
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """End in good order; by force when that takes too long."""
        await self._end(signal.SIGTERM, _STOP_SECONDS_MAX)

    async def kill(self) -> None:
        """End at once, as a crash would."""
        await self._end(signal.SIGKILL, _STOP_SECONDS_MAX)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _format(self, properties: Path) -> None:
        draft = self._write_properties(properties.with_suffix(".draft"))
        tool = self._java("kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(draft))
        if await _exit_code(tool, _START_SECONDS_MAX) != 0:
            raise KafkaUnavailableError(f"Kafka could not format its storage:\n{self._log_tail()}")
        draft.rename(properties)

    def _write_properties(self, path: Path) -> Path:
        template = string.Template((_DEPLOY / "server.properties").read_text())
        data_dir = str(self._base_dir / "data").replace("\\", "\\\\")  # a backslash escapes in this format
        path.write_text(
            template.substitute(
                port=self._port,
                controller_port=self._controller_port,
                data_dir=data_dir,
                session_timeout_ms=self._session_timeout_ms,
            )
        )
        return path

    async def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + _START_SECONDS_MAX
        while not await self._answers():
            if self._process is None or self._process.poll() is not None:
                raise KafkaUnavailableError(f"Kafka ended while starting:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise KafkaUnavailableError(f"Kafka did not start in time:\n{self._log_tail()}")
            await asyncio.sleep(0.05)

    async def _answers(self) -> bool:
        # A plain connection first: the client library logs an error for every attempt it cannot make.
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=20_000)
        try:
            await admin.start()
            cluster = await admin.describe_cluster()
        except (KafkaError, OSError):
            return False
        finally:
            await admin.close()
        return bool(cluster["brokers"])

    async def _end(self, how: signal.Signals, seconds_max: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        await _exit_code(process, seconds_max)

    def _java(self, main_class: str, *arguments: str) -> subprocess.Popen[bytes]:
        libs = fetch_jars()
        argv = [
            _java_program(),
            "-Xmx512m",
            "-Xms128m",
            "-XX:+UseSerialGC",
            f"-Dlog4j2.configurationFile={_DEPLOY / 'log4j2.properties'}",
            "-cp",
            f"{libs}/*",
            main_class,
            *arguments,
        ]
        with self.log_file.open("ab") as log:
            return child_process.start(argv, ends_by=signal.SIGKILL, output=log, cwd=self._base_dir)

    def _log_tail(self) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-15:])


@functools.cache
def fetch_jars() -> Path:
    """The folder of Kafka's jars, filled through Maven if need be (`deploy/kafka/pom.xml` names the version).

    Raises KafkaUnavailableError without Java, without Maven, or when the jars cannot be had.
    """
    _java_program()
    pom = _DEPLOY / "pom.xml"
    libs = _CACHE / "libs"
    stamp = libs / f"{hashlib.sha256(pom.read_bytes()).hexdigest()[:16]}.complete"
    if stamp.exists():
        return libs
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailableError(f"no Maven to fetch Kafka's jars with; {_INSTALL}")
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as fresh:
        _copy_dependencies(maven, pom, Path(fresh))
        (Path(fresh) / stamp.name).touch()
        shutil.rmtree(libs, ignore_errors=True)
        shutil.copytree(fresh, libs)
    return libs


def _copy_dependencies(maven: str, pom: Path, target: Path) -> None:
    argv = [
        maven,
        "-B",
        "-q",
        "-Dstyle.color=never",
        "-f",
        str(pom),
        f"-Dkafka.libs={target}",
        "dependency:copy-dependencies",
    ]
    try:
        subprocess.run(  # the command is ours
            argv, check=True, timeout=_FETCH_SECONDS_MAX, capture_output=True, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise KafkaUnavailableError(
            f"Maven did not fetch Kafka's jars within {_FETCH_SECONDS_MAX} s"
        ) from None
    except subprocess.CalledProcessError as error:
        lines = error.stdout.decode(errors="replace").strip().splitlines() or ["no output"]
        raise KafkaUnavailableError(f"Maven could not fetch Kafka's jars: {lines[0]}") from None


def _java_program() -> str:
    java = shutil.which("java")
    home = os.environ.get("JAVA_HOME")
    if java is None and home is not None:
        java = shutil.which("java", path=Path(home) / "bin")
    if java is None:
        raise KafkaUnavailableError(f"no Java to run Kafka; {_INSTALL}")
    return java


async def _exit_code(process: subprocess.Popen[bytes], seconds_max: float) -> int:
    """Wait without blocking the loop; a process that outlives the limit is killed."""
    deadline = time.monotonic() + seconds_max
    while (code := process.poll()) is None:
        if time.monotonic() > deadline:
            process.kill()
        await asyncio.sleep(0.01)
    return code


if __name__ == "__main__":
    try:
        sys.stdout.write(f"Kafka's jars are in {fetch_jars()}\n")
    except KafkaUnavailableError as unavailable:
        sys.stdout.write(f"Kafka's jars cannot be had: {unavailable}\n")
