"""Recognize folders of LoRA adapters, PEFT's and mlx-lm's, which are not models.

Reads one small JSON file.
"""

from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint.json_files import read_json_or_empty
from mlx_gptoss.format.file_names import ADAPTER_CONFIG, ADAPTERS, PEFT_ADAPTER

LORA = "LORA"  # `peft_type` of the adapters that are read


def adapter_files(folder: Path) -> list[Path]:
    """List the adapter weights in a folder."""
    return [folder / name for name in ADAPTERS if (folder / name).is_file()]


def is_adapter_folder(path: Path) -> bool:
    """Whether a folder has an adapter, whatever else is in it."""
    return (path / ADAPTER_CONFIG).is_file() or bool(adapter_files(path))


def is_peft(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the adapter in a folder is PEFT's; otherwise it is mlx-lm's."""
    return "peft_type" in settings or (folder / PEFT_ADAPTER).is_file()


def base_name(folder: Path, settings: dict[str, Any]) -> str | None:
    """Return the path or Hub id of the model that an adapter was trained on."""
    key = "base_model_name_or_path" if is_peft(folder, settings) else "model"
    base = settings.get(key)
    return base if isinstance(base, str) and base else None


def describe_adapter(folder: Path) -> str | None:
    """Describe the adapter in a folder and its use, or None for no adapter."""
    if not is_adapter_folder(folder):
        return None
    settings = read_json_or_empty(folder / ADAPTER_CONFIG)
    base = base_name(folder, settings)
    of = f" for `{base}`" if base else ""
    if not is_peft(folder, settings):
        return f"an adapter of mlx-lm{of}, not a model: {use(folder, base)}"
    kind = settings.get("peft_type", LORA)
    what = f"a {kind} adapter of PEFT{of}, not a model: "
    if kind == LORA:
        return what + use(folder, base)
    return what + (
        f"only {LORA} adapters are read, merge it into its model with PEFT "
        "(`merge_and_unload()`, then `save_pretrained`) and give that folder"
    )


def use(folder: Path, base: str | None) -> str:
    """Return the commands that run or merge an adapter."""
    model = base or "MODEL"
    return (
        f"run its model with it (`mlx-gptoss chat -m {model} -a {folder}`), or merge "
        f"both (`mlx-gptoss merge {model} {folder} DST`)"
    )
