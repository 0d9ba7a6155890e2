"""The Python SDK: the current major version, the one before, and version 2, which is another program."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.clients.reading import python_sdk, python_sdk_v2, python_sdk_v4
from tests.clients.sdk_contract import ReadsV1, ReadsV2, ShowsErrors


@pytest.mark.parametrize("client", [python_sdk, python_sdk_v4], indirect=True)
class TestPythonSdk(ReadsV2, ReadsV1, ShowsErrors):
    reads = "v2"
    kinds: ClassVar[dict[int, str]] = {
        400: "BadRequestError",
        401: "AuthenticationError",
        403: "PermissionDeniedError",
        404: "NotFoundError",
    }


@pytest.mark.parametrize("client", [python_sdk_v2], indirect=True)
class TestPythonSdk2(ReadsV1, ShowsErrors):
    kinds: ClassVar[dict[int, str]] = dict.fromkeys((400, 401, 403, 404), "CloudFlareAPIError")
