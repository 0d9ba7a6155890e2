"""docs/metrics.md, made from the table of metrics: `python -m schemas.metrics_page > docs/metrics.md`."""

from __future__ import annotations

import sys

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from schemas.metric_defs import MetricDef, definitions

_HEAD = """# Metrics

Each process serves its metrics at `/metrics` of its operations address, in Prometheus' text format. `auditap up` serves those of each part at
the part's own address, by default: `collect` on port 8400, `serve` on 8401, `ingest` on 8402, `alerting` on 8405. A histogram has the series
`_bucket`, `_sum` and `_count`. No label holds a value taken from traffic. This page is made from
[schemas/metric_defs.py](../schemas/metric_defs.py) (`python -m schemas.metrics_page > docs/metrics.md`).

| metric | type | exposed by `auditap …` | labels | meaning |
| --- | --- | --- | --- | --- |
"""


def markdown() -> str:
    """Return the page: one row a metric, in the order of the table."""
    return _HEAD + "".join(map(_row, definitions()))


def _row(definition: MetricDef[MetricWrapperBase]) -> str:
    name = definition.name + "_total" if definition.kind is Counter else definition.name
    labels = ", ".join(f"`{label}`" for label in definition.labels)
    kind = definition.kind.__name__.lower()
    return f"| `{name}` | {kind} | {', '.join(definition.commands)} | {labels} | {definition.meaning} |\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
