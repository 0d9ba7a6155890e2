"""Whether the tests run on compiled modules (`make test-compiled`), and what cannot be tested there."""

from __future__ import annotations

import os

import pytest

IS_COMPILED = "AUDITAP_TEST_COMPILED" in os.environ

sources_only = pytest.mark.skipif(IS_COMPILED, reason="puts something else in the place of compiled code")
