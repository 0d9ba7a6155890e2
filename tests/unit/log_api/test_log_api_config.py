from __future__ import annotations

from typing import Any

import pytest

from log_api.config import LogApiConfig, ProductCategory
from schemas.errors import StartupError


@pytest.mark.parametrize(
    "change",
    [
        {"cursor_key": b"k" * 31},
        {"prefix": "client/v4"},
        {"prefix": "/client/v4/"},
        {"prefix": "/"},
        {"prefix": "/{tenant}"},
        {"prefix": "/client//v4"},
        {"prefix": "/../v4"},
        {"prefix": "/client/v4?"},
        {"prefix": "/client v4"},
        {"prefix": "/client%20v4"},
        {"product_categories": {"messaging": ProductCategory("Messaging", {})}},
        {"statement_timeout_ms": 0},
        {"connections_max": -1},
        {"product_categories": {"Messaging": ProductCategory("Messaging", {"queues": "Queues"})}},
        {"organizations": {"acme": ()}},
        {"requests_per_s": 0},
    ],
)
def test_an_invalid_value_is_reported_in_one_sentence(change: dict[str, Any]) -> None:
    with pytest.raises(StartupError) as refused:
        LogApiConfig(**{"cursor_key": b"k" * 32, **change})
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_the_cursor_key_is_not_in_the_repr() -> None:
    assert "kkkk" not in repr(LogApiConfig(cursor_key=b"k" * 32))
