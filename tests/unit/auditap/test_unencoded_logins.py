"""A password that is not percent-encoded in a URL: one sentence that says so, with nothing of the password, everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from alerting.channels import why_unusable
from alerting.rules import ChannelConfig
from auditap.cli.log_client import log_reader
from auditap.database.connection import administrator
from auditap.settings import Settings, load_settings
from auditap_tap import AuditTapMiddleware
from enricher.config import HttpLookupConfig, PostgresLookupConfig
from enricher.ports import Kind
from gateway_tap.replay import replay
from schemas.errors import RetryableError, StartupError
from schemas.urls import has_unencoded_login
from tests.unit.auditap_tap.apps import sends

# Each holds `77`, which no sentence may repeat, in the password and around the character.
PASSWORDS = ["77/77", "sw@77", "77#x77", "77?77", "x77/@77#", "77[77", "77]/77"]


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "rest", ["db.internal:5432/audit", "db.internal", "[::1]:5432/audit?sslmode=disable"]
)
def test_an_unencoded_password_is_seen(password: str, rest: str) -> None:
    assert has_unencoded_login(f"postgresql://auditap:{password}@{rest}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://auditap@db.internal/audit",
        "postgresql://auditap:p%40ss%2Fw%23%3F@db.internal:5432/audit?sslmode=require",
        "postgresql:///audit?host=/run/postgresql&user=me@realm",
        "postgresql://auditap:secret@[2001:db8::1]:5432/audit",
        "https://hooks.internal/@team/x?to=a@b",
        "https://hooks.internal:8443/services/T0/B0",
    ],
)
def test_an_encoded_or_absent_password_is_none(url: str) -> None:
    assert not has_unencoded_login(url)


def setting(name: str) -> Callable[[str], None]:
    def load(url: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, url)
            load_settings()

    return load


def lookup(url: str) -> None:
    HttpLookupConfig(kind=Kind.ACCOUNT, url=f"{url}/{{key}}", pointers={"name": "/n"})


def query(url: str) -> None:
    PostgresLookupConfig(kind=Kind.ACCOUNT, dsn=url, query="SELECT $1", columns={"name": "n"})


def webhook(url: str) -> None:
    raise StartupError(why_unusable(ChannelConfig("hook", "slack", url=url)) or "")


def tap(url: str) -> None:
    AuditTapMiddleware(sends(), collector=url, tap_id="t")


def kafka(url: str) -> None:
    setting("AUDITAP_KAFKA__BOOTSTRAP_SERVERS")(url.partition("://")[2])


def log_api(url: str) -> None:
    log_reader(Settings(), "a", url, None)


PLACES = {
    **{
        role: ("postgresql", setting(f"AUDITAP_POSTGRES__{role}_DSN"))
        for role in ("WRITER", "READER", "ADMIN", "MAINTAINER", "ALERTING", "OPERATOR")
    },
    "lookup query": ("postgresql", query),
    "lookup": ("https", lookup),
    "webhook": ("https", webhook),
    "tap": ("https", tap),
    "kafka": ("https", kafka),
    "log API": ("https", log_api),
}


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("place", PLACES)
def test_one_sentence_says_so_and_nothing_of_the_password(place: str, password: str) -> None:
    scheme, take = PLACES[place]
    with pytest.raises((StartupError, ValueError)) as caught:
        take(f"{scheme}://auditap:{password}@host.internal:6432")
    sentence = str(caught.value)
    assert "77" not in sentence
    assert "auditap:" not in sentence
    assert sentence.count("\n") == 0
    if scheme == "postgresql" or place == "webhook":
        assert "percent-encode" in sentence


@pytest.mark.parametrize("password", PASSWORDS)
async def test_a_replay_names_nothing_of_it(tmp_path: Path, password: str) -> None:
    with pytest.raises(StartupError, match="the collector must be") as caught:
        await replay(tmp_path / "file", f"https://auditap:{password}@host.internal:6432")
    assert "77" not in str(caught.value)


@pytest.mark.parametrize("password", PASSWORDS)
async def test_an_administrator_gets_the_error_before_anything_is_connected(password: str) -> None:
    with pytest.raises(StartupError, match="percent-encode") as caught:
        async with administrator(f"postgresql://postgres:{password}@127.0.0.1:1/db"):
            pass
    assert "77" not in str(caught.value)


@pytest.mark.parametrize("dsn", ["no-dsn-but-77", "host=db password=77", "mysql://auditap:77@db/x"])
async def test_what_is_no_dsn_is_refused_before_anything_is_tried(dsn: str) -> None:
    for take in (setting("AUDITAP_POSTGRES__WRITER_DSN"), query):
        with pytest.raises(StartupError, match="begin it with postgresql://") as caught:
            take(dsn)
        assert "77" not in str(caught.value)
    with pytest.raises(StartupError, match="begin it with postgresql://"):
        async with administrator(dsn):
            pass


async def test_channel_binding_is_refused_before_anything_is_tried() -> None:
    dsn = "postgresql://auditap:77@db.internal/audit?sslmode=require&channel_binding=require"
    for take in (setting("AUDITAP_POSTGRES__WRITER_DSN"), query):
        with pytest.raises(StartupError, match="leave out channel_binding") as caught:
            take(dsn)
        assert "77" not in str(caught.value)


async def test_an_encoded_password_is_used_and_its_host_is_named() -> None:
    with pytest.raises(RetryableError, match=r"at 127\.0\.0\.1:1:"):
        async with administrator("postgresql://postgres:p%2Fw@127.0.0.1:1/db", connect_timeout_s=2):
            pass
