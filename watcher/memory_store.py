"""What the watcher keeps, in memory: for rehearsals of a rule on history, and for tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

from watcher.engine import Alert, Known, Mark, Needed, Place, Verdict
from watcher.ports import Lane, Overtaken, Trend, Work


class MemoryWatchStore:
    """`WatchStore` without a database. Holds whatever it is given for as long as it lives."""

    def __init__(self) -> None:
        self.alerts: dict[tuple[Place, int], Alert] = {}
        self.trends: dict[Trend, int] = defaultdict(int)
        self.kept_positions: dict[Lane, int] = {}
        self._marks: dict[Place, dict[UUID, Mark]] = defaultdict(dict)
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
            for mark in self._marks[place].values():
                if span.from_ms <= mark.at_ms < span.before_ms:
                    pane = mark.at_ms - mark.at_ms % span.pane_ms
                    known.panes[place][pane] = known.panes[place].get(pane, 0) + 1
        for place, (first_ms, last_ms) in needed.told.items():
            known.told[place] = [
                start for other, start in self.alerts if other == place and first_ms <= start <= last_ms
            ]
        for place, ids in needed.records.items():
            known.marked |= {(place, one) for one in ids if one in self._marks[place]}
        for place, values in needed.values.items():
            known.seen |= {(place, value) for value in values & self._memories[place]}
            if self._memories[place]:
                known.remembering.add(place)
        return known

    def _keep(self, verdict: Verdict) -> Sequence[Alert]:
        for mark in verdict.marks:
            self._marks[mark.place][mark.record_id] = mark
        for lesson in verdict.lessons:
            self._memories[lesson.place].add(lesson.value_digest)
        fresh = []
        for alert in verdict.alerts:
            place = Place(alert.rule, alert.key_digest)
            if (place, alert.window_start_ms) not in self.alerts:
                self.alerts[place, alert.window_start_ms] = alert
                fresh.append(alert)
        return fresh
