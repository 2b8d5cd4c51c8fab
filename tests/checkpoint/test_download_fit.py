"""A model that could not be loaded is refused before its weights are downloaded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.runtime import Runtime
from tests.support.checkpoints import write_checkpoint
from tests.support.hub_server import HubServer, hub_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    folder = tmp_path_factory.mktemp("published")
    write_checkpoint(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    broken = files | {"config.json": b"[]"}
    raw = json.loads(files["config.json"]) | {"novelty": 1}
    odd = files | {"config.json": json.dumps(raw).encode()}
    repos = {"owner/model": files, "owner/broken": broken, "owner/odd": odd}
    with hub_server(repos) as server:
        yield server


def ask(
    server: HubServer,
    cache: Path,
    memory: str,
    model: str = "owner/model",
    *options: str,
) -> str:
    server.requests.clear()
    hub = Hub(server.url, cache)

    def load_cached(model: str, **options: Any) -> Runtime:
        folder = hub.cached(model)
        assert folder is not None
        return load(folder, **options)

    services = Services(load=load_cached, hub=hub)
    arguments = ["generate", "hi", "--raw", "-m", model, "--memory", memory, *options]
    result = CliRunner().invoke(cli, arguments, obj=services)
    assert result.exit_code == 1, result.output
    return result.stderr


def test_it_is_refused_with_only_its_config_read(
    server: HubServer, tmp_path: Path
) -> None:
    stderr = ask(server, tmp_path / "cache", "1MB")

    assert "Error: `owner/model` needs" in stderr
    assert set(server.downloads()) == {"config.json"}
    assert not list(tmp_path.rglob("*.json"))


def test_a_plan_reads_the_config_and_downloads_nothing(
    server: HubServer, tmp_path: Path
) -> None:
    server.requests.clear()
    services = Services(hub=Hub(server.url, tmp_path / "cache"))
    arguments = ["plan", "owner/model", "--device", "M2 8GB", "--json"]
    result = CliRunner().invoke(cli, arguments, obj=services)

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["plan"]["mode"] == "resident"
    assert set(server.downloads()) == {"config.json"}
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_model_that_fits_is_downloaded(server: HubServer, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    ask(server, cache, "4GB")  # fails later: there is no tokenizer

    folder = Hub(server.url, cache).cached("owner/model")
    assert folder is not None
    assert json.loads((folder / "config.json").read_bytes())["model_type"] == "gpt_oss"


def test_a_config_that_is_no_object_is_one_line(
    server: HubServer, tmp_path: Path
) -> None:
    stderr = ask(server, tmp_path / "cache", "4GB", "owner/broken")

    assert "config.json` is not a JSON object" in stderr
    assert set(server.downloads()) == {"config.json"}


def test_an_unknown_key_is_one_warning(
    server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask(server, tmp_path / "cache", "4GB", "owner/odd")

    assert [r.getMessage() for r in caplog.records if "novelty" in r.getMessage()] == [
        "`config.json` has unknown keys, ignored: `novelty`"
    ]


def test_an_unknown_key_is_strictly_an_error_before_the_download(
    server: HubServer, tmp_path: Path
) -> None:
    stderr = ask(server, tmp_path / "cache", "4GB", "owner/odd", "--strict")

    assert "has unknown keys `novelty`" in stderr
    assert set(server.downloads()) == {"config.json"}
