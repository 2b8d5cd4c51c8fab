"""Fixtures of the Hub's tests; a module may define `REPOS`, files by repository."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_gptoss.checkpoint.hub import Hub
from tests.support.hub_server import HubServer, hub_server
from tests.support.hub_trial import REPOS, Trial


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[HubServer]:
    with hub_server(getattr(request.module, "REPOS", REPOS)) as server:
        yield server


@pytest.fixture
def server(running: HubServer) -> HubServer:
    running.forget()
    return running


@pytest.fixture
def hub(server: HubServer, tmp_path: Path) -> Hub:
    return Hub(server.url, tmp_path / "cache", sleep=lambda seconds: None)


@pytest.fixture
def trial(server: HubServer, tmp_path: Path) -> Trial:
    return Trial(server, tmp_path / "cache")
