"""Recognize folders of LoRA adapters, PEFT's and mlx-lm's, which are not models.

Reads one small JSON file.
"""

from pathlib import Path

from mlx_gptoss.checkpoint.json_files import read_json_or_empty
from mlx_gptoss.format.file_names import ADAPTER_CONFIG, ADAPTERS, PEFT_ADAPTER


def adapter_files(folder: Path) -> list[Path]:
    """List the adapter weights in a folder."""
    return [folder / name for name in ADAPTERS if (folder / name).is_file()]


def describe_adapter(folder: Path) -> str | None:
    """Describe the adapter in a folder and the remedy, or None for no adapter."""
    if not (folder / ADAPTER_CONFIG).is_file() and not adapter_files(folder):
        return None
    settings = read_json_or_empty(folder / ADAPTER_CONFIG)
    peft = "peft_type" in settings or (folder / PEFT_ADAPTER).is_file()
    base = settings.get("base_model_name_or_path" if peft else "model")
    of = f" for `{base}`" if isinstance(base, str) and base else ""
    if peft:
        kind = settings.get("peft_type", "LORA")
        return (
            f"a {kind} adapter of PEFT{of}, not a model: merge it into its model "
            "(`merge_and_unload()`, then `save_pretrained`) and give that folder"
        )
    model = base if of else "MODEL"
    return (
        f"an adapter of mlx-lm{of}, not a model: merge it with `mlx_lm.fuse --model "
        f"{model} --adapter-path {folder} --dequantize` and give that folder"
    )
