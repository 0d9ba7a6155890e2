"""What Postgres, or a pooler before it, refuses for good is reported at start, in one sentence that says what to do."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import pytest

from schemas.errors import RetryableError, StartupError
from schemas.postgres_refusals import session_refusal
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
            r"^(Postgres: )?A pooler before Postgres refuses the parameter plan_cache_mode: connect to ",
        ),
        (TLS_ONLY, r"^(Postgres: )?Postgres refuses sessions without TLS: set sslmode=require"),
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
