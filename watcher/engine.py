"""What rules make of records: pure, no clock, no I/O.

`sightings` tells which rules a record concerns, `Needed` what must be known to judge them, `judge` what they raise.
Windows go by the records' own times. What is known comes from outside and goes back there as marks, lessons and alerts,
each idempotent, so that judging the same records again, in any order, raises nothing twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from schemas.identity import derive_id
from schemas.record import Record
from watcher.facts import Facts
from watcher.rules import Rule, RuleSet, digest, key_text

_KEY_CHARS_MAX = 512


class Place(NamedTuple):
    """Where something is counted or remembered: a rule's name and the digest of account and key."""

    rule: str
    key_digest: bytes


class Sighting(NamedTuple):
    """One record that concerns a rule. `fits`: it is one that the rule is about, not only one to learn from."""

    rule: Rule
    place: Place
    key: str
    record: Record
    at_ms: int
    fits: bool
    memory: Place | None = None
    asked: Sequence[bytes] = ()
    lessons: Sequence[bytes] = ()
    familiar: Hashable = None
    """Once this sighting is judged and kept, another one that is the same here is no news."""


class Mark(NamedTuple):
    """One record, counted once in the windows of a place that hold its time."""

    place: Place
    record_id: UUID
    at_ms: int


class Lesson(NamedTuple):
    """A value that a place has seen."""

    place: Place
    value_digest: bytes


@dataclass(frozen=True, slots=True)
class Alert:
    """What is raised: one for each rule, key and window. `records`: how many it took."""

    id: UUID
    rule: str
    severity: str
    title: str
    account_id: str | None
    key: str
    key_digest: bytes
    window_start_ms: int
    window_ms: int
    records: int
    record: Record
    channels: tuple[str, ...]


class Span(NamedTuple):
    """What of a place's past is needed: marks of these times (Unix ms), counted by panes of `pane_ms`."""

    from_ms: int
    before_ms: int
    pane_ms: int


@dataclass(slots=True)
class Needed:
    """What must be known to judge some sightings."""

    counted: dict[Place, Span] = field(default_factory=dict)
    told: dict[Place, tuple[int, int]] = field(default_factory=dict)
    """Where windows that were told may begin: from, and up to and with (Unix ms)."""
    records: dict[Place, set[UUID]] = field(default_factory=dict)
    values: dict[Place, set[bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class Known:
    """What is known; whatever is not there is nothing."""

    panes: dict[Place, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    """How many marks each pane has, by its beginning."""
    told: dict[Place, list[int]] = field(default_factory=lambda: defaultdict(list))
    """When the windows begin that an alert was raised for."""
    marked: set[tuple[Place, UUID]] = field(default_factory=set)
    seen: set[tuple[Place, bytes]] = field(default_factory=set)
    remembering: set[Place] = field(default_factory=set)
    """Memories that hold anything at all."""


@dataclass(slots=True)
class Verdict:
    """What is to be kept of a judgement."""

    marks: list[Mark] = field(default_factory=list)
    lessons: list[Lesson] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)


def sightings(rules: RuleSet, record: Record, familiar: Container[Hashable] = frozenset()) -> list[Sighting]:
    """Return what a record is to each rule that it concerns, in the order of the rules.

    `familiar`: of sightings that were judged and kept, which need not be judged again.
    """
    facts = Facts(record)
    found: list[Sighting] = []
    for rule in rules.rules:
        fits = rule.when(facts)
        if rule.drops:
            if fits:
                break
        elif rule.memory is not None:
            same = rule.memory.sameness(rule.name, facts) if fits else None
            if same is not None and same in familiar:
                continue
            lessons = rule.memory.lessons(facts, fits=fits)
            if fits or lessons:
                found.append(_remembering(rule, facts, lessons, fits=fits)._replace(familiar=same))
        elif fits:
            found.append(Sighting(rule, *_place(rule, facts), record, facts.at_ms, fits=True))
    return found


def _remembering(rule: Rule, facts: Facts, lessons: Sequence[bytes], *, fits: bool) -> Sighting:
    assert rule.memory is not None  # noqa: S101  its caller asked
    place, key = _place(rule, facts)
    values = [facts.record.account_id, *(list(read(facts)) for _, read in rule.memory.key)]
    memory = Place(rule.name, digest(values))
    asked = rule.memory.asked(facts) if fits else ()
    return Sighting(rule, place, key, facts.record, facts.at_ms, fits, memory, asked, lessons)


def _place(rule: Rule, facts: Facts) -> tuple[Place, str]:
    values = [(name, _shown(read(facts))) for name, read in rule.key]
    text = key_text(values)
    return Place(rule.name, digest([facts.record.account_id, text])), text


def _shown(values: Sequence[Any]) -> Any:
    bounded = [value[:_KEY_CHARS_MAX] if isinstance(value, str) else value for value in values]
    return bounded if len(bounded) > 1 else bounded[0] if bounded else None


def needed(found: Iterable[Sighting]) -> Needed:
    """Return what must be known to judge them."""
    wanted = Needed()
    for each in found:
        if each.memory is not None:
            wanted.values.setdefault(each.memory, set()).update(each.asked, each.lessons)
        elif each.rule.counts:
            _need_counts(wanted, each)
    return wanted


def _need_counts(wanted: Needed, each: Sighting) -> None:
    window, usual = each.rule.window, each.rule.usual
    starts = window.starts(each.at_ms)
    from_ms = starts[0] - (usual.windows * window.size_ms if usual else 0)
    before_ms = starts[-1] + window.size_ms
    told = (starts[0] - window.size_ms, starts[-1] + window.size_ms)
    span = wanted.counted.get(each.place)
    if span is not None:
        from_ms, before_ms = min(from_ms, span.from_ms), max(before_ms, span.before_ms)
        known = wanted.told[each.place]
        told = (min(told[0], known[0]), max(told[1], known[1]))
    wanted.counted[each.place] = Span(from_ms, before_ms, window.hop_ms)
    wanted.told[each.place] = told
    wanted.records.setdefault(each.place, set()).add(each.record.id)


def judge(found: Sequence[Sighting], known: Known) -> Verdict:
    """Return what the sightings raise and what is to be kept of them. Adds to `known` what it finds out."""
    verdict = Verdict()
    for each in found:
        if each.memory is not None:
            _judge_memory(each, each.memory, known, verdict)
        elif each.rule.counts:
            _judge_counts(each, known, verdict)
        else:
            _raise(each, each.rule.window.starts(each.at_ms)[0], 1, known, verdict)
    return verdict


def _judge_memory(each: Sighting, memory: Place, known: Known, verdict: Verdict) -> None:
    raised_by = each.rule.memory.raised_by if each.rule.memory else ""
    was_empty = memory not in known.remembering
    seen = [(memory, value) in known.seen for value in each.asked]
    for value in each.lessons:
        if (memory, value) not in known.seen:
            known.seen.add((memory, value))
            known.remembering.add(memory)
            verdict.lessons.append(Lesson(memory, value))
    if not each.fits or not seen:
        return
    if raised_by == "known":
        # What the record itself teaches counts: an answer may say what was deleted.
        raises = any((memory, value) in known.seen for value in each.asked)
    else:
        raises = not all(seen) and not (raised_by == "new" and was_empty)
    if raises:
        _raise(each, each.rule.window.starts(each.at_ms)[0], 1, known, verdict)


def _judge_counts(each: Sighting, known: Known, verdict: Verdict) -> None:
    rule, place, window = each.rule, each.place, each.rule.window
    if (place, each.record.id) in known.marked:
        return
    told = known.told[place]
    is_told = any(start <= each.at_ms < start + window.size_ms for start in told)
    if is_told and rule.usual is None:
        return  # nothing that counts it could be told any more
    known.marked.add((place, each.record.id))
    verdict.marks.append(Mark(place, each.record.id, each.at_ms))
    panes = known.panes[place]
    pane = each.at_ms - each.at_ms % window.hop_ms
    panes[pane] = panes.get(pane, 0) + 1
    # The last window that reaches it holds most of what is still to come, and so tells an incident once.
    for start in reversed(window.starts(each.at_ms)):
        counted = _count(panes, start, start + window.size_ms, window.hop_ms)
        if counted >= _limit(rule, panes, start) and all(
            abs(start - other) >= window.size_ms for other in told
        ):
            _raise(each, start, counted, known, verdict)
            return


def _limit(rule: Rule, panes: Mapping[int, int], start_ms: int) -> float:
    """Return how many records a window needs: the threshold, or what is unusual if that is more."""
    if rule.usual is None:
        return rule.threshold
    size_ms = rule.window.size_ms
    before = _count(panes, start_ms - rule.usual.windows * size_ms, start_ms, rule.window.hop_ms)
    return max(rule.threshold, rule.usual.times * before / rule.usual.windows)


def _count(panes: Mapping[int, int], from_ms: int, before_ms: int, pane_ms: int) -> int:
    if len(panes) < (before_ms - from_ms) // pane_ms:
        return sum(count for start, count in panes.items() if from_ms <= start < before_ms)
    return sum(panes.get(start, 0) for start in range(from_ms, before_ms, pane_ms))


def _raise(each: Sighting, start_ms: int, records: int, known: Known, verdict: Verdict) -> None:
    rule, told = each.rule, known.told[each.place]
    if start_ms in told:
        return
    told.append(start_ms)
    verdict.alerts.append(
        Alert(
            id=alert_id(each.place, start_ms),
            rule=rule.name,
            severity=rule.severity,
            title=rule.title,
            account_id=each.record.account_id,
            key=each.key,
            key_digest=each.place.key_digest,
            window_start_ms=start_ms,
            window_ms=rule.window.size_ms,
            records=records,
            record=each.record,
            channels=rule.channels,
        )
    )


def alert_id(place: Place, window_start_ms: int) -> UUID:
    """Return the id that the same alert gets whoever raises it: a UUIDv7 of its window's beginning."""
    return UUID(derive_id(b"auditap alert", max(window_start_ms, 0), place.rule, 0, place.key_digest.hex()))
