from __future__ import annotations

import pytest

from schemas.urls import dsn_rule, is_host_and_port


@pytest.mark.parametrize(
    "rest",
    [
        "db.internal/audit",
        "db.internal.:5432/audit",
        "db-1:1,db-2:2,[2001:db8::1]:3/audit?sslmode=verify-full",
        "[::1]/audit",
        "/audit?host=/run/postgresql",
        "%2Frun%2Fpostgresql/audit",
        "m\xfcnchen.example:/audit",
    ],
)
def test_a_dsn_that_names_servers_is_fine(rest: str) -> None:
    assert dsn_rule(f"postgresql://me:secret@{rest}") is None


@pytest.mark.parametrize(
    "rest", ["db:nope", "db:65536", "db:0", "a..b", f"{'x' * 64}.internal", "::1", "a b", "db:1,:x"]
)
def test_a_dsn_that_can_name_no_server_is_not(rest: str) -> None:
    rule = dsn_rule(f"postgresql://me:secret@{rest}/audit")
    assert rule is not None
    assert "host:port" in rule
    assert not all(map(is_host_and_port, rest.split(",")))


@pytest.mark.parametrize("host", ["[::1", "[::g]", "[x]:1", "h\u2100", "db,[x]", "]["])
def test_a_dsn_whose_host_no_url_can_have_is_not_a_traceback(host: str) -> None:
    """`[::1` ended the process with `Invalid IPv6 URL`."""
    rule = dsn_rule(f"postgresql://me:secret@{host}/audit")
    assert rule is not None
    assert "host:port" in rule


def test_an_unknown_sslmode_is_called_so() -> None:
    rule = dsn_rule("postgresql://me:secret@db/audit?sslmode=on")
    assert rule == "sslmode is one of allow, disable, prefer, require, verify-ca, verify-full"


@pytest.mark.parametrize("query", ["port=abc", "port=0", "port=1,x"])
def test_a_port_among_the_parameters_is_a_port(query: str) -> None:
    assert dsn_rule(f"postgresql:///audit?host=/run&{query}") == "port is a number from 1 to 65535"
    assert dsn_rule("postgresql:///audit?host=/run,/run2&port=1,2") is None


@pytest.mark.parametrize("name", ["connect_timeout", "keepalives_idle"])
def test_a_parameter_that_the_server_would_refuse_is_refused_at_start(name: str) -> None:
    """The client library sends it as a setting of the server; the process waited for ever."""
    assert dsn_rule(f"postgresql://db/audit?{name}=3") == f"leave out {name}, which auditap does not know"
