"""Open a checkpoint: read and check its headers, decide the structure in memory.

After `open_checkpoint` names, shapes, dtypes and file sizes are known to be right; the
values are not checked (see `value_checks`).
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint.folder import CheckpointFiles, find_files, read_headers
from mlx_gptoss.checkpoint.json_files import read_json
from mlx_gptoss.checkpoint.matching import match_tensors
from mlx_gptoss.checkpoint.mismatch import explain_mismatch
from mlx_gptoss.checkpoint.parameters import Parameter, list_parameters, part_of
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.errors import CheckpointError, ConfigError
from mlx_gptoss.format.config import ModelConfig, parse_quantization, read_token_ids
from mlx_gptoss.format.file_names import CONFIG, GENERATION_CONFIG
from mlx_gptoss.format.layout import LAYOUTS, PARTS, Layout, Structure, detect_layout

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with valid headers.

    `tensors` maps canonical names (see `format/layout.py`) to byte ranges: file, offset
    from its start, length, stored dtype and shape. q, k and v of a fused file are three
    ranges of one stored tensor.
    """

    folder: Path
    files: tuple[Path, ...]
    raw_config: Mapping[str, Any] = field(repr=False)
    config: ModelConfig
    layout: Layout
    structure: Structure = field(repr=False)
    tensors: Mapping[str, StoredTensor] = field(repr=False)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters of the model in memory, each with its stored tensors."""
        return tuple(
            list_parameters(self.config, self.structure, self.layout, self.tensors)
        )

    @cached_property
    def bytes_by_part(self) -> dict[str, int]:
        """Stored bytes of embedding, attention, router, experts, norms and lm_head."""
        total: dict[str, int] = defaultdict(int)
        for name, tensor in self.tensors.items():
            total[part_of(name)] += tensor.nbytes
        return {part: total[part] for part in PARTS}

    def loaded_bytes_by_part(self, float_bytes: int) -> dict[str, int]:
        """Bytes of each part in memory with `float_bytes` per float."""
        total: dict[str, int] = defaultdict(int)
        for parameter in self.parameters:
            total[parameter.part] += parameter.nbytes(float_bytes)
        return {part: total[part] for part in PARTS}


def open_checkpoint(folder: str | Path, *, strict: bool = False) -> Checkpoint:
    """Open a folder (or its only weight file), reading headers only.

    Raises ConfigError or CheckpointError for the first fault, naming the tensor, the
    file, and the value found and expected. With `strict`, unknown keys of `config.json`
    are errors.
    """
    files = find_files(Path(folder).expanduser())
    raw = read_json(files.folder / CONFIG)
    check_not_tied(raw, files)
    config = ModelConfig.from_dict(raw, strict=strict)
    config = replace(config, eos_token_ids=read_stop_tokens(config, files.folder))
    stored = read_headers(files)
    layout = detect_layout(
        {name: (tensor.dtype, tensor.shape) for name, tensor in stored.items()},
        mlx="quantization" in raw,
    )
    try:
        _, modules = parse_quantization(raw)  # the tensors themselves give the default
        if layout is None:
            raise no_weights_error(files.folder, stored)
        match = match_tensors(stored, config, layout, modules)
    except (CheckpointError, ConfigError) as error:
        reason = explain_mismatch(raw, config, layout, stored)
        if reason is None:
            raise
        raise CheckpointError(reason) from error
    return Checkpoint(
        folder=files.folder,
        files=files.weights,
        raw_config=raw,
        config=config,
        layout=layout,
        structure=match.structure,
        tensors=match.tensors,
    )


def no_weights_error(
    folder: Path, stored: Mapping[str, StoredTensor]
) -> CheckpointError:
    """Make the error for tensors that are not gpt-oss's."""
    first = f": the first of its tensors is `{min(stored)}`" if stored else ""
    return CheckpointError(
        f"`{folder}` has no gpt-oss weights{first}; give a gpt-oss checkpoint"
    )


def check_not_tied(raw: Mapping[str, Any], files: CheckpointFiles) -> None:
    """Raise ConfigError for a tied head; the message depends on the stored tensors."""
    if raw.get("tie_word_embeddings") is not True:
        return
    heads = {HEAD, *(layout.stored_name(HEAD) for layout in LAYOUTS)}
    if heads.isdisjoint(read_headers(files)):
        raise ConfigError(
            "`config.json` has `tie_word_embeddings` = True and the weights have no "
            "head of their own (`lm_head.weight`), which is not supported: save the "
            "model untied"
        )
    raise ConfigError(
        "`config.json` has `tie_word_embeddings` = True, but the weights have a head "
        "of their own (`lm_head.weight`): set it to false if that head is the model's"
    )


def read_stop_tokens(config: ModelConfig, folder: Path) -> tuple[int, ...]:
    """Join the stop tokens of `config.json` and `generation_config.json`."""
    path = folder / GENERATION_CONFIG
    ids = config.eos_token_ids
    if path.is_file():
        ids += read_token_ids(read_json(path), "eos_token_id", file=path.name)
    return tuple(token for token in dict.fromkeys(ids) if token < config.vocab_size)
