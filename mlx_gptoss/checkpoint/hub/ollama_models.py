"""Models that Ollama keeps on this machine: names to files, read only.

    ollama:gpt-oss:20b               a name that `ollama list` shows
    ollama:hf.co/owner/name:Q4_K_M   one that it got elsewhere

Names and folders are those of types/model/name.go and the manifest package in
ollama/ollama: a manifest lists layers, and a layer is a file named by its digest.
Writes nothing.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_gptoss.errors import HubError

OLLAMA = "ollama:"
OLLAMA_VARIABLE = "OLLAMA_MODELS"
NAME_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
DEFAULTS = ("registry.ollama.ai", "library")  # host and namespace
TAG = "latest"
NAME_PARTS = 3  # host, namespace and model
LAYER_TYPE = "application/vnd.ollama.image."
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
OLLAMA_REFUSED = {  # kinds of layers, and what a model with them is
    "tensor": "is kept by Ollama tensor by tensor, for its own MLX engine, which is "
    "not read: use the model as GGUF, or one of the Hub",
    "adapter": "has an adapter on top of its model, which is not read as GGUF: use the "
    "model without it",
}
SHOWN = 12  # names listed where one is not found


def ollama_folder() -> Path:
    found = os.environ.get(OLLAMA_VARIABLE)
    return Path(found).expanduser() if found else Path.home() / ".ollama" / "models"


def find_ollama_model(name: str) -> Path:
    """Return the blob with a model's weights."""
    folder = ollama_folder()
    path = folder / "manifests" / manifest_path(name)
    if not path.is_file():
        here = list_ollama_models(folder)
        raise HubError(
            f"`{OLLAMA}{name}` is not among Ollama's models in `{folder}`"
            f"{describe_here(here)}: run `ollama pull {name}`, or set "
            f"`{OLLAMA_VARIABLE}`"
        )
    layers = read_layers(path, name)
    for kind, reason in OLLAMA_REFUSED.items():
        if kind in layers:
            raise HubError(f"`{OLLAMA}{name}` {reason}")
    weights = layers.get("model", [])
    if len(weights) != 1:
        raise HubError(
            f"`{OLLAMA}{name}` has {len(weights)} files of weights, expected one: use "
            "another of Ollama's models"
        )
    blob = folder / "blobs" / weights[0]["digest"].replace(":", "-")
    if not blob.is_file() or blob.stat().st_size != weights[0]["size"]:
        raise HubError(
            f"`{OLLAMA}{name}` is not complete (`{blob}`): run `ollama pull {name}` "
            "again"
        )
    return blob


def manifest_path(name: str) -> Path:
    """Return the place of a manifest: host/namespace/model/tag."""
    before, found, tag = name.rpartition(":")
    if not found or "/" in tag:
        before, tag = name, TAG
    parts = before.split("/")
    parts = [*DEFAULTS[: max(NAME_PARTS - len(parts), 0)], *parts, tag]
    is_safe = all(NAME_PART.fullmatch(part) and ".." not in part for part in parts)
    if len(parts) != NAME_PARTS + 1 or not is_safe:
        raise HubError(
            f"`{OLLAMA}{name}` is not a name of Ollama's: write it as `ollama list` "
            f"shows it, `{OLLAMA}gpt-oss:20b` for example"
        )
    return Path(*parts)


def read_layers(path: Path, name: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return the layers of a manifest by kind: `model`, `template` and so on."""
    layers: dict[str, list[Mapping[str, Any]]] = {}
    try:
        for layer in json.loads(path.read_bytes())["layers"]:
            kind = layer["mediaType"].partition(";")[0].removeprefix(LAYER_TYPE)
            if not DIGEST.fullmatch(layer["digest"]):
                raise ValueError(layer["digest"])
            layers.setdefault(kind.strip(), []).append({"size": 0, **layer})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HubError(
            f"`{path}` is no manifest that can be read: run `ollama pull {name}` again"
        ) from error
    return layers


def list_ollama_models(folder: Path) -> list[str]:
    """List Ollama's models, as `ollama list` writes their names."""
    manifests = folder / "manifests"
    found = (path.relative_to(manifests).parts for path in manifests.glob("*/*/*/*"))
    return sorted(short_name(parts) for parts in found if len(parts) == NAME_PARTS + 1)


def short_name(parts: tuple[str, ...]) -> str:
    *places, model, tag = parts
    shown = 0
    while shown < len(DEFAULTS) and places[shown] == DEFAULTS[shown]:
        shown += 1
    return "/".join([*places[shown:], f"{model}:{tag}"])


def describe_here(names: list[str]) -> str:
    """List names, those of gpt-oss first, as a remark in brackets."""
    if not names:
        return ""
    ours = sorted(names, key=lambda name: "gpt-oss" not in name.lower())
    shown = ", ".join(f"`{name}`" for name in ours[:SHOWN])
    return f" ({shown}{', ...' if len(names) > SHOWN else ''})"
