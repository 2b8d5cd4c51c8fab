"""Adapters on the Hub and in folders: found, downloaded, refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.checkpoint.hub.adapters import cached_adapter, resolve_adapter
from mlx_gptoss.errors import HubError
from tests.support.hub_server import HubServer, hub_server

FILES = {
    "README.md": b"words",
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": b"x" * 500,
    "optimizer.pt": b"o" * 50,
    "tokenizer.json": b"{}",
}
REPOS = {
    "owner/adapter": FILES,
    "owner/mlx": {"adapter_config.json": b"{}", "adapters.safetensors": b"y"},
    "owner/model": {"config.json": b"{}", "model.safetensors": b"x"},
    "owner/pickled": {"adapter_config.json": b"{}", "adapter_model.bin": b"x"},
    "owner/bare": {"adapters.safetensors": b"y"},
}


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server(REPOS) as server:
        yield server


@pytest.fixture
def hub(server: HubServer, tmp_path: Path) -> Hub:
    return Hub(endpoint=server.url, cache=tmp_path / "cache")


def test_a_download_brings_weights_and_settings_only(
    hub: Hub, server: HubServer
) -> None:
    folder = resolve_adapter("owner/adapter", hub=hub)

    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert server.downloads()[-1] == "adapter_config.json"
    server.requests.clear()
    assert resolve_adapter("owner/adapter", hub=hub, offline=True) == folder
    assert server.requests == []
    assert cached_adapter(hub, "owner/mlx") is None


def test_a_folder_here_wins_over_the_hub(
    hub: Hub,
    server: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "owner" / "adapter").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert resolve_adapter("owner/adapter", hub=hub) == Path("owner/adapter")
    assert "goes before the Hub's adapter" in caplog.text
    assert server.requests == []
    assert resolve_adapter("./owner", hub=hub) == Path("owner")
    assert resolve_adapter("owner", hub=hub) == Path("owner")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("owner/model", "is no adapter"),
        ("owner/pickled", "is no adapter"),
        ("owner/bare", "no `adapter_config.json`"),
        ("owner/none", "owner/none"),
        ("./none", "does not exist"),
        ("none", "neither a folder here nor a Hub id"),
    ],
)
def test_what_is_no_adapter_is_refused(hub: Hub, place: str, said: str) -> None:
    with pytest.raises(HubError, match=said):
        resolve_adapter(place, hub=hub)


def test_offline_nothing_is_asked(hub: Hub, server: HubServer) -> None:
    with pytest.raises(HubError, match="downloads are off"):
        resolve_adapter("owner/adapter", hub=hub, offline=True)
    assert server.requests == []
