"""The demo model, loaded once per test module, and settings with a store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_gptoss import load
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.serving import DATE


@pytest.fixture(scope="module")
def demo() -> Iterator[Runtime]:
    with load("demo") as runtime:
        yield runtime


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    return ServerSettings(date=DATE, store=tmp_path)
