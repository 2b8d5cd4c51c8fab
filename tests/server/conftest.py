"""The demo model, loaded once per test module."""

from collections.abc import Iterator

import pytest

from mlx_gptoss import load
from mlx_gptoss.engine.runtime import Runtime


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo") as runtime:
        yield runtime
