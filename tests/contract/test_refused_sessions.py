"""What Postgres, or a pooler before it, refuses for good is reported at start, in one sentence that says what to do."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from auditap.database.connection import administrator
from ingestor.postgres_store import PostgresStore
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from schemas.errors import RetryableError, StartupError
from schemas.metric_defs import Metrics
from schemas.postgres_refusals import READER, cause_of, session_refusal
from tests.audit_database import AuditDatabase
from tests.contract.test_database_encoding import (
    as_administrator,
    as_alerting,
    as_ingestor,
    as_log_api,
    as_maintainer,
)
from tests.fakes.refusing_postgres import refusing

Start = Callable[[str], Awaitable[None]]
starts = pytest.mark.parametrize(
    "start", [as_administrator, as_alerting, as_ingestor, as_log_api, as_maintainer]
)
# The words of PgBouncer 1.18 and of Postgres 16.
POOLER = ("08P01", "unsupported startup parameter: plan_cache_mode")
TLS_ONLY = (
    "28000",
    'no pg_hba.conf entry for host "127.0.0.1", user "s3cret", database "audit", no encryption',
)


@starts
@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        (
            POOLER,
            r"^A pooler before Postgres refuses the parameter plan_cache_mode: connect to ",
        ),
        (TLS_ONLY, r"^Postgres refuses sessions without TLS: set sslmode=require"),
        (
            ("28P01", "password authentication failed for user s3cret"),
            r"^Postgres refuses the [\w ]+'s login: check user and password in postgres\.\w+_dsn\.$",
        ),
        (
            ("3D000", 'database "s3cret" does not exist'),
            r"^Postgres has no database of the name in postgres\.\w+_dsn: correct it, or create",
        ),
        (
            ("42P05", 'prepared statement "__asyncpg_stmt_1__" already exists'),
            r"^A pooler before Postgres mixes sessions: let it pool sessions \(PgBouncer: pool_mode = session",
        ),
    ],
)
async def test_a_refusal_is_reported(start: Start, refusal: tuple[str, str], sentence: str) -> None:
    async with refusing(*refusal) as dsn:
        # Retention is tried again: it runs beside ingest, which refused to start.
        expected = RetryableError if start is as_maintainer else StartupError
        with pytest.raises(expected, match=sentence) as caught:
            await start(dsn)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@starts
async def test_a_server_without_tls_where_the_dsn_requires_it_is_reported(
    postgres: str, start: Start
) -> None:
    dsn = f"{postgres.partition('?')[0]}?sslmode=require"
    expected = RetryableError if start is as_maintainer else StartupError
    with pytest.raises(expected, match="Postgres does not offer TLS, which the DSN requires"):
        await start(dsn)


@pytest.mark.parametrize(
    ("start", "login", "sentence"),
    [
        (
            as_log_api,
            "writer_dsn",
            "the reader's login in, but not read the log: postgres.reader_dsn has to name auditap_reader.",
        ),
        (as_log_api, "alerting_dsn", "postgres.reader_dsn has to name auditap_reader."),
        (as_ingestor, "reader_dsn", "not store records: postgres.writer_dsn has to name auditap_writer."),
        (as_ingestor, "maintainer_dsn", "postgres.writer_dsn has to name auditap_writer."),
        (as_alerting, "reader_dsn", "not store alerts: postgres.alerting_dsn has to name auditap_alerting."),
        (as_maintainer, "writer_dsn", "postgres.maintainer_dsn has to name auditap_maintainer."),
    ],
)
async def test_another_roles_login_is_reported(
    audit_database: AuditDatabase, start: Start, login: str, sentence: str
) -> None:
    expected = RetryableError if start is as_maintainer else StartupError
    with pytest.raises(expected) as caught:
        await start(getattr(audit_database, login))
    assert sentence in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("start", [as_ingestor, as_alerting, as_log_api])
async def test_an_administrators_login_may_do_every_roles_task(
    audit_database: AuditDatabase, start: Start
) -> None:
    await start(audit_database.admin_dsn)


@pytest.mark.parametrize(
    ("start", "role"), [(as_ingestor, "writer"), (as_alerting, "alerting"), (as_log_api, "reader")]
)
async def test_the_right_login_without_its_rights_delays_no_start(
    audit_database: AuditDatabase, start: Start, role: str
) -> None:
    """A migration gives them back, and what is retried then goes on."""
    async with administrator(audit_database.admin_dsn) as connection:
        await connection.execute(f"REVOKE ALL ON SCHEMA auditap FROM auditap_{role}")
    await start(getattr(audit_database, f"{role}_dsn"))


@pytest.mark.parametrize("start", [as_ingestor, as_alerting, as_log_api])
async def test_a_database_that_is_not_migrated_delays_no_start(database: str, start: Start) -> None:
    await start(database)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ("42501", "postgres.reader_dsn has to name auditap_reader"),
        ("42P05", "pool_mode = session"),
        ("26000", "pool_mode = session"),
        ("XX000", ""),
    ],
)
async def test_what_is_refused_after_the_start_ends_no_log_api(
    audit_database: AuditDatabase, state: str, sentence: str
) -> None:
    """A right that is taken away, and a pooler whose mixing shows with the second process."""
    async with administrator(audit_database.admin_dsn) as connection:
        await connection.execute(
            "CREATE OR REPLACE FUNCTION auditap.find_token(sha256 bytea) RETURNS TABLE (id uuid, name text, email text,"
            " accounts text[], permissions text[], expires_at timestamptz, requests_per_s real) LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION 's3cret' USING ERRCODE = '{state}'; END $$"
        )
    database = PostgresLogDatabase(audit_database.reader_dsn, LogApiConfig(cursor_key=b"k" * 32), Metrics())
    await database.start()
    try:
        with capture_logs() as lines:
            assert not await database.ready()
        [cause] = [line["cause"] for line in lines if line["event"] == "database_unavailable"]
        assert sentence in cause
        assert "s3cret" not in cause
        if sentence:
            with pytest.raises(RetryableError) as caught:
                await database.token(b"t" * 32)
            assert sentence in str(caught.value)
    finally:
        await database.stop()


async def test_an_ingestor_says_what_it_waits_for(audit_database: AuditDatabase) -> None:
    store = await PostgresStore.connect(
        audit_database.writer_dsn, connections_max=1, command_timeout_ms=60_000
    )
    assert await store.check_login()
    for statement, sentence in (
        (
            "REVOKE EXECUTE ON FUNCTION auditap.now_ms() FROM auditap_writer, PUBLIC",
            "has to name auditap_writer",
        ),
        ("DROP SCHEMA auditap CASCADE", "run `auditap migrate`"),
    ):
        async with administrator(audit_database.admin_dsn) as connection:
            await connection.execute(statement)
        with pytest.raises(RetryableError) as caught:
            await store.clock_ms()
        assert sentence in str(caught.value)
    assert not await store.check_login()
    await store.close()


async def test_a_host_that_does_not_resolve_is_called_so() -> None:
    error = socket.gaierror(-2, "Name or service not known")
    assert cause_of(error, READER) == "The name of the host in postgres.reader_dsn does not resolve."
    with pytest.raises(
        RetryableError, match=r"host, nowhere\.invalid, does not resolve: correct it in postgres\.admin_dsn"
    ):
        await as_administrator("postgresql://somebody:s3cret@nowhere.invalid/audit")


async def test_an_administrators_session_that_is_ended_is_called_so(audit_database: AuditDatabase) -> None:
    with pytest.raises(RetryableError, match=r"^Postgres at .* ended the session .*: try again\.$"):
        async with administrator(audit_database.admin_dsn) as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("53300", "sorry, too many clients already"),
        ("57P03", "the database system is starting up"),
        ("08P01", "another violation"),
    ],
)
async def test_what_may_pass_delays_no_start(state: str, message: str) -> None:
    async with refusing(state, message) as dsn:
        await as_ingestor(dsn)
        with pytest.raises(RetryableError):
            await as_administrator(dsn)


def test_a_certificate_that_cannot_be_verified_is_reported() -> None:
    sentence = session_refusal(ssl.SSLCertVerificationError("certificate of s3cret.internal has expired"))
    assert sentence is not None
    assert "sslrootcert" in sentence
    assert "s3cret" not in sentence


def test_other_errors_are_none() -> None:
    for error in (
        OSError(),
        TimeoutError(),
        ConnectionResetError("reset"),
        ssl.SSLEOFError("eof"),
        ValueError(),
    ):
        assert session_refusal(error) is None


@starts
@pytest.mark.parametrize("rest", ["127.0.0.1:nope/audit", "a..b/audit", "127.0.0.1:1/audit?sslmode=nope"])
async def test_a_dsn_that_names_no_server_is_reported(start: Start, rest: str) -> None:
    """A port that is none ended in a traceback."""
    expected: type[Exception] = StartupError
    sentence = r"DSN (in postgres\.\w+_dsn )?cannot be read: "
    if start is as_maintainer:
        expected, sentence = RetryableError, r"^Postgres: \w+Error$"
    with pytest.raises(expected, match=sentence) as caught:
        await start(f"postgresql://somebody:s3cret@{rest}")
    assert "s3cret" not in str(caught.value)


def test_a_socket_that_is_not_there_is_called_so() -> None:
    assert (
        cause_of(FileNotFoundError(), READER)
        == "A socket or a certificate that postgres.reader_dsn names does not exist."
    )
