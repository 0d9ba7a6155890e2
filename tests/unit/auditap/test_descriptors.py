from __future__ import annotations

import resource

import pytest

from auditap.runtime.descriptors import DescriptorShares, descriptor_shares, raise_descriptor_limit
from schemas.errors import StartupError

INFINITE = resource.RLIM_INFINITY


class Limits:
    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def get(self, _which: int) -> tuple[int, int]:
        return self.now

    def set(self, _which: int, limits: tuple[int, int]) -> None:
        self.now = limits


@pytest.fixture
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Limits:
    made = Limits(*request.param)
    monkeypatch.setattr(resource, "getrlimit", made.get)
    monkeypatch.setattr(resource, "setrlimit", made.set)
    return made


@pytest.mark.parametrize(
    ("limits", "soft"),
    [
        ((1_024, 524_288), 8_192),
        ((1_024, 4_096), 4_096),
        ((1_024, INFINITE), 8_192),
        ((20_000, 20_000), 20_000),
        ((INFINITE, INFINITE), INFINITE),
    ],
    indirect=["limits"],
)
def test_the_soft_limit_is_raised_as_far_as_is_of_use(limits: Limits, soft: int) -> None:
    hard = limits.now[1]
    raise_descriptor_limit()
    assert limits.now == (soft, hard)


@pytest.mark.parametrize(
    ("limits", "shares"),
    [
        ((8_192, 8_192), DescriptorShares(7_680, 8_064)),
        ((1_024, 1_024), DescriptorShares(640, 896)),
        ((256, 256), DescriptorShares(128, 192)),
        ((INFINITE, INFINITE), DescriptorShares((1 << 30) - 512, (1 << 30) - 128)),
    ],
    indirect=["limits"],
)
def test_shares_leave_some_for_the_process(limits: Limits, shares: DescriptorShares) -> None:
    assert descriptor_shares() == shares


@pytest.mark.parametrize("limits", [(64, 64)], indirect=True)
def test_a_limit_of_nearly_nothing_ends_the_process(limits: Limits) -> None:
    with pytest.raises(StartupError, match="ulimit -n"):
        descriptor_shares()
