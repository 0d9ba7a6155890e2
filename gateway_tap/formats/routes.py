"""Which format each of the collector's routes takes. A format that is pushed over HTTP has its line here."""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway_tap.formats.own import OWN
from gateway_tap.formats.port import GatewayFormat


class CaptureRoute(NamedTuple):
    """A route for captures in one format."""

    path: str
    format: GatewayFormat


CAPTURE_ROUTES: Final = (CaptureRoute("/v1/captures", OWN),)
