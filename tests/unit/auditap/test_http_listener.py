from __future__ import annotations

from typing import Any

import pytest

from auditap.runtime.http_listener import address_key


@pytest.mark.parametrize(
    ("address", "key"),
    [
        (("203.0.113.9", 5), "203.0.113.9"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "20010db800010002"),
        (("2001:db8:1:2::1", 6, 0, 0), "20010db800010002"),
        (("2001:db8:1:3::1", 6, 0, 0), "20010db800010003"),
        (("fe80::1%eth0", 5, 0, 2), "fe80000000000000"),
        (("::ffff:203.0.113.9", 5, 0, 0), "203.0.113.9"),
        ("", None),
        (b"\0abstract", None),
    ],
)
def test_an_address_is_what_one_sender_has(address: Any, key: str | None) -> None:
    assert address_key(address) == key
