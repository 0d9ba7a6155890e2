"""What a start says about wrong settings."""

from __future__ import annotations

import pytest

from auditap.settings import load_settings
from schemas.errors import StartupError


def mistake(**overrides: object) -> str:
    """Load the settings, which must fail, and return the sentences."""
    with pytest.raises(StartupError) as caught:
        load_settings(**overrides)
    return str(caught.value)
