"""Which format each of the collector's routes takes. A format that is pushed over HTTP has its line here."""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway_tap.formats.apisix import APISIX
from gateway_tap.formats.kong import KONG
from gateway_tap.formats.own import OWN
from gateway_tap.formats.port import GatewayFormat
from gateway_tap.formats.tyk import TYK


class CaptureRoute(NamedTuple):
    """A route for captures in one format. `scheme`: how its senders present their token in `Authorization`, in lower case."""

    path: str
    format: GatewayFormat
    scheme: str = "bearer"


CAPTURE_ROUTES: Final = (
    CaptureRoute("/v1/captures", OWN),
    CaptureRoute("/v1/captures/kong", KONG),
    CaptureRoute("/v1/captures/apisix", APISIX),
    CaptureRoute("/v1/captures/tyk", TYK, "splunk"),
    # Tyk's pump replaces the path of the address that it is given by this one.
    CaptureRoute("/services/collector/event/1.0", TYK, "splunk"),
)
