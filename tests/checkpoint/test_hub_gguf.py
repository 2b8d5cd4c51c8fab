"""GGUF files of the Hub as a source of conversions: against a Hub of our own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.checkpoint.hub.gguf import fetch_gguf, split_name
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.errors import HubError, NeedsConversionError
from tests.convert.test_convert_gguf import to_gguf, write_source
from tests.support.hub_server import HubServer, hub_server

PARTS = {f"model-0000{n}-of-00002.gguf": bytes([n]) for n in (1, 2)}
QUANTS = {
    "a-Q4_K_M.gguf": b"q",
    "q8/a-Q8_0.gguf": b"Q" * 3000,
    "mmproj-a.gguf": b"p",
    "a.imatrix.gguf": b"i",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("gguf")
    out = to_gguf(write_source(folder / "source"), folder / "out")
    return (out / "model.gguf").read_bytes()


@pytest.fixture(scope="module")
def running(whole: bytes) -> Iterator[HubServer]:
    repos = {
        "owner/one": {"README.md": b"words", "gpt-oss.gguf": whole},
        "owner/many": QUANTS,
        "owner/parts": PARTS,
        "owner/nothing": {"README.md": b"words"},
    }
    with hub_server(repos) as server:
        yield server


@pytest.fixture
def server(running: HubServer) -> HubServer:
    running.requests.clear()
    return running


@pytest.fixture
def hub(server: HubServer, tmp_path: Path) -> Hub:
    return Hub(server.url, tmp_path / "cache")


def run(hub: Hub, *arguments: object) -> Result:
    words = ["convert", *map(str, arguments)]
    return CliRunner().invoke(cli, words, obj=Services(hub=hub))


@pytest.mark.parametrize("source", ["owner/one", "owner/one/gpt-oss.gguf"])
def test_a_gguf_of_the_hub_is_converted(
    hub: Hub, server: HubServer, tmp_path: Path, source: str
) -> None:
    result = run(hub, source, tmp_path / "dst", "--recipe", "lossless")
    assert result.exit_code == 0, result.stderr
    assert open_checkpoint(tmp_path / "dst").layout.name == "mlx-packed"
    files = [x for x in server.requests if x.startswith("GET") and "resolve" in x]
    assert [request.rpartition("/")[2] for request in files] == ["gpt-oss.gguf"]
    server.requests.clear()
    again = run(hub, source, tmp_path / "again", "--offline")
    assert (again.exit_code, server.requests) == (0, []), again.stderr


def test_all_parts_of_a_model_come(hub: Hub, server: HubServer) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    path = fetch_gguf(hub, "owner/parts", progress=progress)
    assert path.name == "model-00001-of-00002.gguf"
    assert [part.name for part in sorted(path.parent.iterdir())] == list(PARTS)
    assert seen[-1] == (2, 2)
    server.requests.clear()
    assert fetch_gguf(hub, "owner/parts", "model-00002-of-00002.gguf", offline=True)
    assert server.requests == []


def test_a_file_in_a_folder_is_found_by_its_path(hub: Hub) -> None:
    path = fetch_gguf(hub, "owner/many", "q8/a-Q8_0.gguf")
    assert path.read_bytes() == b"Q" * 3000
    assert [x.name for x in path.parents[1].rglob("*.gguf")] == ["a-Q8_0.gguf"]


def test_several_models_are_listed_with_their_sizes(hub: Hub, tmp_path: Path) -> None:
    result = run(hub, "owner/many", tmp_path / "dst")
    assert (result.exit_code, result.stderr.splitlines()) == (
        1,
        [
            "Error: `owner/many` has 2 models as GGUF: give one of them, with MXFP4 "
            "experts if there is one",
            "  owner/many/a-Q4_K_M.gguf   1 bytes",
            "  owner/many/q8/a-Q8_0.gguf  3 kB",
        ],
    )
    with pytest.raises(NeedsConversionError) as raised:
        hub.resolve("owner/many")
    assert str(raised.value).splitlines()[1:] == result.stderr.splitlines()[1:]


def test_one_model_as_gguf_is_answered_with_its_command(hub: Hub) -> None:
    with pytest.raises(NeedsConversionError) as raised:
        hub.resolve("owner/one")
    assert "with `mlx-gptoss convert owner/one ./one-mlx`, then give `./one-mlx`" in (
        str(raised.value)
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("owner/many/b.gguf", "has no file `b.gguf`"),
        ("owner/nothing", "choose a model published as safetensors"),
        ("owner/absent/b.gguf", "is not on the Hub"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(
    hub: Hub, tmp_path: Path, source: str, message: str
) -> None:
    result = run(hub, source, tmp_path / "dst")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert message in result.stderr


def test_offline_nothing_is_asked(hub: Hub, server: HubServer) -> None:
    with pytest.raises(HubError, match="downloads are off"):
        fetch_gguf(hub, "owner/one", offline=True)
    assert server.requests == []


def test_a_full_disk_is_said_beforehand(server: HubServer, tmp_path: Path) -> None:
    hub = Hub(server.url, tmp_path / "cache", free_disk=lambda path: 10)
    with pytest.raises(HubError, match=r"needs .* more on disk"):
        fetch_gguf(hub, "owner/one")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("owner/name", ("owner/name", None)),
        ("owner/name/a.gguf", ("owner/name", "a.gguf")),
        ("owner/name/q8/a.gguf", ("owner/name", "q8/a.gguf")),
        ("./owner/name/a.gguf", ("./owner/name/a.gguf", None)),
        ("/owner/name/a.gguf", ("/owner/name/a.gguf", None)),
        ("demo", ("demo", None)),
    ],
)
def test_a_name_is_taken_apart(model: str, expected: tuple[str, str | None]) -> None:
    assert split_name(model) == expected
