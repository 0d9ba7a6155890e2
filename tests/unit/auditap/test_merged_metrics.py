from __future__ import annotations

import re

from auditap.runtime.merged_metrics import MergedMetrics, families_of
from schemas.metric_defs import Metrics


def value(page: bytes, series: str) -> float:
    found = re.search(rf"(?m)^{re.escape(series)} (\S+)$", page.decode())
    assert found, page.decode()
    return float(found[1])


def counted(captures: int, refused: int = 0, *, connections: int = 0, oldest_s: float = 0) -> Metrics:
    metrics = Metrics("collect")
    metrics.captures_accepted.inc(captures)
    if refused:
        metrics.captures_refused.labels("too_large").inc(refused)
    metrics.http_connections.labels("unix").set(connections)
    metrics.spool_oldest_event_age_seconds.set(oldest_s)
    metrics.publish_duration_seconds.observe(0.3)
    return metrics


def test_counters_histograms_and_gauges_are_added_up_and_ages_are_those_of_the_oldest() -> None:
    one = families_of(counted(3, 1, connections=4, oldest_s=9).registry)
    other = families_of(counted(4, connections=5, oldest_s=2).registry)
    page = MergedMetrics().exposition([one, other])
    assert value(page, "auditap_captures_accepted_total") == 7
    assert value(page, 'auditap_captures_refused_total{reason="too_large"}') == 1
    assert value(page, 'auditap_http_connections{listener="unix"}') == 9
    assert value(page, "auditap_spool_oldest_event_age_seconds") == 9
    assert value(page, 'auditap_publish_duration_seconds_bucket{le="0.25"}') == 0
    assert value(page, 'auditap_publish_duration_seconds_bucket{le="0.5"}') == 2
    assert value(page, "auditap_publish_duration_seconds_count") == 2
    assert page.decode().count("# TYPE auditap_captures_accepted_total counter") == 1


def test_what_a_process_counted_stays_when_it_has_ended_and_what_it_had_does_not() -> None:
    merged = MergedMetrics()
    other = families_of(counted(4, connections=5).registry)
    for captures in (3, 2):
        merged.note_end(families_of(counted(captures, connections=4).registry))
    page = merged.exposition([other])
    assert value(page, "auditap_captures_accepted_total") == 9
    assert value(page, "auditap_publish_duration_seconds_count") == 3
    assert value(page, 'auditap_http_connections{listener="unix"}') == 5
    assert merged.exposition([other]) == page


def test_the_time_at_which_counting_began_is_the_first() -> None:
    first, second = counted(1), counted(1)
    began = [
        next(each.value for each in family.samples if each.name.endswith("_created"))
        for metrics in (first, second)
        for family in families_of(metrics.registry)
        if family.name == "auditap_captures_accepted"
    ]
    page = MergedMetrics().exposition([families_of(second.registry), families_of(first.registry)])
    assert value(page, "auditap_captures_accepted_created") == min(began)
