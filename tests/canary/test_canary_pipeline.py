"""Tokens through real processes: whatever left them is searched, and not one token of what may not leave is there."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.identity import new_id, rfc3339_ms
from tests.audit_database import AuditDatabase
from tests.canary.evidence import (
    ApiReader,
    Evidence,
    file_texts,
    files_below,
    kafka_records,
    postgres_rows,
)
from tests.canary.fault_names import CALLBACK, ENDPOINT, REDACTOR, SINK
from tests.canary.pairs import Operation, PairWriter, operations_of
from tests.canary.tally import ENVELOPE, OPEN_RULES
from tests.canary.test_canary_redactor import FUZZING, real
from tests.canary.tokens import SECRET, Mint
from tests.e2e.pipeline import Pipeline, Process, until

FAULTS = Path(__file__).parent / "faults"
ACCOUNTS = [f"{number:032x}" for number in range(1, 6)]
NDJSON = {"content-type": "application/x-ndjson"}
# One that fits much of what is sent, so that alerts, their deliveries and standard output hold all that they can.
RULES = """
channels:
  output: {type: stdout}
rules:
  - name: any-change
    title: Something was changed
    severity: low
    when: {action.type: [create, update, delete]}
    key: [actor.id, resource.id, raw.uri]
  - name: any-failure
    title: Something failed
    severity: low
    when: {action.result: failure}
    key: [actor.id]
    threshold: 2
    window: 10m
"""

Capture = dict[str, Any]


class LoudPipeline(Pipeline):
    """Says all that it can say, and its collector meets the faults that captures ask for."""

    def environment(self, **more: str) -> dict[str, str]:
        environment = super().environment(AUDITAP_LOG_LEVEL="debug", **more)
        if "AUDITAP_COLLECTOR__ADDRESS__PORT" in more:
            paths = [str(FAULTS), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return environment

    async def start_alerting(self, *, wait: bool = True, **environment: str) -> Process:
        rules = self.folder / "rules.yaml"
        rules.write_text(RULES)
        return await super().start_alerting(wait=wait, AUDITAP_ALERTING__RULES=str(rules), **environment)

    async def until_evaluated(self, records: int, alerting: Process) -> None:
        """Wait until as many events are evaluated, and an alert of them was delivered."""

        async def evaluated() -> bool:
            [row] = await self.fetch(
                "SELECT (SELECT coalesce(sum(events), 0) FROM auditap.trends WHERE width_ms = 3600000) AS events,"
                " (SELECT count(*) FROM auditap.alert_deliveries WHERE state = 'delivered') AS delivered"
            )
            return bool(row["events"] >= records and row["delivered"])

        await until(evaluated, 300, f"{records} events evaluated", alerting.log)


@pytest.fixture
async def pipeline(
    bootstrap: str | None, audit_database: AuditDatabase, tmp_path: Path, topic_prefix: str, real_specs: Path
) -> AsyncIterator[LoudPipeline]:
    document = real_specs / "cloudflare-auditable.openapi.json"
    documents = f'[redaction]\ndocuments = [{{path = "{document}", envelope = "{ENVELOPE}"}}]'
    started = LoudPipeline(
        tmp_path, audit_database, bootstrap=bootstrap, topic=topic_prefix, documents=documents
    )
    # The ingestor comes later, so that the embedded log can be looked at while it is full.
    await started.start(ingestors=0)
    yield started
    await started.stop()


class Sender:
    """Sends captures with tokens, keeps every answer as evidence, and knows what must arrive."""

    def __init__(self, pipeline: LoudPipeline, root: Capture, evidence: Evidence) -> None:
        self._pipeline = pipeline
        self._evidence = evidence
        self._mint = Mint()
        self._writer = PairWriter(root, self._mint, 1, envelope=ENVELOPE, accounts=ACCOUNTS)
        self._seq = 0
        self.must_arrive: dict[str, str] = {}
        self.accepted = 0

    def captures(self, operations: Iterable[Operation], *, all_pairs: bool) -> Iterable[Capture]:
        """Yield captures for the operations: the first pair of each, or all."""
        for operation in operations:
            for number, pair in enumerate(self._writer.pairs(operation)):
                if all_pairs or number == 0 or not pair.fitting:
                    kept = {token: rule for token, rule in self._mint.shown.items() if rule not in OPEN_RULES}
                    self.must_arrive |= kept
                    yield self.stamped(pair.capture)
                self._mint.shown.clear()

    def stamped(self, capture: Capture, tap: str = "canary", at_ms: int | None = None) -> Capture:
        self._seq += 1
        at = rfc3339_ms(time.time_ns() // 1_000_000 if at_ms is None else at_ms)
        return capture | {"captured_at": at, "tap": {"id": tap, "epoch": 1, "seq": self._seq}}

    async def send(self, captures: Iterable[Capture], batch: int = 100) -> None:
        accepted, refused = await self._pipeline.send(captures, batch)
        assert refused == []
        self.accepted += accepted

    async def post(
        self, content: bytes, status: int, headers: dict[str, str], path: str = "/v1/captures"
    ) -> None:
        """Post something of no use; the answer is evidence."""
        transport = httpx.AsyncHTTPTransport(uds=str(self._pipeline.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://collector", timeout=120) as client:
            answer = await client.post(path, content=content, headers=headers)
        assert answer.status_code == status, answer.text
        self._evidence.add("collector's answers", f"{answer.headers!r} {answer.text}")
        if status == 200:
            self.accepted += answer.json()["accepted"]

    def secret(self) -> str:
        return self._mint.secret_text("hostile")

    def any_capture(self, tap: str, **changes: Any) -> Capture:
        """A capture of an operation that keeps something, all else in it secret."""
        secret = self.secret
        request = {
            "method": "PUT",
            "url": f"https://api.cloudflare.com/client/v4/accounts/{ACCOUNTS[0]}/alerting/v3/policies/1?{secret()}={secret()}",
            "headers": {"content-type": "application/json", "authorization": secret()},
            "body": json.dumps({"undeclared": secret(), secret(): [secret(), None]}),
        }
        response = {"status": 200, "headers": {"set-cookie": secret()}, "body": f'"{secret()}"'}
        return self.stamped({"request": request | changes, "response": response}, tap)


async def send_malformed(sender: Sender) -> None:
    """Bodies, lines and whole batches that cannot be read, each with tokens in them."""
    secret = sender.secret
    bodies = [
        '{"%s": %s}',
        '{"%s": "%s\\ud800"}',
        '{"%s": NaN, "%s"',
        "[" * 5_000 + '"%s%s"',
        "\ufeff%s%s",
        "%s\0%s",
    ]
    broken = [sender.any_capture("malformed", body=body % (secret(), secret())) for body in bodies]
    methods = [
        sender.any_capture("malformed", method=secret().upper()),
        sender.any_capture("malformed", url=f"/{secret()}"),
    ]
    twice = sender.any_capture("malformed")
    conflict = sender.any_capture("malformed", method="PATCH") | {"id": new_id(time.time_ns() // 1_000_000)}
    other = sender.any_capture("malformed", method="DELETE") | {"id": conflict["id"]}
    expired = sender.stamped(sender.any_capture("expired"), "expired", at_ms=0)
    await sender.send([*broken, *methods, twice, twice, conflict, other, expired], batch=1)
    lines = [
        f'{{"{secret()}": {secret()}',
        json.dumps(
            {"request": {"method": secret(), "url": secret() * 9_000}, "response": {"status": secret()}}
        ),
        json.dumps({"request": {secret(): secret()}, "response": {"status": 200}}),
        json.dumps(sender.any_capture("a") | {"id": secret()}),
        json.dumps(sender.any_capture(f"-{secret()}")),
        json.dumps(sender.any_capture("b") | {"captured_at": secret()}),
    ]
    await sender.post("\n".join(lines).encode(), 200, NDJSON)
    await sender.post(f"[{secret()}".encode(), 400, {"content-type": "application/json"})
    await sender.post(gzip.compress(secret().encode())[:-3], 400, NDJSON | {"content-encoding": "gzip"})
    await sender.post(secret().encode(), 415, {"content-type": f"text/{secret()}"})
    await sender.post(secret().encode(), 415, NDJSON | {"content-encoding": secret()})
    await sender.post(secret().encode(), 404, NDJSON, f"/{secret()}?{secret()}")


async def provoke(sender: Sender) -> None:
    """Make the collector fail with traffic in hand, in the redactor, behind it, before it and beside it."""
    await sender.send([sender.any_capture(REDACTOR)])
    await sender.send([sender.any_capture(CALLBACK)])
    await sender.post(json.dumps(sender.any_capture(SINK)).encode(), 503, NDJSON)
    await sender.post(json.dumps(sender.any_capture(ENDPOINT)).encode(), 500, NDJSON)


async def ask_wrongly(pipeline: LoudPipeline, sender: Sender, evidence: Evidence) -> None:
    """Show tokens to the ports of collector and log API."""
    secret = sender.secret
    async with httpx.AsyncClient(
        headers={"authorization": f"Bearer {secret()}", "cookie": secret()}, timeout=120
    ) as client:
        for port in (pipeline.collector_port, pipeline.api_port):
            for path in (
                "/v1/captures",
                f"/client/v4/accounts/{secret()}/logs/audit?{secret()}={secret()}",
                f"/{secret()}",
            ):
                for method in ("GET", "POST", "PUT"):
                    answer = await client.request(method, f"http://127.0.0.1:{port}{path}", content=secret())
                    assert answer.status_code >= 400
                    evidence.add("answers to strangers", f"{answer.headers!r} {answer.text}")


async def gather(
    pipeline: LoudPipeline, alerting: Process, bootstrap: str | None, evidence: Evidence, since_ms: int
) -> None:
    """Take everything that left: from the running processes, then from what they leave behind."""
    for port in (pipeline.collector_port, pipeline.api_port, pipeline.ingestors[0].port, alerting.port):
        async with httpx.AsyncClient(timeout=120) as client:
            for path in ("/metrics", "/readyz", "/healthz"):
                evidence.add("metrics", (await client.get(f"http://127.0.0.1:{port}{path}")).text)
    reader = ApiReader(pipeline.api_port, pipeline.database.admin_dsn)
    now_ms = time.time_ns() // 1_000_000
    async for place, answer in reader.answers(ACCOUNTS, rfc3339_ms(since_ms), rfc3339_ms(now_ms)):
        evidence.add(place, answer)
    for key in pipeline.directory.asked:
        evidence.add("look-ups", key)
    await pipeline.stop_processes()
    for place, text in await postgres_rows(pipeline.database.admin_dsn):
        evidence.add(place, text)
    if bootstrap is not None:
        async for place, record in kafka_records(bootstrap, pipeline.topic):
            evidence.add(place, record)
    search_files(pipeline, evidence)


def search_files(pipeline: LoudPipeline, evidence: Evidence) -> None:
    for file in files_below(pipeline.folder):
        for place, content in file_texts(file):
            evidence.add(place, content)


async def test_no_token_leaves_the_pipeline(
    pipeline: LoudPipeline, bootstrap: str | None, real_specs: Path
) -> None:
    since_ms = time.time_ns() // 1_000_000
    root = real(real_specs, "cloudflare-auditable")
    operations = operations_of(root)
    assert len(operations) == 2_745
    evidence = Evidence()
    sender = Sender(pipeline, root, evidence)
    await sender.send(sender.captures(operations, all_pairs=FUZZING))
    await send_malformed(sender)
    await provoke(sender)
    await ask_wrongly(pipeline, sender, evidence)
    assert pipeline.collector is not None
    assert await pipeline.collector.metric("auditap_redaction_failures_total") == 1

    search_files(pipeline, evidence)
    # First, because the embedded log keeps nothing for a alerting that has never been there.
    alerting = await pipeline.start_alerting()

    async def reads() -> bool:
        return await alerting.metric("auditap_partitions_assigned") > 0

    # It is ready before that.
    await until(reads, 120, "alerting reads the log", alerting.log)
    await pipeline.start_ingestor()

    # Sent twice, one capture is one record.
    records, dead_letters = await pipeline.until_processed(sender.accepted - 1)
    assert dead_letters == 2
    assert records == sender.accepted - 1 - dead_letters
    await pipeline.until_evaluated(records, alerting)
    await gather(pipeline, alerting, bootstrap, evidence, since_ms)

    assert evidence.secrets == {}
    expected = {
        "postgres auditap.audit_records",
        "postgres auditap.dead_letters",
        "postgres auditap.dead_letters decoded",
        "postgres auditap.alerts",
        "postgres auditap.alert_deliveries",
        "postgres auditap.trends",
        "logs",
        "metrics",
        "api pages",
    }
    kafka = {"kafka events", "kafka dead-letters", "kafka dead-letters decoded", "kafka keys and headers"}
    expected |= kafka if bootstrap else {"sqlite events", "files"}
    assert expected <= set(evidence.texts), sorted(evidence.texts)
    stored = evidence.shown["postgres auditap.audit_records"]
    lost = {token: rule for token, rule in sender.must_arrive.items() if token not in stored}
    assert lost == {}
    assert len(sender.must_arrive) > 10_000
    assert evidence.shown["api pages"] | evidence.shown["api export"] > set()
    assert SECRET not in repr(evidence.texts)
