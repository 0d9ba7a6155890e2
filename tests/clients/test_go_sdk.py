"""The Go SDK, current and before version 2."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.clients.known_records import known_records
from tests.clients.reading import Client, go_sdk, go_sdk_v0
from tests.clients.sdk_contract import RANGE, ReadsMoreOfV2, ReadsV1, ReadsV2, ShowsErrors, target_in
from tests.clients.served_log import ServedLog


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

    async def test_what_its_user_did(self, client: Client, served: ServedLog) -> None:
        target = await target_in(served)
        records = known_records(target["account"])
        await served.add(records)
        key = await served.token(target["account"], email="one@example.com")
        found = await client.read("user", **target, **RANGE, email="one@example.com", key=key)
        assert {one["id"] for one in found} == {
            one.id.hex for one in records if one.actor_email == "one@example.com"
        }
