"""IP addresses as taps and gateways write them, each in the one form that is recorded and compared."""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::[0-9]{1,5})?")
_MAPPED_BITS = 96


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address, written with a port (`10.0.0.1:80`, `[::1]:80`) or without; None for anything else.

    An IPv4 client of a socket that listens on IPv6 (`::ffff:10.0.0.1`) has its IPv4 address.
    """
    found = _WITH_PORT.fullmatch(text)
    try:
        return unmapped(ipaddress.ip_address(text if found is None else found[1] or found[2]))
    except ValueError:
        return None


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for, or else the address itself."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def unmapped_interface(interface: IPv4Interface | IPv6Interface) -> IPv4Interface | IPv6Interface:
    """Return an address with a prefix length, with the IPv4 address that it stands for."""
    address, bits = unmapped(interface.ip), interface.network.prefixlen - _MAPPED_BITS
    if isinstance(interface, IPv6Interface) and isinstance(address, IPv4Address) and bits >= 0:
        return IPv4Interface((address, bits))
    return interface


def unmapped_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Return the IPv4 network that a network of IPv6 stands for, or else the network itself."""
    return unmapped_interface(ipaddress.ip_interface(network.with_prefixlen)).network
