"""How collectors poll a log and what they read of it, written anew from what they send and keep.

Each poll of a collector returns what it would pass on. Where collectors drop repeats themselves, so do these; where their
database drops them by the id, `repeats` counts them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx

from schemas.identity import parse_rfc3339_ms, rfc3339_ms

Entry = dict[str, Any]


class Collector:
    """What all of them have: an account, credentials, and the entries that were passed on, by their ids."""

    def __init__(self, base_url: str, account: str, headers: Mapping[str, str]) -> None:
        self._client = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=120)
        self.account = account
        self.passed_on: dict[str, Entry] = {}
        self.repeats = 0

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self._client.get(path, params=query)
        answer.raise_for_status()
        return answer.json()

    def pass_on(self, entries: Sequence[Entry], key: str = "id") -> None:
        for entry in entries:
            self.repeats += entry[key] in self.passed_on
            self.passed_on[entry[key]] = entry


class ElasticCel(Collector):
    """Elastic's integration: pages of v1 from the oldest on, until one is not full; then from the newest time that the last
    page had. Its index has one document for each id.
    """

    def __init__(self, base_url: str, account: str, headers: Mapping[str, str], since: str) -> None:
        super().__init__(base_url, account, headers)
        self.since = since
        self.page = 1
        self.per_page = 20

    async def poll(self) -> bool:
        """Read one page; return whether to read on at once."""
        answer = await self.get(
            f"/accounts/{self.account}/audit_logs",
            since=self.since,
            page=str(self.page),
            per_page=str(self.per_page),
            direction="asc",
        )
        entries: list[Entry] = answer["result"]
        self.pass_on(list(map(elastic_document, entries)))
        if len(entries) == self.per_page:
            self.page += 1
            return True
        self.page = 1
        self.since = max([self.since, *(entry["when"] for entry in entries)])
        return False


class ElasticHttpjson(Collector):
    """Elastic's older input: pages of v1 from the newest on, until one is empty; then from the first entry's time."""

    def __init__(self, base_url: str, account: str, headers: Mapping[str, str], since: str) -> None:
        super().__init__(base_url, account, headers)
        self.since = since
        self.page = 1
        self._newest: str | None = None

    async def poll(self) -> bool:
        answer = await self.get(
            f"/accounts/{self.account}/audit_logs", since=self.since, page=self.page, direction="desc"
        )
        entries: list[Entry] = answer["result"]
        self.pass_on(list(map(elastic_document, entries)))
        if entries:
            self._newest = self._newest or entries[0]["when"]
            self.page += 1
            return True
        self.since, self._newest, self.page = self._newest or self.since, None, 1
        return False


def elastic_document(entry: Entry) -> Entry:
    """Return the document of an entry. Raises where Elastic's pipeline would note a failure."""
    actor = entry["actor"]
    assert isinstance(actor, dict)
    assert isinstance(entry["action"]["result"], bool)
    address = actor.get("ip")
    return {
        "id": entry["id"],
        "@timestamp": datetime.fromisoformat(entry["when"]),
        "event.action": entry["action"]["type"].lower(),
        "event.outcome": "success" if entry["action"]["result"] else "failure",
        "source.ip": None if address is None else ipaddress.ip_address(address),
        "user.email": actor.get("email"),
        "user.id": actor.get("id"),
    }


class Xsoar(Collector):
    """The event collector of XSOAR and XSIAM: pages of 1,000 from the oldest on, since the second of its newest event, but
    for the ids that it had in that second. `source` is the path of one of its three kinds of events.
    """

    page_size = 1_000

    def __init__(
        self, base_url: str, account: str, headers: Mapping[str, str], since: str, source: str
    ) -> None:
        super().__init__(base_url, account, headers)
        self.since = since
        self._source = source
        self._known: list[str] = []

    async def poll(self) -> None:
        events: list[Entry] = []
        page = 1
        while True:
            answer = await self.get(
                self._source, per_page=self.page_size, page=page, since=self.since, direction="asc"
            )
            events += answer["result"]
            if len(answer["result"]) < self.page_size:
                break
            page += 1
        fresh = [event for event in events if event["id"] not in self._known]
        self.pass_on(fresh)
        if fresh:
            self.since = _second(fresh[-1])
            # Of what it passed on alone: what shares a second with events of an earlier poll comes again later.
            self._known = [event["id"] for event in fresh if _second(event) == self.since]


def _second(event: Entry) -> str:
    at = datetime.fromisoformat((event.get("when") or event.get("created_at") or "").rstrip("Z"))
    return at.replace(microsecond=0).isoformat() + "Z"


class Logzio(Collector):
    """logz.io's fetcher: follows the page numbers of v1 that the answers name, until a page is empty; then from a time after
    the newest.
    """

    def __init__(self, base_url: str, account: str, headers: Mapping[str, str], since: str) -> None:
        super().__init__(base_url, account, headers)
        self.since = since

    async def poll(self) -> None:
        path, newest = f"/accounts/{self.account}/audit_logs", None
        answer = await self.get(path, since=self.since)
        while answer["result"]:
            newest = newest or answer["result"][0]["when"]
            self.pass_on(answer["result"])
            answer = await self.get(path, since=self.since, page=answer["result_info"]["page"] + 1)
        if newest is not None:
            at_ms = parse_rfc3339_ms(newest)
            assert at_ms is not None
            self.since = rfc3339_ms(at_ms + 1_000)


class Downloader(Collector):
    """A downloader of time ranges: one request of v1 each, with v2's name for the size of a page."""

    async def download(self, since: str, before: str) -> None:
        answer = await self.get(
            f"/accounts/{self.account}/audit_logs",
            since=since,
            before=before,
            limit=1000,
            hide_user_logs="true",
        )
        self.pass_on(answer["result"])
