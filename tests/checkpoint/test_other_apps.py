"""Models of Ollama and LM Studio by their names: found, listed, never written."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.checkpoint.hub.other_apps import find_app_model
from mlx_gptoss.cli import cli
from mlx_gptoss.errors import CheckpointError, HubError, NeedsConversionError
from tests.support.foreign_ggufs import write_for_ollama
from tests.support.gguf_conversions import to_gguf, write_source

LAYER = "application/vnd.ollama.image."
LIBRARY = "registry.ollama.ai/library"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a small model as Ollama keeps it."""
    folder = tmp_path_factory.mktemp("gguf")
    out = to_gguf(write_source(folder / "source"), folder / "out")
    return write_for_ollama(out / "model.gguf", folder / "blob").read_bytes()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def keep(
    models: Path, place: str, raw: bytes, kind: str = "model", **more: Any
) -> Path:
    """Store a model as Ollama does: a manifest, and a blob named by its digest."""
    digest = hashlib.sha256(raw).hexdigest()
    blob = models / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(raw)
    layers = [
        {"mediaType": LAYER + "license", "digest": f"sha256:{'0' * 64}", "size": 3},
        {"mediaType": LAYER + kind, "digest": f"sha256:{digest}", "size": len(raw)}
        | more,
    ]
    manifest = models / "manifests" / place
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return blob


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, words)))


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("gpt-oss:20b", f"{LIBRARY}/gpt-oss/20b"),
        ("gpt-oss", f"{LIBRARY}/gpt-oss/latest"),
        ("someone/tuned:q8", "registry.ollama.ai/someone/tuned/q8"),
        ("hf.co/a/b-GGUF:Q4_K_M", "hf.co/a/b-GGUF/Q4_K_M"),
        ("localhost:5000/a/b", "localhost:5000/a/b/latest"),
    ],
)
def test_a_name_of_ollama_s_is_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    blob = keep(home / ".ollama/models", place, b"GGUF")
    assert find_app_model(f"ollama:{name}") == blob
    elsewhere = keep(home / "disk", place, b"GGUF elsewhere")
    monkeypatch.setenv("OLLAMA_MODELS", "~/disk")
    assert find_app_model(f"ollama:{name}") == elsewhere


def test_a_model_of_ollama_s_is_converted_and_nothing_of_it_written(
    home: Path, tmp_path: Path, whole: bytes
) -> None:
    keep(home / ".ollama/models", f"{LIBRARY}/gpt-oss/20b", whole)
    before = snapshot(home / ".ollama")
    result = run("convert", "ollama:gpt-oss:20b", tmp_path / "dst", "--offline")
    assert result.exit_code == 0, result.stderr
    assert f"`{tmp_path / 'dst'}`: it takes " in result.stderr
    checked = run("verify", tmp_path / "dst", "--against", "ollama:gpt-oss:20b")
    assert checked.exit_code == 0, checked.stderr
    assert open_checkpoint(tmp_path / "dst").layout.name == "mlx-packed"
    assert snapshot(home / ".ollama") == before


@pytest.mark.parametrize("command", ["generate", "inspect", "plan"])
def test_naming_one_as_a_model_answers_with_the_command_and_the_disk(
    home: Path, whole: bytes, command: str
) -> None:
    keep(home / ".ollama/models", f"{LIBRARY}/gpt-oss/20b", whole)
    words = (
        ["-m", "ollama:gpt-oss:20b", "Hello"]
        if command == "generate"
        else ["ollama:gpt-oss:20b"]
    )
    result = run(command, *words)
    assert result.exit_code == 1
    *_, said = result.stderr.splitlines()
    assert (
        "convert it with `mlx-gptoss convert ollama:gpt-oss:20b ./gpt-oss-20b-mlx`, "
        "then give `./gpt-oss-20b-mlx`; it takes "
    ) in said
    assert said.endswith(" are free")


def test_the_command_that_is_proposed_works(
    tmp_path: Path, home: Path, whole: bytes
) -> None:
    path = tmp_path / "my model-00001-of-00001.gguf"
    path.write_bytes(whole)
    said = run("generate", "-m", f"./{path.name}", "Hello").stderr
    command = said.split("`")[3]
    assert command == (
        "mlx-gptoss convert './my model-00001-of-00001.gguf' ./my-model-mlx"
    )
    result = run("convert", f"./{path.name}", "./my-model-mlx")
    assert result.exit_code == 0, result.stderr
    assert run("inspect", "./my-model-mlx").exit_code == 0


def test_a_gguf_that_cannot_be_converted_says_so_at_once(
    tmp_path: Path, whole: bytes
) -> None:
    (tmp_path / "other.gguf").write_bytes(whole.replace(b"gptoss", b"gpt_xx"))
    result = run("generate", "-m", "./other.gguf", "Hello")
    assert (result.exit_code, "convert it with" in result.stderr) == (1, False)
    assert "has the architecture 'gpt_xx'" in result.stderr


def test_a_folder_with_a_gguf_only_must_be_converted(
    tmp_path: Path, whole: bytes
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "model.gguf").write_bytes(whole)
    with pytest.raises(NeedsConversionError, match=r"convert \./here \./here-mlx`"):
        resolve("./here")
    assert issubclass(NeedsConversionError, HubError)
    assert issubclass(NeedsConversionError, CheckpointError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gpt-oss:120b",
            r"not among Ollama's models in .*\(`gpt-oss:20b`, `damaged:latest`, ",
        ),
        ("../../x", "is not a name of Ollama's"),
        ("a/b/c/d:e", "is not a name of Ollama's"),
        ("", "is not a name of Ollama's"),
        ("mlx", "tensor by tensor, for its own MLX engine"),
        ("tuned", "has an adapter on top of its model"),
        ("empty", "has 0 files of weights"),
        ("damaged", "is no manifest that can be read: run `ollama pull damaged`"),
        ("outside", "is no manifest that can be read"),
        ("partial", "is not complete .*: run `ollama pull partial` again"),
    ],
)
def test_what_ollama_has_not_is_one_line(home: Path, name: str, message: str) -> None:
    models = home / ".ollama/models"
    keep(models, f"{LIBRARY}/gpt-oss/20b", b"GGUF")
    keep(models, f"{LIBRARY}/other/1", b"GGUF other")
    keep(models, f"{LIBRARY}/mlx/latest", b"x", "tensor; name=a; dtype=BF16")
    keep(models, f"{LIBRARY}/tuned/latest", b"GGUF", "adapter")
    keep(models, f"{LIBRARY}/empty/latest", b"", "template")
    keep(models, f"{LIBRARY}/damaged/latest", b"GGUF")
    (models / "manifests" / LIBRARY / "damaged/latest").write_text("[1]")
    keep(models, f"{LIBRARY}/outside/latest", b"GGUF", digest="sha256:../../x")
    keep(models, f"{LIBRARY}/partial/latest", b"GGUF", size=10**10)
    with pytest.raises(HubError, match=message) as raised:
        find_app_model(f"ollama:{name}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("place", [".lmstudio", ".cache/lm-studio", "pointed", "set"])
def test_a_folder_of_lm_studio_s_is_found(home: Path, place: str) -> None:
    folder = home / place / "models/lmstudio-community/gpt-oss-20b-GGUF"
    if place == "pointed":
        (home / ".lmstudio-home-pointer").write_text(f"{home / place}\n")
    if place == "set":
        folder = home / "disk/lmstudio-community/gpt-oss-20b-GGUF"
        (home / ".lmstudio").mkdir()
        (home / ".lmstudio/settings.json").write_text(
            json.dumps({"downloadsFolder": str(home / "disk")})
        )
    folder.mkdir(parents=True)
    (folder / "gpt-oss-20b-MXFP4.gguf").write_bytes(b"GGUF")
    name = "lmstudio:lmstudio-community/gpt-oss-20b-GGUF"
    assert find_app_model(name) == folder / "gpt-oss-20b-MXFP4.gguf"
    with pytest.raises(NeedsConversionError, match=r"\./gpt-oss-20b-GGUF-mlx`$"):
        resolve(name)


def test_several_ggufs_of_lm_studio_are_listed_with_their_sizes(home: Path) -> None:
    folder = home / ".lmstudio/models/a/b"
    folder.mkdir(parents=True)
    for name, size in (("b-Q4_K_M", 3000), ("b-MXFP4", 5000), ("mmproj-b", 7)):
        (folder / f"{name}.gguf").write_bytes(b"GGUF".ljust(size))
    with pytest.raises(HubError) as raised:
        find_app_model("lmstudio:a/b")
    assert str(raised.value).splitlines() == [
        "`lmstudio:a/b` has 2 models as GGUF: give one",
        "  lmstudio:a/b/b-MXFP4.gguf   5 kB",
        "  lmstudio:a/b/b-Q4_K_M.gguf  3 kB",
    ]
    chosen = find_app_model("lmstudio:a/b/b-MXFP4.gguf")
    assert chosen == folder / "b-MXFP4.gguf"


def test_a_model_for_mlx_of_lm_studio_s_is_run_where_it_is(home: Path) -> None:
    folder = write_source(home / ".lmstudio/models/mlx-community/small")
    assert resolve("lmstudio:mlx-community/small") == folder
    assert run("inspect", "lmstudio:mlx-community/small").exit_code == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a/c", r"not among LM Studio's models in .*\(`a/b`\)"),
        ("a", "is not a name of LM Studio's"),
        ("../../etc", "is not among|is not a name"),
        ("a/../../x", "is not a name of LM Studio's"),
        ("a/empty", "has neither a GGUF nor `config.json`"),
    ],
)
def test_what_lm_studio_has_not_is_one_line(
    home: Path, name: str, message: str
) -> None:
    models = home / ".lmstudio/models"
    (models / "a/b").mkdir(parents=True)
    if name == "a/empty":
        (models / name).mkdir()
    with pytest.raises(HubError, match=message) as raised:
        find_app_model(f"lmstudio:{name}")
    assert "\n" not in str(raised.value)
