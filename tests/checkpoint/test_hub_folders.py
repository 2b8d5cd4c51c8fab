"""A repository with several models in folders: only the one that is named comes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.checkpoint.hub.folders import fetch_folder, split_folder
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.errors import HubError, NeedsConversionError
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.gguf_conversions import write_tokenizer
from tests.support.hub_server import HubServer, hub_server
from tests.support.layout_writers import WRITERS


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    made = tmp_path_factory.mktemp("made")
    config = hf_config(num_hidden_layers=1)
    tensors = random_tensors(config, seed=4)
    files: dict[str, bytes] = {"README.md": b"words"}
    for folder, layout in (("mlx/q8", "hf"), ("bf16", "unsloth"), ("original", "hf")):
        WRITERS[layout](made / folder, config, tensors)
        if folder != "original":
            write_tokenizer(made / folder / "tokenizer.json", "gpt-4o")
        for path in (made / folder).iterdir():
            files[f"{folder}/{path.name}"] = path.read_bytes()
    write_tokenizer(made / "tokenizer.json", "gpt-4o")
    files["tokenizer.json"] = (made / "tokenizer.json").read_bytes()
    files |= {f"Q8_0/a-0000{n}-of-00002.gguf": bytes([n]) for n in (1, 2)}
    files |= {"two/a.gguf": b"a", "two/b.gguf": b"b", "empty/notes.txt": b"x"}
    with hub_server({"owner/many": files}) as server:
        yield server


@pytest.fixture
def server(running: HubServer) -> HubServer:
    running.requests.clear()
    return running


@pytest.fixture
def hub(server: HubServer, tmp_path: Path) -> Hub:
    return Hub(server.url, tmp_path / "cache")


def run(hub: Hub, *words: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, words)), obj=Services(hub=hub))


def fetched(server: HubServer) -> list[str]:
    return sorted(
        request.partition("/resolve/")[2].partition("/")[2]
        for request in server.requests
        if request.startswith("GET") and "/resolve/" in request
    )


def test_a_folder_is_converted_and_verified_and_nothing_else_comes(
    hub: Hub, server: HubServer, tmp_path: Path
) -> None:
    source, made = "owner/many/mlx/q8", tmp_path / "made"
    result = run(hub, "convert", source, made)
    assert result.exit_code == 0, result.stderr
    assert "to download, of `mlx/q8` only" in result.stderr
    assert fetched(server) == [
        f"mlx/q8/{name}"
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    ]
    assert open_checkpoint(made).layout.name == "mlx-packed"
    assert (made / "tokenizer.json").is_file()
    server.requests.clear()
    result = run(hub, "verify", made, "--against", source, "--offline")
    assert (result.exit_code, server.requests) == (0, []), result.stderr


def test_a_second_folder_is_added_to_the_first(hub: Hub, server: HubServer) -> None:
    fetch_folder(hub, "owner/many", "bf16")
    server.requests.clear()
    path = fetch_folder(hub, "owner/many", "original")
    # The tokenizer above it is the same as that of the first folder: it is here.
    assert fetched(server) == ["original/config.json", "original/model.safetensors"]
    assert {x.name for x in path.parent.iterdir()} == {
        "bf16",
        "original",
        "tokenizer.json",
    }
    assert fetch_folder(hub, "owner/many", "bf16", offline=True).name == "bf16"


def test_a_folder_with_one_gguf_is_that_gguf(hub: Hub, server: HubServer) -> None:
    path = fetch_folder(hub, "owner/many", "Q8_0")
    assert path.name == "a-00001-of-00002.gguf"
    assert len(fetched(server)) == 2


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("two", ["has 2 models as GGUF", "owner/many/two/a.gguf"]),
        ("empty", ["has no model in `empty`: give one of these", "owner/many/bf16  "]),
        ("absent", ["has no model in `absent`", "owner/many/mlx/q8 "]),
    ],
)
def test_a_folder_without_one_model_lists_what_there_is(
    hub: Hub, server: HubServer, folder: str, says: list[str]
) -> None:
    with pytest.raises(HubError) as raised:
        fetch_folder(hub, "owner/many", folder)
    assert all(words in str(raised.value) for words in says)
    assert fetched(server) == []


def test_offline_nothing_is_asked(hub: Hub, server: HubServer) -> None:
    with pytest.raises(HubError, match="downloads are off"):
        fetch_folder(hub, "owner/many", "bf16", offline=True)
    assert server.requests == []


def test_a_full_disk_is_said_beforehand(server: HubServer, tmp_path: Path) -> None:
    hub = Hub(server.url, tmp_path / "cache", free_disk=lambda path: 10)
    with pytest.raises(HubError, match=r"needs .* more on disk"):
        fetch_folder(hub, "owner/many", "bf16")
    assert fetched(server) == []


def test_a_repository_of_several_formats_lists_them_with_sizes(
    hub: Hub, tmp_path: Path
) -> None:
    with pytest.raises(HubError) as raised:
        hub.resolve("owner/many")
    first, *rest = str(raised.value).splitlines()
    assert "convert one of these by `mlx-gptoss convert NAME DST`" in first
    assert [line.split()[0].removeprefix("owner/many/") for line in rest] == [
        "bf16",
        "mlx/q8",
        "original",
        "Q8_0/a-00001-of-00002.gguf",
        "two/a.gguf",
        "two/b.gguf",
    ]
    assert rest[3].endswith("  2 bytes")  # of both parts
    result = run(hub, "convert", "owner/many", tmp_path / "made")
    assert result.stderr.splitlines()[1:] == rest


def test_naming_a_folder_to_run_answers_with_its_command(
    hub: Hub, server: HubServer
) -> None:
    with pytest.raises(NeedsConversionError) as raised:
        hub.resolve("owner/many/mlx/q8")
    command = "`mlx-gptoss convert owner/many/mlx/q8 ./q8-mlx`, then give `./q8-mlx`"
    assert command in str(raised.value)
    assert server.requests == []


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("owner/name", ("owner/name", None)),
        ("owner/name/a", ("owner/name", "a")),
        ("owner/name/a/b/", ("owner/name", "a/b")),
        ("owner/name/a/b.gguf", ("owner/name/a/b.gguf", None)),
        ("owner/name/../x", ("owner/name/../x", None)),
        ("./owner/name/a", ("./owner/name/a", None)),
        ("/owner/name/a", ("/owner/name/a", None)),
        ("demo", ("demo", None)),
    ],
)
def test_a_name_is_taken_apart(model: str, expected: tuple[str, str | None]) -> None:
    assert split_folder(model) == expected
