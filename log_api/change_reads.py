"""Works out the changes of the records of a response: of one record, of a history, of a page of v1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from log_api.changes import Changes, ResourceHistory, Status, changes_resource
from log_api.ports import LogReads
from log_api.records import AuditRecord
from log_api.resource_changes import ResourceChanges, ResourceKey, WantedChanges

EARLIER_RECORDS_MAX = 10
"""Earlier changes of a resource from which its state is known. A whole state usually needs one."""
RESOURCES_MAX = 100
"""Resources of one page whose earlier records are read, those of the page's first records."""
PAGE_CHANGES_BYTES_MAX = 8 << 20
"""Of all changes of one page, nearly."""
_UNAVAILABLE = Changes(Status.UNAVAILABLE)
_TRUNCATED = Changes(Status.UNAVAILABLE, truncated=True)


async def changes_of(
    reads: LogReads, accounts: Sequence[str] | None, records: Sequence[AuditRecord]
) -> Mapping[str, Changes]:
    """Return what the actions of records changed, by the records' ids. Records that are not among `accounts` take no part.

    Records without a resource or an account, and those beyond the bounds, are unavailable. Raises RetryableError.
    """
    found = {record.id: _UNAVAILABLE for record in records}
    by_resource: dict[ResourceKey, list[AuditRecord]] = {}
    for record in records:
        key = _key(record)
        if (
            key is not None
            and changes_resource(record)
            and (key in by_resource or len(by_resource) < RESOURCES_MAX)
        ):
            by_resource.setdefault(key, []).append(record)
    if not by_resource:
        return found
    wanted = [
        WantedChanges(key, UUID(max(one.id for one in some)), EARLIER_RECORDS_MAX + len(some))
        for key, some in by_resource.items()
    ]
    size_bytes = 0
    for resource in await reads.resource_changes(accounts, wanted):
        for record_id, changes in await _changes_of_resource(reads, resource):
            if record_id in found:
                size_bytes += sum(one.size_bytes for one in changes.changes)
                found[record_id] = changes if size_bytes <= PAGE_CHANGES_BYTES_MAX else _TRUNCATED
    return found


async def _changes_of_resource(reads: LogReads, resource: ResourceChanges) -> Sequence[tuple[str, Changes]]:
    history = ResourceHistory(whole=resource.whole)

    def added(some: Sequence[AuditRecord]) -> Sequence[tuple[str, Changes]]:
        return [(one.id, history.add(one)) for one in some]

    # One at a time, because a record's bodies may be large.
    turns = reads.turns.results(resource.records, added, at_once=1)
    return [pair async for made in turns for pairs in made for pair in pairs]


def _key(record: AuditRecord) -> ResourceKey | None:
    account, resource = record.account.id, record.resource
    if account is None or resource.id is None:
        return None
    return ResourceKey(account, resource.product, resource.type, resource.id)
