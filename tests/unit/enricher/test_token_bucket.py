from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.token_bucket import TokenBucket
from tests.fakes.clock import Clock


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0.1, 100),
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 30)), max_size=30),
)
def test_tokens_taken_never_exceed_the_burst_plus_the_rate(
    per_s: float, burst: int, steps: list[tuple[float, int]]
) -> None:
    clock = Clock(100.0)
    bucket = TokenBucket(per_s, burst, clock)
    taken: list[tuple[float, int]] = []
    for pause_s, wanted in steps:
        clock.now_s += pause_s
        taken.append((clock.now_s, sum(bucket.take() for _ in range(wanted))))
    for first, (from_s, _) in enumerate(taken):
        total = 0
        for at_s, count in taken[first:]:
            total += count
            assert total <= burst + per_s * (at_s - from_s) + 1e-6


def test_the_burst_is_available_at_once_and_then_the_rate() -> None:
    clock = Clock(100.0)
    bucket = TokenBucket(2.0, 3, clock)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.now_s += 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    clock.now_s += 1_000
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
