"""The TypeScript SDK: the current major version, and version 4, which follows the other cursor."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.clients.reading import typescript_sdk, typescript_sdk_v4
from tests.clients.sdk_contract import ReadsMoreOfV2, ReadsV1, ReadsV2, ShowsErrors


class _Errors(ShowsErrors):
    reads = "v2"
    kinds: ClassVar[dict[int, str]] = {
        400: "BadRequestError",
        401: "AuthenticationError",
        403: "PermissionDeniedError",
        404: "NotFoundError",
    }


@pytest.mark.parametrize("client", [typescript_sdk], indirect=True)
class TestTypeScriptSdk(ReadsV2, ReadsMoreOfV2, ReadsV1, _Errors):
    pass


@pytest.mark.parametrize("client", [typescript_sdk_v4], indirect=True)
class TestTypeScriptSdk4(ReadsV2, ReadsV1, _Errors):
    pass
