"""The example of `auditap up`: an API behind a tap, traffic to it, and a directory that names are looked up in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import httpx

from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from auditap.settings import Settings
from auditap_example.app import example_app
from auditap_example.directory import directory_app
from auditap_example.document import document_file
from auditap_example.traffic import trickle
from auditap_tap import AuditTapMiddleware
from enricher.config import EnricherConfig, HttpLookupConfig
from enricher.ports import Kind
from redactor.config import DocumentConfig, RedactionConfig


def with_example(settings: Settings) -> Settings:
    """Return the settings with the example's OpenAPI document, lookups in its directory, and rules for its resources."""
    at = f"http://127.0.0.1:{settings.up.directory_port}"
    lookups = (
        HttpLookupConfig(Kind.ACCOUNT, f"{at}/accounts/{{key}}", {"name": "/result/name"}),
        HttpLookupConfig(
            Kind.ZONE, f"{at}/zones/{{key}}", {"name": "/result/name", "account_id": "/result/account_id"}
        ),
        HttpLookupConfig(Kind.USER, f"{at}/users/{{key}}", {"email": "/result/email"}),
        HttpLookupConfig(Kind.TOKEN, f"{at}/tokens/{{key}}", {"name": "/result/name"}),
    )
    documents = (DocumentConfig(Path(str(document_file())), envelope="result"),)
    rules = settings.alerting.rules or Path(str(files("alerting").joinpath("cloudflare_rules.yaml")))
    return settings.model_copy(
        update={
            "alerting": settings.alerting.model_copy(update={"rules": rules}),
            "redaction": RedactionConfig(documents=documents),
            "enrich": EnricherConfig(http_lookups=lookups),
        }
    )


class Example:
    """The example's two servers and the traffic. Raises StartupError where an address is in use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tapped = AuditTapMiddleware(
            example_app(),
            collector=f"unix:{settings.collector_socket.absolute()}",
            tap_id="example-api",
            state_dir=settings.data_dir.absolute() / "taps",
        )
        self._api = HttpServer(
            self._tapped, [bind_tcp_socket("127.0.0.1", settings.up.example_port, "up.example_port")]
        )
        self._directory = HttpServer(
            directory_app(), [bind_tcp_socket("127.0.0.1", settings.up.directory_port, "up.directory_port")]
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve and send traffic until `stop` is set; then let the tap send what it holds."""
        async with _serving(self._directory), _serving(self._api):
            self._tapped.start()
            base_url = f"http://127.0.0.1:{self._settings.up.example_port}"
            async with httpx.AsyncClient(base_url=base_url, timeout=5) as client:
                await trickle(client, per_second=self._settings.up.traffic_per_s, stop=stop, seed=1)
            # In a thread: it waits for the tap's last batch, which the collector in this loop has to answer.
            await asyncio.to_thread(self._tapped.close)


@asynccontextmanager
async def _serving(server: HttpServer) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        await server.stop()
