"""Measure the KL divergence of quantizing each kind of tensor to each width.

The model runs once unchanged, and once for every kind and width with only that kind
quantized and dequantized, all together layer by layer. `convert --calibration` chooses
recipes by the result.

Peak memory: one layer, with a second copy of its attention in float32.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.files import write
from mlx_gptoss.format.config import Quantization
from mlx_gptoss.format.layout import PACKED, Structure
from mlx_gptoss.model.attention_block import Attention
from mlx_gptoss.model.gpt_oss import Block
from mlx_gptoss_convert.measure.kl import (
    HARMONY_TEXT,
    Progress,
    choose_texts,
    diverge,
)
from mlx_gptoss_convert.measure.layers import EMBEDDING, LM_HEAD, CheckpointModel
from mlx_gptoss_convert.measure.texts import EvaluationText
from mlx_gptoss_convert.plan.recipe import BITS, KINDS, affine, fit_columns
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.read.source import TensorReader
from mlx_gptoss_convert.steps.affine import decode_affine, encode_affine
from mlx_gptoss_convert.steps.codecs import AFFINE_FLOATS

DENSE = Structure(quantization={}, experts=PACKED)
Calibration = dict[str, dict[str, float]]  # KL in nats, by kind and bits


class FakeQuantizedModel:
    """The teacher with the tensors of one kind quantized and dequantized."""

    def __init__(
        self, teacher: CheckpointModel, kind: str, setting: Quantization
    ) -> None:
        self.teacher = teacher
        self.kind = kind
        self.setting = setting

    def embed(self, ids: np.ndarray) -> np.ndarray:
        table = self.teacher.embed(ids)
        return self.fake_quantize(table) if KINDS[self.kind] == EMBEDDING else table

    def block(self, layer: int, teacher: Block) -> Block:
        if KINDS[self.kind] in (EMBEDDING, LM_HEAD):
            return teacher
        checkpoint = self.teacher.checkpoint
        block = Block(checkpoint.config, checkpoint.structure, layer)
        block.self_attn = self.attention(layer, teacher)
        block.mlp = teacher.mlp
        block.input_layernorm = teacher.input_layernorm
        block.post_attention_layernorm = teacher.post_attention_layernorm
        block.eval()
        return block

    def attention(self, layer: int, teacher: Block) -> Attention:
        """Copy the teacher's attention as dense, with one matrix fake-quantized."""
        prefix = f"model.layers.{layer}"
        weights, biases = {}, {}
        for kind in "qkvo":
            path = prefix + KINDS[kind]
            slices = self.teacher.rows(path)
            if kind == self.kind:
                slices = map(self.fake_quantize, slices)
            weights[kind] = np.concatenate(list(slices))
            biases[kind] = self.teacher.values.floats(f"{path}.bias")
        attention = Attention(self.teacher.checkpoint.config, DENSE, layer)
        attention.load_weights(
            [
                ("qkv_proj.weight", concatenated(weights, "qkv")),
                ("qkv_proj.bias", concatenated(biases, "qkv")),
                ("o_proj.weight", concatenated(weights, "o")),
                ("o_proj.bias", concatenated(biases, "o")),
                ("sinks", teacher.self_attn.sinks),
            ],
            strict=True,
        )
        return attention

    def adapter(self, layer: int) -> None:
        """Return None: no adapter is measured."""

    def norm(self) -> mx.array:
        return self.teacher.norm()

    def head(self) -> Iterator[np.ndarray]:
        rows = self.teacher.head()
        return map(self.fake_quantize, rows) if KINDS[self.kind] == LM_HEAD else rows

    def fake_quantize(self, rows: np.ndarray) -> np.ndarray:
        """Quantize and dequantize rows as a conversion would."""
        setting = fit_columns(self.setting, rows.shape[1])
        if setting is None:
            return rows
        bits, group_size = setting.bits, setting.group_size
        packed = encode_affine(
            np.ascontiguousarray(rows),
            bits=bits,
            group_size=group_size,
            dtype=AFFINE_FLOATS,
        )
        return decode_affine(
            packed, bits=bits, group_size=group_size, dtype=AFFINE_FLOATS
        )


def concatenated(arrays: dict[str, np.ndarray], kinds: str) -> mx.array:
    return mx.array(np.concatenate([arrays[kind] for kind in kinds]))


def calibrate(
    checkpoint: Checkpoint,
    texts: Sequence[EvaluationText],
    *,
    bits: Sequence[int] = BITS,
    progress: Progress | None = None,
) -> Calibration:
    """Measure every kind of tensor in every width on `texts`."""
    with TensorReader() as source:
        teacher = CheckpointModel(checkpoint, source)
        students = [
            FakeQuantizedModel(teacher, kind, affine(width))
            for kind in KINDS
            for width in bits
        ]
        found = diverge(teacher, students, texts, progress=progress)
    table: Calibration = {kind: {} for kind in KINDS}
    for student, divergence in zip(students, found, strict=True):
        table[student.kind][str(student.setting.bits)] = divergence.kl
    return table


def calibrate_folder(
    folder: Path,
    path: Path,
    *,
    text: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Calibrate a checkpoint on `text` or the bundled conversations; write `path`."""
    source = open_source(folder)
    texts = choose_texts(source, text)
    table = calibrate(source.checkpoint, texts, progress=progress)
    save_calibration(table, HARMONY_TEXT if text is None else text.name, path)


def save_calibration(table: Calibration, text: str, path: Path) -> None:
    """Write the file that `convert --calibration` reads; `text` names the text used."""
    content = json.dumps({"text": text, "kl": table}, indent=2) + "\n"
    write(path, content, private=False)
