"""One suite a port, in a module of its own where it is long."""

import pytest

pytest.register_assert_rewrite(
    "tests.contracts.store_records", "tests.contracts.store_queue", "tests.contracts.store_service"
)
