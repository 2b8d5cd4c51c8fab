"""Checkpoints of other tools are recognized, and the remedy in the message works."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.errors import CheckpointError, ConfigError
from tests.support import checkpoints
from tests.support.odd_checkpoints import (
    CONFIG,
    DENSE,
    FIRST,
    PLAIN,
    Q_PROJ,
    TENSORS,
    Case,
    Config,
    adapter,
    affine,
    beginning_with,
    cut_experts,
    cut_layers,
    gguf_only,
    instead,
    mixed_experts,
    mlx_community,
    numbered,
    one_expert_a_tensor,
    renamed,
    single_experts,
    stacked,
    stored_as,
    trainer_output,
    transposed,
    with_tensors,
    write,
)

PEFT = {"peft_type": "LORA", "base_model_name_or_path": "openai/gpt-oss-20b"}
MLX_LM = {"fine_tune_type": "lora", "model": "openai/gpt-oss-20b"}
MERGE = "merge them first (PEFT: `merge_and_unload()`"
UNQUANTIZED = "use the checkpoint it was quantized from"
BF16 = "not supported, save the model as bf16"

CASES: dict[str, tuple[Case, str]] = {
    # adapters and what is left of them
    "peft": (
        adapter(PEFT, "adapter_model.safetensors"),
        "is a LORA adapter of PEFT for `openai/gpt-oss-20b`, not a model: run its",
    ),
    "peft-with-config": (
        adapter(PEFT, "adapter_model.safetensors", config=True),
        "is a LORA adapter of PEFT for",
    ),
    "peft-prompt": (
        adapter({"peft_type": "IA3"}, "adapter_model.safetensors"),
        "is a IA3 adapter of PEFT, not a model",
    ),
    "peft-pickled": (adapter(PEFT, None), "is a LORA adapter of PEFT for"),
    "peft-without-settings": (
        adapter(None, "adapter_model.safetensors"),
        "is a LORA adapter of PEFT, not a model",
    ),
    "mlx-lm-adapter": (
        adapter(MLX_LM, "adapters.safetensors"),
        "`mlx-gptoss chat -m openai/gpt-oss-20b -a ",
    ),
    "lora-leftovers": (
        with_tensors(Q_PROJ.replace("weight", "lora_A.weight")),
        MERGE,
    ),
    "lora-default": (
        with_tensors(FIRST + "self_attn.q_proj.lora_B.default.weight"),
        MERGE,
    ),
    "lora-mlx": (with_tensors(FIRST + "self_attn.q_proj.lora_a"), MERGE),
    "lora-on-experts": (with_tensors(FIRST + "mlp.experts.lora_A.weight"), MERGE),
    "dora": (
        with_tensors(FIRST + "self_attn.q_proj.lora_magnitude_vector.default"),
        MERGE,
    ),
    "base-layer": (
        renamed(lambda name: name.replace("q_proj.", "q_proj.base_layer.")),
        MERGE,
    ),
    "modules-to-save": (with_tensors("lm_head.modules_to_save.weight"), MERGE),
    "original-module": (
        instead("lm_head.weight", "lm_head.original_module.weight"),
        MERGE,
    ),
    # wrappers
    "language-model": (
        beginning_with("language_model."),
        "which a multimodal model adds",
    ),
    "language-model-inside": (
        renamed(lambda name: name.replace("model.", "model.language_model.", 1)),
        "has the prefix `model.language_model.`",
    ),
    "pictures": (
        with_tensors("model.visual.blocks.0.attn.qkv.weight", vision_config={}),
        "belongs to the pictures' part of a multimodal model: save only its text model",
    ),
    "unknown-prefix": (beginning_with("student."), "save the model without it"),
    "no-model": (
        renamed(lambda name: name.removeprefix("model.")),
        "lacks the prefix `model.`",
    ),
    # other tools' names
    "one-expert-missing": (
        lambda folder: write(
            folder,
            {
                name: x
                for name, x in single_experts("{part}s.{e}").items()
                if "gate_up_projs.2." not in name
            },
        ),
        "expert 2 of `model.layers.0.mlp.experts.gate_up_proj.weight` is missing from",
    ),
    "last-expert-missing": (
        lambda folder: write(
            folder,
            {
                name: x
                for name, x in single_experts("{e}.{part}").items()
                if ".experts.4." not in name
            },
        ),
        "says that `num_local_experts` is 5, tensor "
        "`model.layers.0.mlp.experts.*.gate_up_proj.bias` 4: gpt-oss has one value in "
        "a layer",
    ),
    "experts-stacked-here-and-single-there": (
        mixed_experts(single=lambda name: ".layers.1." in name),
        "has the experts of `model.layers.0.mlp.experts.down_proj` in one tensor and "
        "those of `model.layers.1.mlp.experts.down_proj` one by one: save them all",
    ),
    "gate-up-single-and-down-stacked": (
        mixed_experts(single=lambda name: ".gate_up_proj" in name),
        "has the experts of `model.layers.0.mlp.experts.down_proj` in one tensor and "
        "those of `model.layers.0.mlp.experts.gate_up_proj` one by one",
    ),
    "experts-twice": (
        mixed_experts(single=lambda name: True, stacked=lambda name: True),
        "has the experts of `model.layers.0.mlp.experts.down_proj` twice, in one "
        "tensor and one by one (and 7 more): remove",
    ),
    "experts-unlike": (
        lambda folder: write(
            folder,
            single_experts("{part}s.{e}")
            | {FIRST + "mlp.experts.down_projs.1.bias": np.ones(3, np.float32)},
        ),
        "shape (3,), expert 0 is BF16 of shape (64,): save all experts of a layer",
    ),
    "one-name-twice": (
        lambda folder: write(folder, DENSE | {"module." + Q_PROJ: DENSE[Q_PROJ]}),
        f"are both `{Q_PROJ}`: remove the one",
    ),
    "other-names": (
        renamed(lambda name: name.replace(".sinks", ".sink_logits")),
        "which gpt-oss has not: another tool's names or another model's weights",
    ),
    "vllm": (
        renamed(lambda name: name.replace("q_proj", "qkv_proj")),
        "a name that vLLM gives to fused weights",
    ),
    "megatron": (
        lambda folder: write(
            folder,
            {"decoder.layers.0.self_attention.linear_qkv.weight": DENSE[Q_PROJ]},
        ),
        "a name of Megatron or NeMo",
    ),
    "mixtral": (
        with_tensors(FIRST + "block_sparse_moe.gate.weight"),
        "a name of Mixtral",
    ),
    "gguf-names": (
        lambda folder: write(folder, {"blk.0.attn_q.weight": DENSE[Q_PROJ]}),
        "convert the GGUF itself",
    ),
    "llama": (
        lambda folder: write(folder, DENSE, model_type="llama"),
        "`model_type` = 'llama'",
    ),
    "llama-without-a-type": (
        lambda folder: write(
            folder,
            {"model.layers.0.mlp.gate_proj.weight": DENSE[Q_PROJ]},
            model_type=...,
        ),
        "has no gpt-oss weights",
    ),
    # quantized by others
    "bitsandbytes": (
        with_tensors(Q_PROJ + ".absmax", Q_PROJ + ".quant_map"),
        f"quantized by bitsandbytes: not supported, {UNQUANTIZED}",
    ),
    "bitsandbytes-state": (
        with_tensors(Q_PROJ + ".quant_state.bitsandbytes__nf4"),
        "are bitsandbytes in 4 bits, which MLX does not compute: convert them with",
    ),
    "gptq": (
        instead(Q_PROJ, *(Q_PROJ.replace("weight", x) for x in ("qweight", "g_idx"))),
        "quantized by GPTQ",
    ),
    "awq": (
        instead(Q_PROJ, *(Q_PROJ.replace("weight", x) for x in ("qweight", "qzeros"))),
        "quantized by AWQ or GPTQ",
    ),
    "fp8-scales": (with_tensors(Q_PROJ + "_scale_inv"), "quantized to FP8"),
    "nvfp4": (with_tensors(Q_PROJ + "_scale_2"), "are NVFP4 of modelopt, which MLX"),
    "nvfp4-compressed": (
        with_tensors(Q_PROJ.replace("weight", "weight_global_scale")),
        "are NVFP4 of compressed-tensors, which MLX does not compute: convert them",
    ),
    "compressed-tensors": (
        instead(Q_PROJ, Q_PROJ + "_packed", Q_PROJ + "_shape"),
        "compressed-tensors",
    ),
    "exl": (with_tensors(FIRST + "self_attn.q_proj.trellis"), "(HQQ or EXL)"),
    "method-without-signs": (
        lambda folder: checkpoints.write_folder(
            folder, PLAIN | {"quantization_config": {"quant_method": "quark"}}, TENSORS
        ),
        "is quantized by AMD Quark (`mxfp4_fp8`: MXFP4 weights for activations in FP8)",
    ),
    "autoround": (
        lambda folder: checkpoints.write_folder(
            folder,
            PLAIN | {"quantization_config": {"quant_method": "auto-round"}},
            TENSORS,
        ),
        f"is quantized by Intel AutoRound, which is not computed here: {UNQUANTIZED}",
    ),
    "unknown-method": (
        lambda folder: checkpoints.write_folder(
            folder, PLAIN | {"quantization_config": {"quant_method": "x9"}}, TENSORS
        ),
        "is quantized by a method named `x9`, which is not computed here",
    ),
    "puzzle": (
        lambda folder: write(folder, DENSE, model_type="gpt_oss_puzzle"),
        "is gpt-oss-puzzle, NVIDIA's pruned gpt-oss with attention windows that differ",
    ),
    "puzzle-by-its-blocks": (
        lambda folder: write(folder, DENSE, block_configs=[{}]),
        "use `openai/gpt-oss-120b`, from which it was made",
    ),
    "global-scale": (
        with_tensors(FIRST + "mlp.experts.gate_proj.global_scale"),
        "is a tensor scale of NVFP4 (mlx-lm's `global_scale`), which is not computed",
    ),
    "stale-bits": (
        affine(lambda table: table.update(lm_head={"group_size": 64, "bits": 4})),
        "`quantization.lm_head` = affine in 4 bits, groups of 64, but",
    ),
    "stale-group": (
        affine(lambda table: table.update(lm_head={"group_size": 32, "bits": 8})),
        "is affine in 8 bits, groups of 64: remove that entry",
    ),
    "stale-false": (
        affine(lambda table: table.update({"model.embed_tokens": False})),
        "`quantization.model.embed_tokens` = false, but",
    ),
    "unknown-mode": (
        affine(lambda table: table.update(mode="nf4")),
        "in mode 'nf4', expected one of affine, mxfp4, mxfp8, nvfp4",
    ),
    # dtypes
    "f64-experts": (stored_as(FIRST + "mlp.experts.down_proj", "F64"), BF16),
    "f64-attention": (stored_as(Q_PROJ, "F64"), BF16),
    "f64-blocks": (
        stored_as(FIRST + "mlp.experts.gate_up_proj_blocks", "F64", blocks="_blocks"),
        BF16,
    ),
    "f8-experts": (stored_as(FIRST + "mlp.experts.gate_up_proj", "F8_E4M3"), BF16),
    "f8-blocks": (
        stored_as(FIRST + "mlp.experts.down_proj_blocks", "F8_E5M2", blocks="_blocks"),
        BF16,
    ),
    # sizes
    "cut-in-the-middle": (
        cut_layers(2),
        "layer 2 of 4 is missing from",
    ),
    "cut-at-the-end": (
        cut_layers(3),
        "holds 3 layers, `config.json` says `num_hidden_layers` = 4: if layers were "
        "removed, set it to 3 (with 3 `layer_types`)",
    ),
    "fewer-in-the-config": (
        cut_layers(num_hidden_layers=2, layer_types=...),
        "set it to 4 (with 4 `layer_types`)",
    ),
    "layer-types-too-many": (
        cut_layers(3, num_hidden_layers=3),
        "4 `layer_types` for 3",
    ),
    "fewer-experts": (
        cut_experts(lambda layer: 3),
        "`num_local_experts` = 5, the weights in",
    ),
    "other-experts-by-layer": (
        cut_experts(lambda layer: 5 - layer % 2, num_local_experts=[4, 5, 4, 5]),
        "`num_local_experts` = [4, 5, 4, 5], the weights in",
    ),
    "experts-of-some-layers": (
        cut_experts(lambda layer: 5 - layer % 2, num_local_experts=[5, 4]),
        "2 numbers of experts in `num_local_experts` for 4 `num_hidden_layers`",
    ),
    "fewer-experts-than-chosen": (
        cut_experts(lambda layer: 2, num_local_experts=2),
        "`num_experts_per_tok` = 3, more than `num_local_experts` = 2",
    ),
    "grown-vocabulary": (
        lambda folder: write(
            folder, DENSE | stacked(3, "model.embed_tokens.weight", "lm_head.weight")
        ),
        "`vocab_size` = 301, the weights in",
    ),
    "grown-embedding-only": (
        lambda folder: write(folder, DENSE | stacked(3, "model.embed_tokens.weight")),
        "says that `vocab_size` is 304, tensor `lm_head.weight` 301",
    ),
    "other-heads": (
        lambda folder: write(folder, DENSE, num_attention_heads=4, head_dim=32),
        "`num_attention_heads` = 4, `head_dim` = 32, the weights in",
    ),
    "transposed-experts": (transposed, "it is transposed"),
    "no-head": (instead("lm_head.weight"), "has no output head (`lm_head.weight`"),
    "another-part": (with_tensors("mtp.layers.0.mlp.w.weight"), "has no place in this"),
    # files
    "gap-in-shards": (
        numbered("00001-of-00003", "00003-of-00003"),
        "shard 2 of 3 is missing from",
    ),
    "last-shard-missing": (
        numbered("00000-of-00002", "00001-of-00002"),
        "shard 2 of 2 is missing from",
    ),
    "gguf": (gguf_only, "but a GGUF: convert it with `mlx-gptoss convert"),
    "no-config": (
        lambda folder: checkpoints.save_tensors(folder / "model.safetensors", DENSE),
        "copy the one that was saved with these weights into it",
    ),
    "trainer-output": (trainer_output, "give one of the checkpoints in it, such as"),
}


@pytest.mark.parametrize(("case", "says"), CASES.values(), ids=CASES)
def test_what_a_checkpoint_is_and_what_to_do(
    case: Case, says: str, tmp_path: Path
) -> None:
    case(tmp_path)

    with pytest.raises((CheckpointError, ConfigError)) as error:
        open_checkpoint(tmp_path)

    message = str(error.value)
    assert says in message
    assert "\n" not in message
    assert not re.search(r"download.*again|belong to this", message)


HARMLESS: dict[str, Case] = {
    "base-model": beginning_with("base_model.model."),
    "compiled": beginning_with("_orig_mod."),
    "compiled-layers": renamed(lambda name: name.replace(".0.", ".0._orig_mod.", 1)),
    "fsdp-layers": renamed(
        lambda name: name.replace(".mlp.", "._fsdp_wrapped_module.mlp.")
    ),
    "checkpointed-layers": renamed(
        lambda name: name.replace(
            ".self_attn.", ".self_attn._checkpoint_wrapped_module."
        )
    ),
    "ddp": beginning_with("module."),
    "ddp-compiled": beginning_with("module._orig_mod."),
    "unsloth-experts": one_expert_a_tensor("{part}s.{e}"),
    "unsloth-router": renamed(lambda name: name.replace(".router.", ".router.linear.")),
    "one-expert-a-tensor": one_expert_a_tensor("{e}.{part}"),
    "stale-method": lambda folder: write(
        folder, DENSE, quantization_config={"quant_method": "bitsandbytes"}
    ),
    "stale-table": lambda folder: write(
        folder,
        DENSE,
        quantization={"bits": 8, "group_size": 64, "lm_head": True},
    ),
    "fewer-experts-here-and-there": cut_experts(lambda layer: 5 - layer % 2),
    "experts-by-layer": cut_experts(
        lambda layer: 5 - layer % 2, num_local_experts=[5, 4, 5, 4]
    ),
    "wrappers-over-wrappers": beginning_with("base_model.model.module._orig_mod."),
    "wrappers-over-a-tied-model": lambda folder: write(
        folder,
        {
            f"base_model.model.module._orig_mod.{name}": x
            for name, x in DENSE.items()
            if name != "lm_head.weight"
        },
        tie_word_embeddings=True,
    ),
    "single-experts-in-odd-numbers": mixed_experts(
        single=lambda name: True, count=lambda layer: 5 - layer % 2
    ),
    "scales-of-a-cache": with_tensors(
        *(f"model.layers.{n}.self_attn.{x}_scale" for n in range(4) for x in "kv")
    ),
    "tied": instead("lm_head.weight", tie_word_embeddings=True),
    "tied-with-a-head": with_tensors(tie_word_embeddings=True),
    "stale-mxfp4": lambda folder: checkpoints.write_folder(folder, CONFIG, DENSE),
    "no-method": lambda folder: checkpoints.write_folder(folder, PLAIN, TENSORS),
    "mlx-community": mlx_community,
    "no-table": lambda folder: affine(dict.clear)(folder),
    "shards-from-0": numbered("00000-of-00002", "00001-of-00002", "00002-of-00002"),
    "shards-from-1": numbered("00001-of-00002", "00002-of-00002"),
    "adapter-beside": lambda folder: [
        write(folder, DENSE),
        adapter(PEFT, "adapter_model.safetensors")(folder),
    ],
}


@pytest.mark.parametrize("case", HARMLESS.values(), ids=HARMLESS)
def test_what_only_looks_odd_opens(case: Case, tmp_path: Path) -> None:
    case(tmp_path)

    assert open_checkpoint(tmp_path).config.num_hidden_layers == 4


ADVICE: dict[str, tuple[Case, Config]] = {
    "say-it-is-tied": (CASES["no-head"][0], {"tie_word_embeddings": True}),
    "say-the-layers": (
        CASES["cut-at-the-end"][0],
        {"num_hidden_layers": 3, "layer_types": CONFIG["layer_types"][:3]},
    ),
    "say-the-experts": (CASES["fewer-experts"][0], {"num_local_experts": 3}),
    "say-the-vocabulary": (CASES["grown-vocabulary"][0], {"vocab_size": 304}),
    "say-the-heads": (
        CASES["other-heads"][0],
        {"num_attention_heads": 2, "head_dim": 64},
    ),
}


@pytest.mark.parametrize(("case", "changes"), ADVICE.values(), ids=ADVICE)
def test_the_advice_works(case: Case, changes: Config, tmp_path: Path) -> None:
    case(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    config |= {"num_experts_per_tok": 3, "experts_per_token": 3}
    kept = {key: value for key, value in config.items() if value is not ...}
    (tmp_path / "config.json").write_text(json.dumps(kept))

    assert open_checkpoint(tmp_path).config.hidden_size == 64
