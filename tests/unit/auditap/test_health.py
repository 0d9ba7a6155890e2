from __future__ import annotations

import asyncio
from collections.abc import Mapping
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


async def readiness() -> Mapping[str, bool]:
    return {"log": True}


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
    app = with_health_routes(Starlette(), Health(Metrics(), readiness, token=TOKEN))
    headers = [(name.encode(), value.encode("latin-1")) for name, value in presented.items()]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
        for route in ROUTES:
            answer = await client.get(route, headers=headers)
            assert answer.status_code == status
            assert TOKEN not in answer.text
            assert ("www-authenticate" in answer.headers) == (status == 401)


async def test_without_a_token_they_ask_for_none() -> None:
    app = with_health_routes(Starlette(), Health(Metrics(), readiness))
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
    app = with_health_routes(Starlette(), Health(metrics, readiness))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
        answers = await asyncio.gather(*(client.get("/metrics") for _ in range(20)))
        assert len({answer.content for answer in answers}) == 1
        assert len(written) <= 2
        # Never older than the request.
        metrics.captures_accepted.inc(7)
        assert "auditap_captures_accepted_total 7.0" in (await client.get("/metrics")).text


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
