"""Which sequence numbers of which taps a batch holds: a few ranges per tap epoch, however many records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import NamedTuple
from uuid import UUID

import msgspec

from ingestor.dead_letters.ports import DeadLetter
from schemas.heartbeat import SEQ_MAX, contiguous_ranges
from schemas.identity import id_ms_of
from schemas.record import Record

# What is read of every record, in one call: this runs for each record of each batch.
_TapPosition = tuple[str | None, int | None, int | None, int, UUID]
_place: Callable[[Record], _TapPosition] = attrgetter("tap_id", "tap_epoch", "tap_seq", "received_ms", "id")
_number: Callable[[_TapPosition], int] = itemgetter(2)
_received_ms: Callable[[_TapPosition], int] = itemgetter(3)


class EpochNumbers(NamedTuple):
    """Sequence numbers of one tap epoch as the text of an int8multirange, and their times (Unix ms).

    `oldest_ms`, `latest_ms`: times of the actions. `received_ms`: the latest time of receipt by a collector.
    """

    tap_id: str
    epoch: int
    numbers: str
    oldest_ms: int
    latest_ms: int
    received_ms: int


class SequenceNumbers(NamedTuple):
    """The sequence numbers of a batch, by tap and epoch, and the ids of taps that send none (`""`: no tap id).

    Both are sorted, so that two transactions lock the rows of taps in the same order.
    """

    numbered: Sequence[EpochNumbers]
    unnumbered: Sequence[str]


def numbers_of_records(records: Sequence[Record]) -> SequenceNumbers:
    """Return the sequence numbers of records, which must be sorted by id."""
    found: dict[tuple[str, int], list[_TapPosition]] = {}
    unnumbered: set[str] = set()
    for place in map(_place, records):
        tap_id, epoch, number, _, _ = place
        if number is None or tap_id is None or epoch is None:
            # A tap that numbers nothing can have no gap; it is counted, so that an operator sees what the ledger does
            # not cover.
            unnumbered.add(tap_id or "")
        elif 1 <= number <= SEQ_MAX:
            if (ours := found.get((tap_id, epoch))) is None:
                ours = found[tap_id, epoch] = []
            ours.append(place)
    rows = [
        EpochNumbers(
            tap_id,
            epoch,
            multirange(map(_number, ours)),
            # Sorted by id, and so by time.
            id_ms_of(ours[0][4]),
            id_ms_of(ours[-1][4]),
            max(map(_received_ms, ours)),
        )
        for (tap_id, epoch), ours in sorted(found.items())
    ]
    return SequenceNumbers(rows, sorted(unnumbered))


def numbers_of_dead_letters(dead_letters: Sequence[DeadLetter]) -> SequenceNumbers:
    """Return the sequence numbers that can be read from the bytes of dead letters. Their times are those of receipt."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for dead_letter in dead_letters:
        tap = _tap_of(dead_letter.value)
        if tap is not None:
            found.setdefault((tap.id, tap.epoch), []).append((tap.seq, dead_letter.received_ms))
    rows = []
    for (tap_id, epoch), ours in sorted(found.items()):
        times = [received_ms for _, received_ms in ours]
        numbers = multirange(number for number, _ in ours)
        rows.append(EpochNumbers(tap_id, epoch, numbers, min(times), max(times), max(times)))
    return SequenceNumbers(rows, ())


def multirange(numbers: Iterable[int]) -> str:
    """Return at least one number as the text of an int8multirange."""
    distinct = set(numbers)
    first, last = min(distinct), max(distinct)
    # The usual case: a batch holds a tap's numbers without a hole, and sorting them is not needed.
    if last - first + 1 == len(distinct):
        return multirange_of([(first, last)])
    return multirange_of(contiguous_ranges(sorted(distinct)))


def multirange_of(pairs: Iterable[tuple[int, int]]) -> str:
    """Return ranges, both ends included, as the text of an int8multirange."""
    return "{" + ",".join(f"[{first},{last}]" for first, last in pairs) + "}"


class _Tap(msgspec.Struct, frozen=True):
    id: str
    epoch: int
    seq: int


class _TappedEvent(msgspec.Struct, frozen=True):
    tap: _Tap


_tap_decoder = msgspec.json.Decoder(_TappedEvent)


def _tap_of(value: bytes) -> _Tap | None:
    """Return the tap, epoch and sequence number of a dead letter, or None where they cannot be read or are out of range."""
    try:
        tap = _tap_decoder.decode(value).tap
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    possible = 1 <= tap.seq <= SEQ_MAX and 0 <= tap.epoch < 1 << 63 and 0 < len(tap.id) <= 64
    return tap if possible and "\0" not in tap.id else None
