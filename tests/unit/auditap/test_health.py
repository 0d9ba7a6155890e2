from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette

from auditap.runtime import health
from auditap.runtime.health import Health, with_health_routes
from auditap.settings import Settings, health_token
from schemas.errors import StartupError
from schemas.metric_defs import Metrics

TOKEN = "a-token-of-health-routes"
ROUTES = ("/healthz", "/readyz", "/metrics")


async def passes() -> bool:
    return True


READINESS = {"log": passes}


@pytest.mark.parametrize(
    ("presented", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"bearer  {TOKEN} "}, 200),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"authorization": "Bearer \xe9\xff"}, 401),
        ({"authorization": TOKEN}, 401),
    ],
)
async def test_with_a_token_every_health_route_asks_for_it(presented: dict[str, str], status: int) -> None:
    app = with_health_routes(Starlette(), Health(Metrics(), READINESS, token=TOKEN))
    headers = [(name.encode(), value.encode("latin-1")) for name, value in presented.items()]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
        for route in ROUTES:
            answer = await client.get(route, headers=headers)
            assert answer.status_code == status
            assert TOKEN not in answer.text
            assert ("www-authenticate" in answer.headers) == (status == 401)


async def test_without_a_token_they_ask_for_none() -> None:
    app = with_health_routes(Starlette(), Health(Metrics(), READINESS))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
        assert [(await client.get(route)).status_code for route in ROUTES] == [200] * 3


async def test_metrics_are_written_once_for_all_who_ask_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics, written = Metrics(), []

    def noted(registry: CollectorRegistry) -> bytes:
        written.append(registry)
        return generate_latest(registry)

    monkeypatch.setattr(health, "generate_latest", noted)
    app = with_health_routes(Starlette(), Health(metrics, READINESS))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
        answers = await asyncio.gather(*(client.get("/metrics") for _ in range(20)))
        assert len({answer.content for answer in answers}) == 1
        assert len(written) <= 2
        # Never older than the request.
        metrics.captures_accepted.inc(7)
        assert "auditap_captures_accepted_total 7.0" in (await client.get("/metrics")).text


async def test_what_does_not_answer_is_not_ready_and_is_asked_once_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: a frozen database kept every prober waiting for up to 14 s, and each took a connection."""
    monkeypatch.setattr(health, "_CHECK_MS_MAX", 50)
    thawed, asked = asyncio.Event(), []

    async def store_ready() -> bool:
        asked.append(1)
        return await thawed.wait()

    app = with_health_routes(Starlette(), Health(Metrics(), READINESS | {"store": store_ready}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
        for _ in range(2):
            answers = await asyncio.gather(*(client.get("/readyz") for _ in range(20)))
            assert {answer.status_code for answer in answers} == {503}
            assert answers[0].json() == {"ready": False, "parts": {"log": True, "store": False}}
        assert len(asked) == 1
        thawed.set()
        assert (await client.get("/readyz")).status_code == 200


def test_the_token_is_read_from_its_file(tmp_path: Path) -> None:
    assert health_token(Settings()) is None
    file = tmp_path / "health.token"
    with pytest.raises(
        StartupError, match=r"health_token_file names .*/health\.token, which does not exist: write"
    ):
        health_token(Settings(health_token_file=file))
    file.write_text("")
    with pytest.raises(StartupError, match=r"health\.token is empty: write the token of the health routes"):
        health_token(Settings(health_token_file=file))
    file.write_text(f"{TOKEN}\n")
    assert health_token(Settings(health_token_file=file)) == TOKEN
    file.write_text(f"{TOKEN}\n{TOKEN}\n")
    with pytest.raises(StartupError, match=r"health\.token holds more than one line or word"):
        health_token(Settings(health_token_file=file))
    file.write_text("m\xfcnchen-" * 4)
    with pytest.raises(StartupError, match=r"health\.token holds a character that is not printable ASCII"):
        health_token(Settings(health_token_file=file))
