"""Names, paths and downloads: against a Hub of our own on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_gptoss.checkpoint.hub import Hub, is_complete, local_folder, resolve
from mlx_gptoss.checkpoint.hub.local_models import describe_kind
from mlx_gptoss.errors import HubError, NeedsConversionError
from tests.support.hub_server import HubServer, hub_server

CONFIG = json.dumps({"model_type": "gpt_oss", "num_local_experts": 32}).encode()
INDEX = json.dumps(
    {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
).encode()
FILES = {
    "README.md": b"words",
    "LICENSE": b"Apache",
    "chat_template.jinja": b"{# #}",
    "config.json": CONFIG,
    "metal/model.bin": b"m" * 50,
    "model-1.safetensors": b"1" * 1000,
    "model-2.safetensors": b"2" * 500,
    "model.safetensors.index.json": INDEX,
    "original/model.safetensors": b"o" * 50,
    "tokenizer.json": b"{}",
}
NEEDED = set(FILES) - {"README.md", "metal/model.bin", "original/model.safetensors"}
REPOS = {
    "owner/small": FILES,
    "owner/llama": {"config.json": b'{"model_type": "llama"}', "m.safetensors": b"x"},
    "owner/gguf": {"model.gguf": b"GGUF"},
    "owner/adapter": {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"},
    "owner/adapter-with-config": {"config.json": CONFIG, "adapters.safetensors": b"x"},
    "owner/holes": {"config.json": CONFIG, "model.safetensors.index.json": INDEX}
    | {"model-1.safetensors": b"1"},
}


def names(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    }


def test_a_download_brings_the_needed_files_and_no_others(hub: Hub) -> None:
    assert names(hub.resolve("owner/small")) == NEEDED


def test_config_json_comes_last_so_that_a_folder_with_it_is_whole(
    hub: Hub, server: HubServer
) -> None:
    hub.resolve("owner/small")
    assert server.downloads()[-1] == "config.json"
    assert server.downloads()[:2] == ["model-1.safetensors", "model-2.safetensors"]


def test_what_is_here_is_used_without_asking_the_hub(
    hub: Hub, server: HubServer
) -> None:
    first = hub.resolve("owner/small")
    server.requests.clear()
    assert hub.resolve("owner/small", offline=True) == first
    assert server.requests == []


def test_an_interrupted_download_goes_on_with_the_missing_files(
    hub: Hub, server: HubServer
) -> None:
    server.refuse["model-2.safetensors"] = 500
    with pytest.raises(HubError, match="the Hub answered 500 for `owner/small`"):
        hub.resolve("owner/small")
    server.refuse.clear()
    server.requests.clear()
    assert is_complete(hub.resolve("owner/small"))
    assert "model-1.safetensors" not in server.downloads()
    assert "model-2.safetensors" in server.downloads()


def test_progress_counts_bytes_up_to_the_total(hub: Hub) -> None:
    reports: list[tuple[int, int]] = []
    hub.resolve(
        "owner/small", progress=lambda done, total: reports.append((done, total))
    )
    total = sum(len(FILES[name]) for name in NEEDED)
    assert reports[-1] == (total, total)
    assert reports == sorted(reports)


def test_a_download_prints_nothing(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    hub.resolve("owner/small")
    assert capfd.readouterr() == ("", "")


def test_pull_asks_again_and_keeps_what_is_here(hub: Hub, server: HubServer) -> None:
    hub.resolve("owner/small")
    server.requests.clear()
    hub.pull("owner/small")
    assert "GET /api/models/owner/small" in server.requests
    assert server.downloads() == []


def test_too_little_disk_is_said_before_a_file_is_fetched(
    server: HubServer, tmp_path: Path
) -> None:
    hub = Hub(server.url, tmp_path, free_disk=lambda _: 10**9)
    with pytest.raises(HubError, match=r"needs 2 kB more on disk.*has 1\.0 GB free"):
        hub.resolve("owner/small")
    assert server.downloads() == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("owner/nothing", "is not on the Hub, or is private"),
        ("owner/llama", "is a `llama` model: only gpt-oss models run here"),
        ("owner/gguf", r"published as GGUF.*convert it with"),
        (
            "owner/adapter",
            "is an adapter .LoRA., not a model: give its model with `-m`",
        ),
        ("owner/adapter-with-config", "is an adapter .LoRA., not a model"),
        ("owner/holes", "without some of the weight files"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(
    hub: Hub, model: str, message: str
) -> None:
    with pytest.raises(HubError, match=message) as raised:
        hub.resolve(model)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "is gated: accept its terms at"),
        (503, "the Hub answered 503"),
    ],
)
def test_a_refused_file_is_one_line(
    hub: Hub, server: HubServer, status: int, message: str
) -> None:
    server.refuse["model-1.safetensors"] = status
    with pytest.raises(HubError, match=message) as raised:
        hub.resolve("owner/small")
    assert "\n" not in str(raised.value)


def test_a_wrong_token_is_said(hub: Hub, server: HubServer) -> None:
    server.refuse["owner/small"] = 403
    with pytest.raises(HubError, match=r"refused `owner/small`.*your token"):
        hub.resolve("owner/small")


def test_no_network_is_one_line(tmp_path: Path) -> None:
    with hub_server({}) as gone:
        url = gone.url
    with pytest.raises(HubError, match=r"cannot get `owner/small`.*check the network"):
        Hub(url, tmp_path).resolve("owner/small")


def test_offline_forbids_even_the_question(hub: Hub, server: HubServer) -> None:
    with pytest.raises(HubError, match="downloads are off: run `mlx-gptoss pull"):
        hub.resolve("owner/small", offline=True)
    assert server.requests == []


def test_models_are_listed_and_deleted(hub: Hub) -> None:
    hub.resolve("owner/small")
    listed = {model.name: model for model in hub.list_models()}
    small = listed["owner/small"]
    # The Hub's files and nothing else; gpt-oss-20b has 32 experts a layer.
    assert small.bytes == sum(len(FILES[name]) for name in NEEDED)
    assert (small.kind, small.complete) == ("gpt-oss-20b, dense", True)
    assert hub.delete("owner/small") > 0
    assert "owner/small" not in {model.name for model in hub.list_models()}


@pytest.mark.parametrize("refused", ["model-1.safetensors", "model-2.safetensors"])
def test_an_interrupted_download_is_listed_and_deleted(
    hub: Hub, server: HubServer, refused: str
) -> None:
    server.refuse[refused] = 500
    with pytest.raises(HubError):
        hub.resolve("owner/small")
    repo = hub.folder / "models--owner--small"
    (repo / "blobs").mkdir(parents=True, exist_ok=True)
    (repo / "blobs/abc.incomplete").write_bytes(b"1" * 700)

    [found] = [model for model in hub.list_models() if model.name == "owner/small"]

    begun = 700 + (1000 if refused == "model-2.safetensors" else 0)
    assert (found.complete, found.kind, found.bytes) == (False, "unknown", begun)
    assert hub.delete("owner/small") == begun
    assert not repo.exists()
    assert "owner/small" not in {model.name for model in hub.list_models()}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("owner/small", "is not on this machine: see `mlx-gptoss models`"),
        ("demo", "was not downloaded"),
    ],
)
def test_only_what_was_downloaded_can_be_deleted(
    hub: Hub, model: str, message: str
) -> None:
    with pytest.raises(HubError, match=message):
        hub.delete(model)


def test_a_model_in_the_librarys_store_of_shared_files_is_deleted_with_them(
    hub: Hub,
) -> None:
    """Where the library keeps equal files of several models once (2.0 and later)."""
    shared = pytest.importorskip("huggingface_hub.utils._shared_blobs")
    blob = (hub.resolve("owner/small") / "model-1.safetensors").resolve()
    shared.publish_blob_to_shared_store(
        blob_path=str(blob),
        xet_hash="a" * 64,
        cache_dir=str(hub.folder),
        expected_size=1000,
        replace_existing=False,
    )
    assert blob.is_symlink()
    total = sum(len(FILES[name]) for name in NEEDED)
    listed = {model.name: model.bytes for model in hub.list_models()}
    assert listed["owner/small"] == total
    assert hub.delete("owner/small") == total
    assert b"1" * 1000 not in [p.read_bytes() for p in hub.folder.rglob("a" * 64)]


def test_a_path_is_a_path_only_when_written_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_folder("./demo") == Path("demo")
    assert local_folder("demo") != Path("demo")
    assert local_folder("./a/b") == Path("a/b")
    assert local_folder("a/b") is None
    assert local_folder(str(tmp_path / "a")) == tmp_path / "a"


@pytest.mark.parametrize("name", ["q8", "owner/small", "gpt-oss-20b.v2", "a/b/c"])
@pytest.mark.parametrize(
    "weights",
    ["model.safetensors", "model.gguf", "original/model.safetensors"],
)
def test_a_folder_here_that_holds_weights_is_meant_with_a_warning(
    hub: Hub,
    server: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    weights: str,
) -> None:
    file = tmp_path / name / weights
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    if file.suffix == ".gguf":
        with pytest.raises(NeedsConversionError, match=rf"`\./{name}` holds a GGUF"):
            hub.resolve(name)
    else:
        assert hub.resolve(name) == Path(name)

    assert server.requests == []
    (warning,) = caplog.messages
    assert f"`{name}` is a folder here" in warning
    assert f"`./{name}`" in warning


def test_a_folder_here_goes_before_what_was_downloaded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded = hub.resolve("owner/small")
    (tmp_path / "owner/small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("owner/small", offline=True) == downloaded

    (tmp_path / "owner/small/model.safetensors").write_bytes(b"")

    assert hub.resolve("owner/small", offline=True) == Path("owner/small")
    assert hub.pull("owner/small") == downloaded
    assert hub.delete("owner/small") > 0
    assert (tmp_path / "owner/small/model.safetensors").exists()


def test_offline_an_empty_folder_of_that_name_is_mentioned(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner/small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HubError, match=r"\(the folder of that name here holds no"):
        hub.resolve("owner/small", offline=True)


def test_home_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/model") == tmp_path / "model"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./missing", "`./missing` does not exist"),
        ("./file", "is a file: give its folder"),
        ("~nobody-of-that-name/x", "cannot be opened .Could not determine home"),
        ("./" + "a" * 300, "cannot be opened .File name too long"),
        ("here", "`here` is a folder here, but holds no weights .`.*.safetensors`.: "),
        ("file.gguf", "is a GGUF.*convert it with `mlx-gptoss convert ./file.gguf"),
        ("a.safetensors", "is a file: give its folder"),
        ("x" * 5000, "neither `demo` nor a Hub id"),
        ("nul\0", "neither `demo` nor a Hub id"),
        ("gpt-oss-20b", "neither `demo` nor a Hub id"),
        ("", "neither `demo` nor a Hub id"),
        ("a/b/c", "is a part of a repository.*`mlx-gptoss convert a/b/c ./c-mlx`"),
        ("a/b/../c", "neither `demo` nor a Hub id"),
        ("a/../b", "neither `demo` nor a Hub id"),
        ("a/b--c", "neither `demo` nor a Hub id"),
        ("https://huggingface.co/a/b", "neither `demo` nor a Hub id"),
    ],
)
def test_a_name_that_means_nothing_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    for name in ("file", "file.gguf", "a.safetensors", "here/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HubError, match=message):
        resolve(model)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ({"num_local_experts": 32, "quantization_config": {}}, "gpt-oss-20b, MXFP4"),
        (
            {"num_local_experts": 128, "quantization": {"bits": 8, "mode": "affine"}},
            "gpt-oss-120b, rest 8-bit",
        ),
        ({"quantization": {"mode": "mxfp4", "bits": 4}}, "gpt-oss, small, lossless"),
        ({}, "gpt-oss, small, dense"),
        ({"num_local_experts": [32]}, "gpt-oss, small, dense"),
    ],
)
def test_kinds_are_named(raw: dict[str, object], kind: str) -> None:
    assert describe_kind(raw) == kind


PROGRAM = """
import sys
from mlx_gptoss.errors import HubError
from mlx_gptoss.checkpoint.hub import resolve
try:
    print(resolve("owner/small"))
except HubError as error:
    print(error)
"""


def run_program(variables: dict[str, str]) -> str:
    """Run PROGRAM in a process of its own, where the hub library reads `variables`."""
    outcome = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return outcome.stdout


def test_the_hub_librarys_variable_that_forbids_downloads_is_respected(
    server: HubServer, tmp_path: Path
) -> None:
    variables = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path)}
    assert "downloads are off" in run_program(variables | {"HF_HUB_OFFLINE": "1"})
    assert server.requests == []


def test_a_proxy_is_asked_for_everything(server: HubServer, tmp_path: Path) -> None:
    variables = {"HF_ENDPOINT": "http://hub.test", "HF_HOME": str(tmp_path)}
    variables |= {"HTTP_PROXY": server.url, "http_proxy": server.url, "NO_PROXY": ""}
    assert names(Path(run_program(variables | {"no_proxy": ""}).strip())) == NEEDED
    assert set(server.tokens) == {"http://hub.test", server.storage}


def test_without_symbolic_links_files_lie_under_their_names(
    server: HubServer, tmp_path: Path
) -> None:
    variables = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path)}
    variables |= {"HF_HUB_DISABLE_SYMLINKS": "1"}
    folder = Path(run_program(variables).strip())
    assert names(folder) == NEEDED
    assert not [path for path in folder.iterdir() if path.is_symlink()]
    assert Hub(cache=tmp_path / "hub").resolve("owner/small", offline=True) == folder


def test_telemetry_is_off_even_where_a_variable_says_on(
    server: HubServer, tmp_path: Path
) -> None:
    """On, the library asks the Hub which program runs it, and tells each request."""
    folder = run_program(
        {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path)}
        | {"HF_HUB_DISABLE_TELEMETRY": "0", "AI_AGENT": "somebody"}
    )
    assert Path(folder).is_relative_to(tmp_path / "hub")
    assert server.downloads()
    assert not [request for request in server.requests if "harness" in request]
    assert not [agent for agent in server.agents if "agent/" in agent]


@pytest.mark.parametrize(
    "weights", ["pytorch_model.bin", "checkpoint-500/model.safetensors"]
)
def test_the_name_of_a_folder_that_cannot_be_read_stays_here(
    hub: Hub,
    server: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
) -> None:
    """A model of another format, or a trainer's output, is not sought on the Hub."""
    path = tmp_path / "owner" / "mine" / weights
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    assert hub.resolve("owner/mine") == Path("owner/mine")
    assert server.requests == []
