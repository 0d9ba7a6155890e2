"""Which of the taps' numbers a batch holds: a few ranges for each start of a tap, however many records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import NamedTuple
from uuid import UUID

import msgspec

from ingestor.ports import DeadLetter
from schemas.heartbeat import NUMBER_MAX, ranges
from schemas.identity import id_ms_of
from schemas.record import Record

# Of a record, read at once: every record of every batch is.
_Place = tuple[str | None, int | None, int | None, int, UUID]
_place: Callable[[Record], _Place] = attrgetter("tap_id", "tap_epoch", "tap_seq", "received_ms", "id")
_number: Callable[[_Place], int] = itemgetter(2)
_received_ms: Callable[[_Place], int] = itemgetter(3)


class SeenNumbers(NamedTuple):
    """Numbers of one start of a tap, as Postgres writes a multirange, and of what times (Unix ms).

    `oldest_ms`, `latest_ms`: of the actions. `received_ms`: when a collector took the latest.
    """

    tap_id: str
    epoch: int
    numbers: str
    oldest_ms: int
    latest_ms: int
    received_ms: int


class Seen(NamedTuple):
    """What a batch says of the taps: numbers, in the order of tap and epoch, and taps without any (`""`: no tap)."""

    numbers: Sequence[SeenNumbers]
    unnumbered: Sequence[str]


def seen_in_records(records: Sequence[Record]) -> Seen:
    """Return what records hold, which must be in the order of their ids."""
    found: dict[tuple[str, int], list[_Place]] = {}
    unnumbered: set[str] = set()
    for place in map(_place, records):
        tap_id, epoch, number, _, _ = place
        if number is None or tap_id is None or epoch is None:
            unnumbered.add(tap_id or "")
        elif 1 <= number <= NUMBER_MAX:
            if (ours := found.get((tap_id, epoch))) is None:
                ours = found[tap_id, epoch] = []
            ours.append(place)
    rows = [
        SeenNumbers(
            tap_id,
            epoch,
            multirange(map(_number, ours)),
            id_ms_of(ours[0][4]),
            id_ms_of(ours[-1][4]),
            max(map(_received_ms, ours)),
        )
        for (tap_id, epoch), ours in sorted(found.items())
    ]
    return Seen(rows, sorted(unnumbered))


def seen_in_letters(letters: Sequence[DeadLetter]) -> Seen:
    """Return what buried events hold, as far as their bytes tell. Their times are those of receipt."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for letter in letters:
        tap = _tap(letter.value)
        if tap is not None:
            found.setdefault((tap.id, tap.epoch), []).append((tap.seq, letter.received_ms))
    rows = []
    for (tap_id, epoch), ours in sorted(found.items()):
        times = [received_ms for _, received_ms in ours]
        numbers = multirange(number for number, _ in ours)
        rows.append(SeenNumbers(tap_id, epoch, numbers, min(times), max(times), max(times)))
    return Seen(rows, ())


def multirange(numbers: Iterable[int]) -> str:
    """Return numbers, at least one, as the text of an int8multirange."""
    distinct = set(numbers)
    first, last = min(distinct), max(distinct)
    if last - first + 1 == len(distinct):
        return multirange_of([(first, last)])
    return multirange_of(ranges(sorted(distinct)))


def multirange_of(pairs: Iterable[tuple[int, int]]) -> str:
    """Return ranges, given by their first and last, as the text of an int8multirange."""
    return "{" + ",".join(f"[{first},{last}]" for first, last in pairs) + "}"


class _BuriedTap(msgspec.Struct, frozen=True):
    id: str
    epoch: int
    seq: int


class _Buried(msgspec.Struct, frozen=True):
    tap: _BuriedTap


_decoder = msgspec.json.Decoder(_Buried)


def _tap(value: bytes) -> _BuriedTap | None:
    """Return where a buried event stood in its tap's count, if that can be read and is possible."""
    try:
        tap = _decoder.decode(value).tap
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    possible = 1 <= tap.seq <= NUMBER_MAX and 0 <= tap.epoch < 1 << 63 and 0 < len(tap.id) <= 64
    return tap if possible and "\0" not in tap.id else None
