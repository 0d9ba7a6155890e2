"""How several workers share a run."""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadScopeScheduling

_FAULTS: Final = "tests/faults"


class WholeFiles(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker whole files, because of fixtures that a file shares; and all fault tests, which share one system.

    pytest-xdist's own `--dist loadgroup` splits files with pytest 9.1 and later: it writes the group into a part of the
    item that pytest no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _FAULTS if file.startswith(f"{_FAULTS}/") else file
