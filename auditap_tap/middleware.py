"""What the middlewares share: their settings, checked once, and the tap's run in this process."""

from __future__ import annotations

import atexit
import os
import re
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Generic, TypeVar

from .buffer import TapStats
from .capture import HeaderSelection
from .client import CollectorAddress
from .client import request_headers as headers_of_requests
from .config import (
    DEFAULT_STATE_DIR,
    METHODS_WITHOUT_BODIES,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    TapConfig,
)
from .run import TapRun

_App = TypeVar("_App")
_PATH = re.compile(r"/.*", re.DOTALL)
# A service may take these for other characters or for steps to another folder, however often they are encoded.
_AMBIGUOUS: Final = re.compile(
    r"//|/\.{1,2}(?:/|$)|[\\;\x00-\x20\x7f]|%(?:[01][0-9a-f]|2[05ef]|3b|5c|7f|u)", re.IGNORECASE
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a header's name, or a method
_TAP_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]{0,63}")
_LEASE_MS_MIN: Final = 100
_LEASE_MS_MAX: Final = 86_400_000


class TapMiddleware(Generic[_App]):
    """The settings of a middleware around `app`, and the run that it belongs to.

    - `collector`: `unix:/path/collector.sock`, `http://127.0.0.1:8400` (loopback only) or `https://host:port`.
    - `tap_id`: the name of this service among the taps. `token`: the bearer token, required over TCP.
      `ssl_context`: for https; by default the system's certificate authorities. `plain_http_allowed`: http to other hosts
      too, for where a mesh or a proxy of this host encrypts.
    - `queue_bytes_max`: bytes of all pairs in memory, waiting or being sent. `body_bytes_max`: a longer body is not
      copied, and marked `truncated`.
    - `batch_pairs_max`, `batch_bytes_max`: when a batch is full. `linger_ms`: how long the first pair of a batch waits
      for more.
    - `timeout_ms`: for one response of the collector. `retry_ms_max`: how long one batch is retried. `close_ms_max`: how
      long `close` may take to send what is left.
    - `heartbeat_ms`: the interval of heartbeats. `lease_ms`: a tap counts as gone after so long without one.
    - `state_dir`: a folder on a local disk, where each run keeps its highest sequence number in a state file. With None,
      or with a folder that cannot be used, a crash leaves the number of missing captures unknown.
    - `compress`: gzip what is sent.
    - `exclude_paths`: these paths, and all below them, are not tapped. A path that a service may read as another one, such as
      `/health/../orders`, is tapped.
    - `request_headers`, `response_headers`: names of headers to copy besides REQUEST_HEADERS and RESPONSE_HEADERS;
      `x-tenant-*` stands for all with that prefix. No other header is ever copied, cookies and authorization included. A
      header with a signed token that says who acts, such as `cf-access-jwt-assertion`, has to be named here.
    - `methods_without_bodies`: no body of a request with one of these methods, nor of its response, is copied.

    Raises ValueError, one sentence, if a setting is wrong.
    """

    def __init__(
        self,
        app: _App,
        *,
        collector: str,
        tap_id: str,
        token: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        plain_http_allowed: bool = False,
        queue_bytes_max: int = 64 * 1024 * 1024,
        body_bytes_max: int = 256 * 1024,
        batch_pairs_max: int = 100,
        batch_bytes_max: int = 4 * 1024 * 1024,
        linger_ms: int = 50,
        timeout_ms: int = 5_000,
        retry_ms_max: int = 300_000,
        close_ms_max: int = 2_000,
        heartbeat_ms: int = 5_000,
        lease_ms: int = 30_000,
        state_dir: str | os.PathLike[str] | None = DEFAULT_STATE_DIR,
        compress: bool = False,
        exclude_paths: Iterable[str] = (),
        request_headers: Iterable[str] = (),
        response_headers: Iterable[str] = (),
        methods_without_bodies: Iterable[str] = METHODS_WITHOUT_BODIES,
    ) -> None:
        if not _TAP_ID.fullmatch(tap_id):
            raise ValueError(
                "tap_id must be 1 to 64 letters, digits and _ . : - and begin with one of the first two"
            )
        if not 0 < heartbeat_ms < lease_ms <= _LEASE_MS_MAX or lease_ms < _LEASE_MS_MIN:
            raise ValueError("lease_ms must be 100 to 86400000, and heartbeat_ms less than it")
        excluded = _listed("exclude_paths", exclude_paths, _PATH)
        more_of_request = _listed("request_headers", request_headers, _TOKEN)
        more_of_response = _listed("response_headers", response_headers, _TOKEN)
        without_bodies = _listed("methods_without_bodies", methods_without_bodies, _TOKEN)
        self._app = app
        self._config = TapConfig(
            address=CollectorAddress.parse(
                collector, ssl_context, timeout_ms / 1000, plain_http_allowed=plain_http_allowed
            ),
            tap_id=tap_id,
            headers=headers_of_requests(token, compress=compress),
            queue_bytes_max=queue_bytes_max,
            body_bytes_max=body_bytes_max,
            batch_pairs_max=batch_pairs_max,
            batch_bytes_max=batch_bytes_max,
            linger_s=linger_ms / 1000,
            retry_s_max=retry_ms_max / 1000,
            close_s_max=close_ms_max / 1000,
            heartbeat_s=heartbeat_ms / 1000,
            lease_ms=lease_ms,
            state_dir=None if state_dir is None else Path(state_dir),
            compress=compress,
            request_headers=HeaderSelection((*REQUEST_HEADERS, *more_of_request)),
            response_headers=HeaderSelection((*RESPONSE_HEADERS, *more_of_response)),
            methods_without_bodies=frozenset(map(str.upper, without_bodies)),
        )
        if token is None and self._config.address.path is None:
            raise ValueError("token is required over TCP, where collectors refuse captures without one")
        self._excluded = tuple(path.rstrip("/") for path in excluded)
        self._run: TapRun | None = None
        self._failed = 0

    @property
    def stats(self) -> TapStats:
        """Counts since the tap's run in this process began."""
        run = self._run
        stats = run.buffer.stats() if run is not None else TapStats()
        return stats._replace(failed=stats.failed + self._failed)

    def start(self) -> None:
        """Start the tap in this process, unless it runs, so that heartbeats come before the first request.

        For servers that send no lifespan scope. Raises nothing.
        """
        try:
            self._current_run()
        except Exception:  # noqa: BLE001  # the user's service starts without the tap
            self._failed += 1

    def close(self) -> None:
        """Send what is left, for `close_ms_max` at most, and stop. A later request starts the tap again."""
        run = self._run
        if run is not None and run.pid == os.getpid():
            run.close()
            atexit.unregister(self.close)

    def _is_excluded(self, path: str) -> bool:
        if not any(path == below or path.startswith(f"{below}/") for below in self._excluded):
            return False
        return _AMBIGUOUS.search(path) is None

    def _count_failed(self) -> None:
        self._failed += 1

    def _current_run(self) -> TapRun:
        """Return this process's run; start one if there is none, after `close`, and in a forked process."""
        run = self._run
        # Threads do not survive a fork, and two processes must not assign numbers in one epoch.
        if run is None or run.closed or run.pid != os.getpid():
            if run is not None and run.pid != os.getpid():
                run.detach_from_parent()
            run = self._run = TapRun(self._config)
            # Registered once, however often the tap is closed and started again.
            atexit.unregister(self.close)
            atexit.register(self.close)
        return run


def _listed(setting: str, given: Iterable[str], syntax: re.Pattern[str]) -> tuple[str, ...]:
    """Return what a list of texts holds. Raises ValueError for a single text, and for one that no request could match."""
    listed = tuple(given)
    if isinstance(given, str) or not all(map(syntax.fullmatch, listed)):
        what = "paths that begin with a slash" if syntax is _PATH else "names"
        raise ValueError(f"{setting} must be a list of {what}")
    return listed
