"""What the watcher keeps, in memory: for rehearsals of a rule on history, and for tests."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

from watcher.engine import Alert, Known, Needed, Place, Verdict
from watcher.ports import Lane, Overtaken, Trend, Work


class MemoryWatchStore:
    """`WatchStore` without a database. Holds whatever it is given for as long as it lives."""

    def __init__(self) -> None:
        self.alerts: dict[tuple[Place, int], Alert] = {}
        self.trends: dict[Trend, int] = defaultdict(int)
        self.kept_positions: dict[Lane, int] = {}
        self._marked: dict[Place, set[UUID]] = defaultdict(set)
        self._marks_ms: dict[Place, list[int]] = defaultdict(list)
        """When the marks of a place are, in order."""
        self._told: dict[Place, list[int]] = defaultdict(list)
        self._memories: dict[Place, set[bytes]] = defaultdict(set)

    async def settle(self, work: Work) -> Sequence[Alert]:
        """See `WatchStore.settle`."""
        for lane, step in work.advances.items():
            if self.kept_positions.get(lane, step.from_offset) != step.from_offset:
                raise Overtaken
        verdict = work.judge(self._known(work.needed))
        fresh = self._keep(verdict)
        for trend, events in work.trends.items():
            self.trends[trend] += events
        self.kept_positions |= {lane: step.next_offset for lane, step in work.advances.items()}
        return fresh

    async def positions(self, lanes: Sequence[Lane]) -> Mapping[Lane, int]:
        """See `WatchStore.positions`."""
        return {lane: self.kept_positions[lane] for lane in lanes if lane in self.kept_positions}

    def _known(self, needed: Needed) -> Known:
        known = Known()
        for place, span in needed.counted.items():
            marks_ms = self._marks_ms[place]
            first, end = bisect_left(marks_ms, span.from_ms), bisect_left(marks_ms, span.before_ms)
            known.panes[place] = dict(Counter(at_ms - at_ms % span.pane_ms for at_ms in marks_ms[first:end]))
        for place, (first_ms, last_ms) in needed.told.items():
            known.told[place] = [start for start in self._told[place] if first_ms <= start <= last_ms]
        for place, ids in needed.records.items():
            known.marked |= {(place, one) for one in ids & self._marked[place]}
        for place, values in needed.values.items():
            known.seen |= {(place, value) for value in values & self._memories[place]}
            if self._memories[place]:
                known.remembering.add(place)
        return known

    def _keep(self, verdict: Verdict) -> Sequence[Alert]:
        for mark in verdict.marks:
            if mark.record_id not in self._marked[mark.place]:
                self._marked[mark.place].add(mark.record_id)
                insort(self._marks_ms[mark.place], mark.at_ms)
        for lesson in verdict.lessons:
            self._memories[lesson.place].add(lesson.value_digest)
        fresh = []
        for alert in verdict.alerts:
            place = Place(alert.rule, alert.key_digest)
            if (place, alert.window_start_ms) not in self.alerts:
                self.alerts[place, alert.window_start_ms] = alert
                self._told[place].append(alert.window_start_ms)
                fresh.append(alert)
        return fresh
