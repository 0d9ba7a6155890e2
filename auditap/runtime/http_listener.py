"""A listening socket: accepts connections within limits, so that one sender cannot keep out others.

The loops' own servers accept until descriptors are used up. From then on uvloop's closes every new connection, of any
listener, without a word.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import structlog

from auditap.runtime.connection_share import ConnectionShare
from auditap.runtime.http_connection import ConnectionOwner, HttpConnection
from auditap.runtime.http_limits import EndReason, HttpLimits, RefusalReason
from gateway_tap.unix_socket import PEER_UID, peer_uid
from schemas.metric_defs import Metrics

ListenerName = Literal["tcp", "unix", "health"]
MakeConnection = Callable[[dict[str, Any], ConnectionOwner], HttpConnection]
"""Makes the protocol of a connection, given the state of its requests."""

_log = structlog.get_logger("http")
# Others get their turn in between.
_ACCEPTS_AT_ONCE: Final = 32
_PAUSE_S: Final = 0.1
# Long enough for a process that runs to accept a connection, and too short for who connects to notice.
_YIELD_S: Final = 0.002
_LOG_INTERVAL_S: Final = 60


class _Place(NamedTuple):
    """What a connection takes: one of the places of its address, and a task until it is handed over."""

    address: str | None
    opening: asyncio.Task[None]


class HttpListener:
    """Accepts connections on one socket. uvicorn closes it as it would a server of asyncio."""

    def __init__(
        self,
        listening: socket.socket,
        name: ListenerName,
        *,
        limits: HttpLimits,
        descriptors_below: int,
        metrics: Metrics,
        tls: ssl.SSLContext | None,
        make: MakeConnection,
        share: ConnectionShare | None = None,
    ) -> None:
        """`descriptors_below`: connections with a higher descriptor are not accepted. `share`: where other processes accept
        from the same socket, which of the connections are for this one.
        """
        self._socket = listening
        self._name = name
        self._limits = limits
        self._connections_max = min(limits.connections_max, descriptors_below)
        self._descriptors_below = descriptors_below
        self._metrics = metrics
        self._tls = tls
        self._make = make
        self._share = share
        self._loop = asyncio.get_running_loop()
        self._places: dict[HttpConnection, _Place] = {}
        self._by_address: Counter[str] = Counter()
        # In the order in which they began to wait for a request.
        self._waiting: dict[HttpConnection, None] = {}
        self._openings: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._logged_s = -float(_LOG_INTERVAL_S)

    def start(self) -> None:
        """Accept connections."""
        self._socket.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Accept no more connections, and end those that are not handed over yet."""
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._socket)
        for opening in self._openings:
            opening.cancel()

    async def wait_closed(self) -> None:
        """Return once no connection is being handed over."""
        await asyncio.gather(*self._openings, return_exceptions=True)

    def abort(self) -> None:
        """End every connection."""
        for connection in list(self._places):
            if connection.is_open:
                connection.transport.abort()

    def check(self) -> None:
        """End the connections whose time is up."""
        now_s = self._loop.time()
        for connection in list(self._places):
            if connection.is_open:
                connection.check(now_s)

    def began_to_wait(self, connection: HttpConnection) -> None:
        self._waiting.pop(connection, None)
        if connection in self._places:
            self._waiting[connection] = None

    def stopped_waiting(self, connection: HttpConnection) -> None:
        self._waiting.pop(connection, None)

    def ended(self, reason: EndReason) -> None:
        self._metrics.http_connections_ended.labels(self._name, reason).inc()

    def lost(self, connection: HttpConnection) -> None:
        self._waiting.pop(connection, None)
        place = self._places.pop(connection, None)
        if place is None:
            return
        if place.address is not None:
            self._by_address[place.address] -= 1
            if not self._by_address[place.address]:
                del self._by_address[place.address]
        self._note_places(-1)

    def is_surplus(self) -> bool:
        """See `ConnectionOwner.is_surplus`."""
        return self._share is not None and self._share.sheds_one(self._loop.time())

    def _note_places(self, change: int) -> None:
        if self._share is not None:
            self._share.add(change)
        self._metrics.http_connections.labels(self._name).set(len(self._places))

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._socket, self._accept)

    def _yield(self) -> None:
        """Leave the next connection to a process that has fewer; take it a moment later, if that one has not."""
        self._loop.remove_reader(self._socket)
        self._paused = self._loop.call_later(_YIELD_S, self._resume_after_yield)

    def _resume_after_yield(self) -> None:
        self._resume()
        self._accept(takes_first=True)

    def _accept(self, *, takes_first: bool = False) -> None:
        for number in range(_ACCEPTS_AT_ONCE):
            is_taken = takes_first and not number
            if self._share is not None and not is_taken and not self._share.is_ours:
                self._yield()
                return
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue
            except OSError:
                self._wait_for_descriptors()
                return
            self._admit(accepted, address_key(address))

    def _wait_for_descriptors(self) -> None:
        """Accept again a moment later, when there is room. Until then the loop would report the connection at every turn."""
        self._metrics.http_connections_refused.labels(self._name, RefusalReason.DESCRIPTORS).inc()
        now_s = time.monotonic()
        if now_s - self._logged_s >= _LOG_INTERVAL_S:
            self._logged_s = now_s
            _log.error(
                "no_descriptors", listener=self._name, hint="raise the limit of open files (ulimit -n)"
            )
        self._loop.remove_reader(self._socket)
        self._paused = self._loop.call_later(_PAUSE_S, self._make_room_and_resume)

    def _make_room_and_resume(self) -> None:
        # Only now, so that those accepted last had time to send a request.
        self._displace_one()
        self._resume()

    def _admit(self, accepted: socket.socket, address: str | None) -> None:
        refusal = self._make_room(accepted.fileno(), address)
        if refusal is not None:
            self._metrics.http_connections_refused.labels(self._name, refusal).inc()
            accepted.close()
            return
        accepted.setblocking(False)
        state: dict[str, Any] = {}
        if accepted.family == socket.AF_UNIX:
            state[PEER_UID] = peer_uid(accepted)
        else:
            # Without it, responses wait for acknowledgements.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self._make(state, self)
        opening = self._loop.create_task(self._open(connection, accepted))
        self._openings.add(opening)
        # And not in the task itself: one that is cancelled before its first step runs none of its code.
        opening.add_done_callback(partial(self._opened, connection, accepted))
        self._places[connection] = _Place(address, opening)
        self._waiting[connection] = None
        if address is not None:
            self._by_address[address] += 1
        self._note_places(1)

    def _make_room(self, descriptor: int, address: str | None) -> RefusalReason | None:
        """Displace a connection if a new one needs its place. Return why there is none, if so."""
        if address is not None and self._by_address[address] >= self._limits.connections_per_address_max:
            same = (each for each in self._waiting if self._places[each].address == address)
            return None if self._displace(next(same, None)) else RefusalReason.ADDRESS
        if len(self._places) >= self._connections_max:
            return None if self._displace_one() else RefusalReason.CONNECTIONS
        if descriptor >= self._descriptors_below:
            return None if self._displace_one() else RefusalReason.DESCRIPTORS
        return None

    def _displace_one(self) -> bool:
        """Close the connection that waits longest among those of the address that has most, and return whether one waits.

        If only waiting time counted, a client that reconnects fast from a few addresses would displace everybody else.
        """
        return self._displace(max(self._waiting, key=self._of_same_address, default=None))

    def _of_same_address(self, connection: HttpConnection) -> int:
        address = self._places[connection].address
        return 0 if address is None else self._by_address[address]

    def _displace(self, connection: HttpConnection | None) -> bool:
        """Close a connection that waits, and return whether there is one."""
        if connection is None:
            return False
        opening = self._places[connection].opening
        self.lost(connection)
        if connection.is_open:
            connection.displace()
        else:
            self.ended(EndReason.DISPLACED)
            opening.cancel()
        return True

    async def _open(self, connection: HttpConnection, accepted: socket.socket) -> None:
        """Hand an accepted connection over to its protocol, with TLS after the handshake."""
        limit_s = None if self._tls is None else self._limits.handshake_ms_max / 1000
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=limit_s
            )
        except OSError:
            # TLS errors and time limits are of this type.
            self.ended(EndReason.TLS_HANDSHAKE)

    def _opened(
        self, connection: HttpConnection, accepted: socket.socket, opening: asyncio.Task[None]
    ) -> None:
        self._openings.discard(opening)
        if not connection.is_open:
            accepted.close()
            self.lost(connection)


def address_key(address: Any) -> str | None:
    """Return what counts as one address: IPv4 as it is, IPv6 by its first 64 bits, which one customer has; None for a Unix socket.

    `address`: of a peer, as `socket.accept` returns it.
    """
    if not isinstance(address, tuple):
        return None
    host = address[0].partition("%")[0]
    if ":" not in host:
        return str(host)
    parsed = ipaddress.IPv6Address(host)
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else parsed.packed[:8].hex()
