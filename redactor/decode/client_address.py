"""The client's address where proxies stand before the tap: read from the header that they write, and only from theirs.

Each proxy appends the address that its own connection came from, so the right end of the chain was written by the proxy
nearest to the tap, and the left end by whoever sent the request. The chain is therefore read from the right, and only as
far as the addresses in it are trusted proxies.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from schemas.addresses import parse_address, unmapped_network

X_FORWARDED_FOR: Final = "x-forwarded-for"
FORWARDED: Final = "forwarded"
UNUSABLE: Final = "unusable"
"""Stands for the address where the chain cannot be read. It is no address, so that it is refused like any other text."""
HOPS_MAX: Final = 32
"""No request passes through more proxies; a longer chain is made up."""
_ELEMENT_CHARS_MAX: Final = 1_024
_TRUSTED_MAX: Final = 4_096
_CLIENTS_MAX: Final = 8_192
_PAIR: Final = re.compile(r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:\"([^\"\\]*)\"|([^\",;\s]+))[ \t]*(?:;|$)")


class ClientAddresses:
    """Finds who sent a request, by the address of the tap's peer and the header that trusted proxies write."""

    def __init__(self, header: str, trusted_proxies: Sequence[str]) -> None:
        """`header`: `x-forwarded-for`, `forwarded`, or one that holds a single address. `trusted_proxies`: networks.

        Raises ValueError for what is no network.
        """
        self.header = header
        self._networks = tuple(unmapped_network(ipaddress.ip_network(each)) for each in trusted_proxies)
        self._trusted: set[str] = set()
        # The addresses that were recorded, by their text in the header.
        self._clients: dict[str, str] = {}

    def of(self, peer: str | None, lines: str | Sequence[str]) -> str | None:
        """Return the address to record: the peer's unless it is a trusted proxy, else the client's by its header.

        `lines`: the header's values in their order; none where it is absent, and then the peer's own address counts.
        Returns UNUSABLE where the header of a trusted proxy cannot be read. A client cannot cause that, unless it is itself
        a trusted proxy, because the proxy that it connects to appends its address.
        """
        if peer is None or not self.trusts(peer):
            return peer
        values = (lines,) if isinstance(lines, str) else lines
        if self.header not in (X_FORWARDED_FOR, FORWARDED):
            return _single(values) if values else peer
        return self._first_untrusted(values, peer)

    def _first_untrusted(self, values: Sequence[str], peer: str) -> str:
        found = peer
        for text in _from_the_right(values, in_pairs=self.header == FORWARDED):
            if text is None:
                return UNUSABLE
            found = text
            if text not in self._trusted:
                client = self._clients.get(text)
                if client is not None:
                    return client
                address = parse_address(text)
                if address is None:
                    return UNUSABLE
                if not self._is_in_networks(text, address):
                    return self._remembered(text, str(address))
        return found

    def _remembered(self, text: str, client: str) -> str:
        if len(self._clients) >= _CLIENTS_MAX:
            self._clients.clear()
        self._clients[text] = client
        return client

    def trusts(self, text: str) -> bool:
        """Whether this is the address of a trusted proxy."""
        if text in self._trusted:
            return True
        address = parse_address(text)
        return address is not None and self._is_in_networks(text, address)

    def _is_in_networks(self, text: str, address: IPv4Address | IPv6Address) -> bool:
        """Whether an address, written as `text`, is a trusted proxy's; such a text is remembered."""
        if not any(address in network for network in self._networks):
            return False
        if len(self._trusted) >= _TRUSTED_MAX:
            self._trusted.clear()
        self._trusted.add(text)
        return True


def _single(values: Sequence[str]) -> str:
    address = parse_address(values[0].strip(" \t")) if len(values) == 1 else None
    return UNUSABLE if address is None else str(address)


def _from_the_right(values: Sequence[str], *, in_pairs: bool) -> Iterator[str | None]:
    """Yield the chain's addresses as they are written, the nearest proxy's first; None where it cannot be read on.

    `in_pairs`: the elements are those of `Forwarded` (RFC 7239), each a list of `name=value`.
    """
    elements = 0
    for line in reversed(values):
        end = len(line)
        while end >= 0:
            elements += 1
            start = _element_start(line, end) if in_pairs else line.rfind(",", 0, end) + 1
            if elements > HOPS_MAX or start < 0:
                yield None
                return
            element = line[start:end].strip(" \t")
            end = start - 1
            # A list may have empty elements (RFC 9110, 5.6.1).
            if element:
                yield _forwarded_for(element) if in_pairs else element


def _element_start(line: str, end: int) -> int:
    """Return where the last element before `end` starts, whose quoted texts may hold commas; -1 where it is too long.

    Looked for from the right, so that a quote which a client left open hides nothing of what its proxy appended.
    """
    is_quoted = False
    for index in range(end - 1, max(end - _ELEMENT_CHARS_MAX, 0) - 1, -1):
        char = line[index]
        if char == '"':
            is_quoted = not is_quoted
        elif char == "," and not is_quoted:
            return index + 1
    return 0 if end <= _ELEMENT_CHARS_MAX else -1


def _forwarded_for(element: str) -> str | None:
    """Return the `for` of an element of `Forwarded`; None where it has not exactly one, or is malformed."""
    found: list[str] = []
    position = 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is None:
            return None
        if pair[1].lower() == "for":
            found.append(pair[3] if pair[2] is None else pair[2])
        position = pair.end()
    return found[0] if len(found) == 1 else None
