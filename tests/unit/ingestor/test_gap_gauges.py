"""What the gap ledger counts, as metrics."""

from __future__ import annotations

from ingestor.config import GapLedgerWaits
from ingestor.gap_gauges import GapCounts, GapGauges
from schemas.metric_defs import Metrics


class CountedLedger:
    """A gap ledger that counts as it was given."""

    async def refresh_gap_ledger(self, waits: GapLedgerWaits) -> GapCounts:
        return GapCounts(1, 2, 3, 4, 5, 6, 7)


async def test_each_state_of_taps_has_its_gauge() -> None:
    metrics = Metrics()
    await GapGauges(CountedLedger(), GapLedgerWaits(), metrics).refresh()
    names = ("alive", "expired", "unnumbered", "surplus", "retired")
    found = {name: metrics.registry.get_sample_value("auditap_taps", {"state": name}) for name in names}
    assert found == {"alive": 1, "expired": 2, "unnumbered": 3, "surplus": 6, "retired": 7}
    assert metrics.registry.get_sample_value("auditap_gaps_open") == 4
    assert metrics.registry.get_sample_value("auditap_captures_missing") == 5
