from __future__ import annotations

from typing import Any

import pytest

from enricher.config import CacheConfig, EnricherConfig, HttpLookupConfig
from enricher.ports import Kind
from schemas.errors import StartupError

URL = "http://names.internal/accounts/{key}"


def _look_up(**settings: Any) -> HttpLookupConfig:
    given = {"kind": Kind.ACCOUNT, "url": URL, "pointers": {"name": "/result/name"}} | settings
    return HttpLookupConfig(**given)


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://names.internal:8443/v1?id={key}&x=1",
        "http://[::1]:80/{key}",
        "http://127.0.0.1/a-{key}.json",
    ],
)
def test_url_templates_that_are_accepted(url: str) -> None:
    assert _look_up(url=url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://names.internal/accounts",
        "http://names.internal/{key}/{key}",
        "ftp://names.internal/{key}",
        "file:///{key}",
        "names.internal/{key}",
        "http:///{key}",
        "http://{key}/accounts",
        "http://names.internal:{key}/",
        "http://{key}@names.internal/",
        "http://user:pass-word@names.internal/{key}",
        "http://names.internal/#{key}",
        "http://names.internal/{key}#f",
        "http://names.internal:0/{key}",
        "http://names.internal:99999/{key}",
        "http://names internal/{key}",
        "http://names.internal/{key}\r\nx: y",
        "http://[::1/{key}",
        "{key}",
        "http://nämes.internal/{key}",
    ],
)
def test_url_templates_that_are_rejected(url: str) -> None:
    with pytest.raises(StartupError) as caught:
        _look_up(url=url)
    sentence = str(caught.value)
    assert sentence.startswith("url of the account lookup ")
    assert sentence.endswith(".")
    assert "internal" not in sentence


@pytest.mark.parametrize(
    "pointers",
    [{}, {"email": "/email"}, {"name": "result/name"}, {"name": "/a~2"}, {"name": "/n", "x": "/x"}],
)
def test_pointers_that_are_rejected(pointers: dict[str, str]) -> None:
    with pytest.raises(StartupError, match="of the account lookup"):
        _look_up(pointers=pointers)


@pytest.mark.parametrize(
    "headers",
    [{"bad name": "s3cret"}, {"x": "s3cret\r\ny: z"}, {"x": "s3cret\n"}, {"x": "s3crét"}, {"": "s3cret"}],
)
def test_headers_that_are_rejected(headers: dict[str, str]) -> None:
    with pytest.raises(StartupError, match="headers of the account lookup") as caught:
        _look_up(headers=headers)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["(", r"(a)\1", "(?=a)"])
def test_a_key_syntax_that_re2_does_not_accept_is_rejected(
    pattern: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StartupError, match="key_syntax of the account lookup"):
        _look_up(key_syntax=pattern)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["timeout_ms", "concurrency_max"])
def test_limits_of_a_lookup_are_positive(name: str) -> None:
    with pytest.raises(StartupError, match=f"{name} of the account lookup must be at least 1"):
        _look_up(**{name: 0})


@pytest.mark.parametrize(
    "name",
    ["ttl_ms", "negative_ttl_ms", "entries_max"],
)
def test_limits_of_the_cache_are_positive(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(StartupError, match=name):
        CacheConfig(**settings)


def test_a_kind_is_configured_once() -> None:
    assert EnricherConfig((_look_up(),)).http_lookups[0].kind is Kind.ACCOUNT
    with pytest.raises(StartupError, match="account lookup is configured twice"):
        EnricherConfig((_look_up(), _look_up()))
    with pytest.raises(StartupError, match="batch_budget_ms"):
        EnricherConfig(batch_budget_ms=0)


def test_secrets_have_no_repr() -> None:
    config = EnricherConfig(
        (_look_up(url=URL + "?token=s3cret", headers={"authorization": "Bearer s3cret"}),)
    )
    assert "s3cret" not in repr(config)
