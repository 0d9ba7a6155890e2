"""The state of rules in memory: for backtests of rules on stored records, and for tests."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

from alerting.engine import Alert, BucketRange, Evaluation, RequiredState, RuleKey, State
from alerting.ports import PositionConflict, TrendBucket, UnitOfWork
from eventlog.ports import Partition


class MemoryAlertStore:
    """`AlertStore` without a database. It deletes nothing."""

    def __init__(self) -> None:
        self.alerts: dict[tuple[RuleKey, int], Alert] = {}
        self.trends: dict[TrendBucket, int] = defaultdict(int)
        self.stored_positions: dict[Partition, int] = {}
        self._counted_records: dict[RuleKey, set[UUID]] = defaultdict(set)
        self._entry_times_ms: dict[RuleKey, list[int]] = defaultdict(list)
        """Times of the window entries, in order."""
        self._raised_windows: dict[RuleKey, list[int]] = defaultdict(list)
        self._seen_values: dict[RuleKey, set[bytes]] = defaultdict(set)

    async def commit(self, work: UnitOfWork) -> Sequence[Alert]:
        for partition, step in work.advances.items():
            if self.stored_positions.get(partition, step.from_offset) != step.from_offset:
                raise PositionConflict
        result = work.evaluate(self._load(work.required))
        fresh = self._store(result)
        for bucket, events in work.trends.items():
            self.trends[bucket] += events
        self.stored_positions |= {partition: step.next_offset for partition, step in work.advances.items()}
        return fresh

    async def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        return {
            partition: self.stored_positions[partition]
            for partition in partitions
            if partition in self.stored_positions
        }

    async def adopt_positions(self, log_name: str, log_id: str) -> None:
        of_name = [partition for partition in self.stored_positions if partition.log == log_name]
        if not any(partition.log_id for partition in of_name):
            for partition in of_name:
                adopted = partition._replace(log_id=log_id)
                self.stored_positions[adopted] = self.stored_positions.pop(partition)

    def _load(self, required: RequiredState) -> State:
        state = State()
        for key, needed in required.buckets.items():
            starts = required.raised_windows[key]
            raised = self._raised_windows[key]
            state.bucket_counts[key] = self._bucket_counts(key, needed)
            state.raised_windows[key] = [at for at in raised if starts.first_ms <= at <= starts.last_ms]
            state.counted_records |= {
                (key, one) for one in required.records[key] & self._counted_records[key]
            }
        for key, values in required.seen_values.items():
            state.seen_values |= {(key, value) for value in values & self._seen_values[key]}
            if self._seen_values[key]:
                state.keys_with_seen_values.add(key)
        return state

    def _bucket_counts(self, key: RuleKey, needed: BucketRange) -> dict[int, int]:
        times_ms = self._entry_times_ms[key]
        first, end = bisect_left(times_ms, needed.from_ms), bisect_left(times_ms, needed.before_ms)
        return dict(Counter(at_ms - at_ms % needed.width_ms for at_ms in times_ms[first:end]))

    def _store(self, result: Evaluation) -> Sequence[Alert]:
        for entry in result.window_entries:
            if entry.record_id not in self._counted_records[entry.key]:
                self._counted_records[entry.key].add(entry.record_id)
                insort(self._entry_times_ms[entry.key], entry.at_ms)
        for seen in result.seen_values:
            self._seen_values[seen.key].add(seen.value_digest)
        fresh = []
        for alert in result.alerts:
            key = RuleKey(alert.rule, alert.key_digest)
            if (key, alert.window_start_ms) not in self.alerts:
                self.alerts[key, alert.window_start_ms] = alert
                self._raised_windows[key].append(alert.window_start_ms)
                fresh.append(alert)
        return fresh
