"""The example that `auditap up` shows where no documents are configured: an API behind the tap, traffic, a directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from auditap.example_api.app import example_app
from auditap.example_api.directory import directory_app
from auditap.example_api.document import document_file
from auditap.example_api.traffic import trickle
from auditap.http_server import HttpServer, bind_tcp_socket
from auditap.settings import Settings
from enricher.config import EnricherConfig, LookUpConfig
from enricher.ports import Kind
from gateway_tap.middleware import AuditTapMiddleware
from redactor.config import DocumentConfig, RedactionConfig


def with_example(settings: Settings) -> Settings:
    """Return settings for the example's document and for looking its ids up."""
    at = f"http://127.0.0.1:{settings.up.directory_port}"
    look_ups = (
        LookUpConfig(Kind.ACCOUNT, f"{at}/accounts/{{key}}", {"name": "/result/name"}),
        LookUpConfig(
            Kind.ZONE, f"{at}/zones/{{key}}", {"name": "/result/name", "account_id": "/result/account_id"}
        ),
        LookUpConfig(Kind.USER, f"{at}/users/{{key}}", {"email": "/result/email"}),
        LookUpConfig(Kind.TOKEN, f"{at}/tokens/{{key}}", {"name": "/result/name"}),
    )
    documents = (DocumentConfig(Path(str(document_file())), envelope="result"),)
    return settings.model_copy(
        update={
            "redaction": RedactionConfig(documents=documents),
            "enrich": EnricherConfig(look_ups=look_ups),
        }
    )


class Example:
    """The example's two servers and the traffic. Raises StartupError where an address is taken."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tapped = AuditTapMiddleware(
            example_app(),
            collector=f"unix:{settings.collector_socket.absolute()}",
            tap_id="example-api",
            state_dir=settings.data_dir.absolute() / "taps",
        )
        self._api = HttpServer(self._tapped, [bind_tcp_socket("127.0.0.1", settings.up.example_port)])
        self._directory = HttpServer(
            directory_app(), [bind_tcp_socket("127.0.0.1", settings.up.directory_port)]
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve and send traffic until `stop` is set; what the tap holds by then is handed over."""
        async with _serving(self._directory), _serving(self._api):
            base_url = f"http://127.0.0.1:{self._settings.up.example_port}"
            async with httpx.AsyncClient(base_url=base_url, timeout=5) as client:
                await trickle(client, per_second=self._settings.up.traffic_per_s, stop=stop, seed=1)
            await asyncio.to_thread(self._tapped.close)


@asynccontextmanager
async def _serving(server: HttpServer) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        await server.stop()
