"""One page of metrics for several processes: sums, which do not fall when a process ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

from schemas.metric_defs import definitions

_LARGEST: Final = frozenset(each.name for each in definitions() if each.largest_of_workers)
_GAUGE: Final = "gauge"
_CREATED_SUFFIX: Final = "_created"

_Series = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and labels."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One value of a metric."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with all its values, as one process has them now."""

    name: str
    kind: str
    meaning: str
    samples: list[Sample]


def families_of(registry: CollectorRegistry) -> list[Family]:
    """Return the metrics of this process."""
    return [
        Family(each.name, each.type, each.documentation, [Sample(*found[:3]) for found in each.samples])
        for each in registry.collect()
    ]


class MergedMetrics:
    """Adds up the metrics of processes. Counters and histograms of a process that has ended stay in the sums."""

    def __init__(self) -> None:
        self._ended: dict[str, tuple[Family, dict[_Series, float]]] = {}

    def note_end(self, last: Sequence[Family]) -> None:
        """Keep what a process that has ended last counted. Its gauges are over."""
        for family in last:
            if family.kind != _GAUGE:
                _, values = self._ended.setdefault(family.name, (family, {}))
                _add(values, family)

    def exposition(self, processes: Iterable[Sequence[Family]]) -> bytes:
        """Return the metrics of these processes, and of those that have ended, in Prometheus' text format."""
        merged = {name: (family, dict(values)) for name, (family, values) in self._ended.items()}
        for families in processes:
            for family in families:
                _, values = merged.setdefault(family.name, (family, {}))
                _add(values, family)
        registry = CollectorRegistry()
        registry.register(_Collected(merged))
        return generate_latest(registry)


class _Collected:
    """A collector of prometheus_client."""

    def __init__(self, merged: Mapping[str, tuple[Family, Mapping[_Series, float]]]) -> None:
        self._merged = merged

    def collect(self) -> Iterator[Metric]:
        for family, values in self._merged.values():
            metric = Metric(family.name, family.meaning, family.kind)
            for (name, labels), value in values.items():
                metric.add_sample(name, dict(labels), value)
            yield metric


def _add(values: dict[_Series, float], family: Family) -> None:
    for sample in family.samples:
        series = (sample.name, tuple(sample.labels.items()))
        before = values.get(series)
        if before is None:
            values[series] = sample.value
        elif sample.name.endswith(_CREATED_SUFFIX):
            values[series] = min(before, sample.value)
        elif family.name in _LARGEST:
            values[series] = max(before, sample.value)
        else:
            values[series] = before + sample.value
