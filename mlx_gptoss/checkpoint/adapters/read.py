"""Open a folder with an adapter for a model; read it for that model.

Opening reads `adapter_config.json` and the header of one file, and checks both against
the model. Values are checked as they are read.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_gptoss.checkpoint.adapters.digest import config_digest
from mlx_gptoss.checkpoint.adapters.mlx_lm import mlx_lm_pairs
from mlx_gptoss.checkpoint.adapters.peft import peft_pairs
from mlx_gptoss.checkpoint.adapters.recognize import (
    adapter_files,
    base_name,
    is_adapter_folder,
    is_peft,
)
from mlx_gptoss.checkpoint.adapters.settings import PeftSettings, read_mlx_scale
from mlx_gptoss.checkpoint.adapters.stored import StoredAdapter
from mlx_gptoss.checkpoint.json_files import read_json
from mlx_gptoss.checkpoint.safetensors_header import (
    StoredTensor,
    read_header,
    read_metadata,
)
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.file_names import (
    ADAPTER_CONFIG,
    ADAPTERS,
    CONFIG,
    MLX_ADAPTER,
    PEFT_ADAPTER,
    WEIGHTS,
)
from mlx_gptoss.format.layout import FLOATS

if TYPE_CHECKING:
    from mlx_gptoss.model.adapters import Adapter

PEFT, MLX_LM = "peft", "mlx-lm"
BASE_DIGEST = "base_config_sha256"  # in the metadata of files written here
PICKLED = "adapter_model.bin"


def open_adapter(
    folder: str | Path, config: ModelConfig, *, scale: float = 1.0
) -> StoredAdapter:
    """Open an adapter (its folder, or its weight file) for a model with `config`.

    `scale` multiplies its updates. Raises CheckpointError or ConfigError for a folder
    that is no adapter, an adapter of another model, a kind that is not read, and a
    damaged file.
    """
    if not math.isfinite(scale):
        raise CheckpointError(f"the scale of an adapter is {scale}, expected a number")
    path = find_folder(Path(folder).expanduser())
    settings = read_settings(path)
    file = find_weights(path, settings)
    tensors = read_header(file)
    check_tensors(tensors, file)
    metadata, base = read_metadata(file), base_name(path, settings)
    check_base(metadata, config, path, base)
    where = path / ADAPTER_CONFIG
    if file.name == PEFT_ADAPTER:
        peft = PeftSettings.from_dict(settings, where)
        pairs = peft_pairs(tensors, peft, config, base)
    else:
        own = read_mlx_scale(settings, where)
        pairs = mlx_lm_pairs(tensors, own, config, base)
    return StoredAdapter(
        folder=path,
        layout=PEFT if file.name == PEFT_ADAPTER else MLX_LM,
        base=base,
        config=config,
        pairs={name: tuple(found) for name, found in pairs.items()},
        metadata=metadata,
        scale=float(scale),
    )


def read_adapter(
    folder: str | Path, config: ModelConfig, *, name: str, scale: float = 1.0
) -> "Adapter":
    """Read an adapter for a model with `config`, as MLX arrays.

    Raises the errors of `open_adapter`, and CheckpointError for NaN and infinity.
    """
    import mlx.core as mx  # noqa: PLC0415 - opening an adapter does not start MLX

    from mlx_gptoss.model.adapters import Adapter, LowRank  # noqa: PLC0415

    stored = open_adapter(folder, config, scale=scale)
    updates = {
        path: LowRank(mx.array(update.a), mx.array(update.b))
        for path, update in stored.updates()
    }
    return Adapter(name, stored.digest, updates)


def find_folder(path: Path) -> Path:
    """Return the folder of an adapter, given it or the file in it."""
    if path.is_file() and path.name in ADAPTERS:
        return path.parent
    if not path.is_dir():
        raise CheckpointError(f"`{path}` does not exist: give an adapter's folder")
    if is_adapter_folder(path):
        return path
    if (path / CONFIG).is_file() or any(path.glob(WEIGHTS)):
        raise CheckpointError(
            f"`{path}` is a model, not an adapter: run it with `-m {path}`"
        )
    runs = sorted(path.glob(f"checkpoint-*/{ADAPTER_CONFIG}"))
    advice = (
        f"give one of those in it, such as `{runs[-1].parent}`"
        if runs
        else "give the folder of a LoRA adapter of PEFT or mlx-lm"
    )
    raise CheckpointError(f"`{path}` has no `{ADAPTER_CONFIG}`: {advice}")


def read_settings(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"`{folder}` has no `{ADAPTER_CONFIG}`, which has the adapter's scale: "
            "copy the one that was saved with these weights into it"
        )
    return read_json(path)


def find_weights(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Return the weight file that the settings belong to."""
    wanted = PEFT_ADAPTER if is_peft(folder, dict(settings)) else MLX_ADAPTER
    if (folder / wanted).is_file():
        return folder / wanted
    found = adapter_files(folder)
    if (folder / PICKLED).is_file():
        advice = f"`{PICKLED}` is pickled and not read, for safety: save it with PEFT's"
        raise CheckpointError(
            f"`{folder}` has no `{wanted}` ({advice} `safe_serialization=True`)"
        )
    beside = f" but `{found[0].name}`" if found else ""
    raise CheckpointError(
        f"`{folder}` has no `{wanted}`{beside}: download it, or save the adapter again"
    )


def check_tensors(tensors: Mapping[str, StoredTensor], file: Path) -> None:
    """Raise CheckpointError for no tensors, and for other dtypes than floats."""
    if not tensors:
        raise CheckpointError(f"`{file}` has no tensors: save the adapter again")
    for tensor in tensors.values():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"tensor `{tensor.name}` in `{file}` has dtype {tensor.dtype}, "
                f"expected {' or '.join(FLOATS)}: save the adapter as bf16 or float32"
            )


def check_base(
    metadata: Mapping[str, str], config: ModelConfig, folder: Path, base: str | None
) -> None:
    """Raise CheckpointError if the file records the config of another model."""
    recorded = metadata.get(BASE_DIGEST)
    own = config_digest(config)
    if recorded is not None and recorded != own:
        named = f" (`{base}`)" if base else ""
        raise CheckpointError(
            f"`{folder}` was trained on a model{named} with another config "
            f"({recorded[:12]}, this one's is {own[:12]}): use it with that model"
        )
