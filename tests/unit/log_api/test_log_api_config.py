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
        {"page_records_max": 0},
        {"page_records_max": 1001},
        {"statement_timeout_ms": 0},
        {"connections_max": -1},
        {"product_categories": {"Messaging": ProductCategory("Messaging", {"queues": "Queues"})}},
        {"organizations": {"acme": ()}},
        {"requests_per_s": 0},
    ],
)
def test_a_value_that_cannot_work_is_one_sentence(change: dict[str, Any]) -> None:
    with pytest.raises(StartupError) as refused:
        LogApiConfig(**{"cursor_key": b"k" * 32, **change})
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_the_key_is_not_shown() -> None:
    assert "kkkk" not in repr(LogApiConfig(cursor_key=b"k" * 32))
