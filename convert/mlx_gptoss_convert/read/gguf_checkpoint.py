"""Present a GGUF as a checkpoint: its config, and its tensors by canonical names."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from mlx_gptoss.checkpoint import Checkpoint, StoredTensor
from mlx_gptoss.checkpoint.matching import TensorMatch, match_tensors
from mlx_gptoss.checkpoint.mismatch import explain_sizes
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.file_names import GENERATION_CONFIG
from mlx_gptoss.format.layout import Layout
from mlx_gptoss_convert.read.companions import CompanionFiles
from mlx_gptoss_convert.read.gguf import GgufHeader, GgufTensor
from mlx_gptoss_convert.read.gguf_names import (
    ARCHITECTURE,
    EMBEDDING,
    FUSED_EXPERTS,
    FUSED_QKV,
    HEAD,
    OLLAMA_ARCHITECTURE,
    OLLAMA_FUSED,
    QKV,
    is_known,
    layout_of,
    usual_name,
)
from mlx_gptoss_convert.read.gguf_nvfp4 import with_scales
from mlx_gptoss_convert.read.gguf_settings import (
    config_from_metadata,
    require_gpt_oss,
)
from mlx_gptoss_convert.read.gguf_tensors import MXFP4_DECODERS, stored_tensors
from mlx_gptoss_convert.read.gguf_types import NVFP4, OLLAMA_MXFP4


def gguf_checkpoint(parts: list[GgufHeader], files: CompanionFiles) -> Checkpoint:
    """Present a GGUF as a checkpoint with separate gate and up projections.

    Experts stay fused where Ollama's first converter left them so.
    """
    first = parts[0]
    require_gpt_oss(first.metadata, first.path.name)
    named = with_scales(join_parts(parts))
    embedding = named.get(EMBEDDING)
    if embedding is None:
        raise CheckpointError(
            f"`{first.path}` has no `{EMBEDDING}`: give a GGUF of gpt-oss"
        )
    raw = config_from_metadata(
        first.metadata, embedding.shape[0], first.path.name
    ) | eos_setting(first, files)
    config = ModelConfig.from_dict(raw)
    if first.metadata["general.architecture"] == OLLAMA_ARCHITECTURE:
        named.setdefault(HEAD, replace(embedding, name=HEAD))  # tied, as there
    layout = layout_of(named)
    check_fused(first, layout, named)
    separate = [part for x in named.values() for part in separate_qkv(x, config)]
    stored = {seen.name: seen for seen in stored_tensors(separate)}
    match = match_gguf(stored, config, layout)
    return Checkpoint(
        folder=first.path.parent,
        files=tuple(part.path for part in parts),
        raw_config=raw,
        config=config,
        layout=layout,
        structure=match.structure,
        tensors=match.tensors,
    )


def join_parts(parts: list[GgufHeader]) -> dict[str, GgufTensor]:
    """Return all tensors by llama.cpp's names."""
    found: dict[str, GgufTensor] = {}
    for part in parts:
        for tensor in part.tensors.values():
            name = usual_name(tensor.name)
            if name in found:
                raise CheckpointError(
                    f"`{part.path}` has `{name}` twice, as `{tensor.name}` and "
                    f"`{found[name].name}` in `{found[name].file.name}`: use another "
                    "GGUF of this model"
                )
            found[name] = tensor
    return {name: replace(tensor, name=name) for name, tensor in found.items()}


def check_fused(
    part: GgufHeader, layout: Layout, named: Mapping[str, GgufTensor]
) -> None:
    """Refuse experts that llama.cpp's converter fused, gate rows before up rows."""
    types = {x.ggml_type for name, x in named.items() if f".{FUSED_EXPERTS}.w" in name}
    if (
        layout is OLLAMA_FUSED
        and part.metadata["general.architecture"] == ARCHITECTURE
        and types != {OLLAMA_MXFP4}
    ):
        raise CheckpointError(
            f"`{part.path}` has gate and up experts in one tensor, as "
            "`--fuse-gate-up-exps` of llama.cpp's converter writes them, which is not "
            "read: use a GGUF of this model without it"
        )


def separate_qkv(tensor: GgufTensor, config: ModelConfig) -> Iterator[GgufTensor]:
    """Yield q, k and v of a tensor that has all of their rows; any other as it is."""
    before, found, after = tensor.name.partition(f".{FUSED_QKV}.")
    heads = config.num_attention_heads, *(config.num_key_value_heads,) * 2
    rows = [count * config.head_dim for count in heads]
    is_one_row = len(tensor.shape) == 1 and tensor.ggml_type.block > 1
    if not found or is_one_row or tensor.shape[0] != sum(rows):
        yield tensor
        return
    at = tensor.offset
    row_bytes = tensor.nbytes // tensor.shape[0]
    for name, count in zip(QKV, rows, strict=True):
        shape = (count, *tensor.shape[1:])
        yield replace(tensor, name=f"{before}.{name}.{after}", shape=shape, offset=at)
        at += count * row_bytes


def match_gguf(
    stored: Mapping[str, StoredTensor], config: ModelConfig, layout: Layout
) -> TensorMatch:
    try:
        return match_tensors(stored, config, layout, {})
    except CheckpointError as error:
        reason = explain_sizes(config, layout, stored)
        name = next((name for name in sorted(stored) if not is_known(name)), None)
        if name is not None:
            reason = (
                f"tensor `{name}` in `{stored[name].file}` has no name of llama.cpp's "
                "gpt-oss: use a GGUF made by its `convert_hf_to_gguf.py`"
            )
        if reason is None:
            raise
        raise CheckpointError(reason) from error


def list_expert_notices(parts: list[GgufHeader]) -> list[str]:
    """Say what becomes of experts that are not MXFP4, and what that may lose."""
    types = Counter(
        tensor.ggml_type
        for part in parts
        for tensor in part.tensors.values()
        if "_exps.weight" in tensor.name and tensor.ggml_type not in MXFP4_DECODERS
    )
    repacked = types.pop(NVFP4, 0)
    lossy = [(kind, count) for kind, count in types.items() if kind.block > 1]
    lossless = [(kind, count) for kind, count in types.items() if kind.block == 1]
    notices = []
    if repacked:
        notices.append(
            f"{repacked} expert matrices are stored as NVFP4: they become MXFP4, bit "
            "by bit where that is exact, else with the least error"
        )
    if lossy:
        shown = ", ".join(f"{count} as {kind.name}" for kind, count in lossy)
        notices.append(
            f"expert matrices are not stored as MXFP4 ({shown}): they are decoded and "
            "encoded as MXFP4 again, and what either lost is not restored; a GGUF with "
            "MXFP4 experts keeps every bit"
        )
    if lossless:
        shown = ", ".join(f"{count} as {kind.name}" for kind, count in lossless)
        notices.append(
            f"expert matrices are stored as floats ({shown}): they are encoded as "
            "MXFP4, exactly where they were MXFP4 before"
        )
    return notices


def eos_setting(part: GgufHeader, files: CompanionFiles) -> dict[str, object]:
    """Return `eos_token_id` from the generation config, else from the metadata."""
    raw = files.read(GENERATION_CONFIG)
    found = None if raw is None else json.loads(raw).get("eos_token_id")
    if found is None:
        found = part.metadata.get("tokenizer.ggml.eos_token_id")
    return {} if found is None else {"eos_token_id": found}
