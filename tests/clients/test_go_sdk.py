"""The Go SDK, current and before version 2."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.clients.reading import go_sdk, go_sdk_v0
from tests.clients.sdk_contract import ReadsMoreOfV2, ReadsV1, ReadsV2, ShowsErrors


@pytest.mark.parametrize("client", [go_sdk], indirect=True)
class TestGoSdk(ReadsV2, ReadsMoreOfV2, ReadsV1, ShowsErrors):
    reads = "v2"
    kinds: ClassVar[dict[int, str]] = dict.fromkeys((400, 401, 403, 404), "*apierror.Error")


@pytest.mark.parametrize("client", [go_sdk_v0], indirect=True)
class TestGoSdkBeforeVersion2(ReadsV1, ShowsErrors):
    kinds: ClassVar[dict[int, str]] = {
        400: "RequestError",
        401: "AuthorizationError",
        403: "AuthenticationError",
        404: "NotFoundError",
    }
