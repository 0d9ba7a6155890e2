"""The search is what the canary test rests on: it finds a token in every form in which a value could hide."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.canary.tokens import Mint, secrets_in, shown_in

TEXT = Mint().secret_text("test")
NUMBER = str(Mint().secret_number("test"))

FORMS: dict[str, Callable[[str], bytes]] = {
    "as it is": lambda token: token.encode(),
    "upper case": lambda token: token.upper().encode(),
    "percent-encoded": lambda token: "".join(f"%{ord(each):02X}" for each in token).encode(),
    "percent-encoded three times": lambda token: quote(
        quote("".join(f"%{ord(each):02x}" for each in token))
    ).encode(),
    "escaped in JSON": lambda token: "".join(f"\\u{ord(each):04x}" for each in token).encode(),
    "escaped in a repr": lambda token: "".join(f"\\x{ord(each):02x}" for each in token).encode(),
    "hex": lambda token: token.encode().hex().encode(),
    "hex in upper case": lambda token: token.encode().hex().upper().encode(),
    "base64": lambda token: base64.b64encode(token.encode()),
    "base64, shifted by one": lambda token: base64.b64encode(b"a" + token.encode()),
    "base64, shifted by two": lambda token: base64.urlsafe_b64encode(b"ab" + token.encode()),
    "base64 of JSON": lambda token: base64.b64encode(json.dumps({"name": token}).encode()),
    "UTF-16": lambda token: token.encode("utf-16"),
    "UTF-16, big-endian": lambda token: token.encode("utf-16-be"),
}


@pytest.mark.parametrize("token", [TEXT, NUMBER], ids=["text", "number"])
@pytest.mark.parametrize("form", FORMS)
def test_a_token_is_found_in_every_form(form: str, token: str) -> None:
    assert secrets_in(b'{"before": 1, "x": "' + FORMS[form](token) + b'"}')


def test_a_number_is_found_as_a_float() -> None:
    assert secrets_in(json.dumps({"x": float(NUMBER) * 1e20}).encode())
    assert secrets_in(f"{float(NUMBER):.0f}".encode())


def test_what_may_leave_is_no_find_and_is_found_as_it_is() -> None:
    mint = Mint()
    text, number = mint.shown_text("kept"), str(mint.shown_number("kept"))
    written = f'{{"{text}": {number}, "hex": "{text.encode().hex()}"}}'.encode()
    assert secrets_in(written) == set()
    assert shown_in(written) == {text, number} == set(mint.shown)


def test_ids_digests_and_times_are_no_finds() -> None:
    assert (
        secrets_in(b"0197a1b2c3d470008000000000000001 2026-01-23T18:25:14.749Z " + bytes(range(256))) == set()
    )
