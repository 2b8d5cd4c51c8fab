"""GGUF files of other tools, in parts, damaged, or of other models."""

import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from mlx_gptoss.errors import CheckpointError, GptOssError
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.read.gguf import read_gguf
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.gguf import FILE
from mlx_gptoss_convert.write.hf import make_hf_plan
from tests.convert.test_convert import raw_tensors
from tests.support.checkpoints import (
    to_bfloat16,
)
from tests.support.foreign_ggufs import rewrite
from tests.support.gguf_conversions import (
    NAMES,
    TENSORS,
    to_gguf,
    values_by_judge,
    write_source,
)


def test_a_part_under_another_name_is_said_to_be_one(tmp_path: Path) -> None:
    whole = to_gguf(write_source(tmp_path / "source"), tmp_path / "out") / FILE
    counts = {
        "split.no": (0, gguf.GGUFValueType.UINT16, None),
        "split.count": (2, gguf.GGUFValueType.UINT16, None),
    }
    part = rewrite(whole, tmp_path / "gpt-oss.gguf", metadata=counts)
    with pytest.raises(CheckpointError, match="is one of 2 parts of a model: give all"):
        open_source(part)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32", "Q8_0"])
def test_files_of_the_judges_own_are_read(
    source: Path, tmp_path: Path, kind: str
) -> None:
    """Rewrite a GGUF with the `gguf` package and matrices of another type."""
    reader = gguf.GGUFReader(to_gguf(source, tmp_path / "out") / FILE)
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "gpt-oss")
    for field in reader.fields.values():
        if field.name.startswith(("gpt-oss.", "tokenizer.")):
            inner = field.types[-1] if len(field.types) > 1 else None
            value = field.contents()
            writer.add_key_value(field.name, value, field.types[0], sub_type=inner)
    wanted = gguf.GGMLQuantizationType[kind]
    expected = dict(TENSORS)
    for tensor in reader.tensors:
        if tensor.tensor_type != gguf.GGMLQuantizationType.BF16:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        data = quantize(values_by_judge(tensor), wanted)
        writer.add_tensor(tensor.name, data, raw_dtype=wanted)
        ours = next((k for k, v in NAMES.items() if v == tensor.name), None)
        if ours is not None:
            expected[ours] = dequantize(data, wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = open_source(tmp_path / "theirs.gguf")
    convert(
        make_plan(opened.checkpoint, RECIPES["lossless"], files=opened.files),
        tmp_path / "back",
    )
    found = raw_tensors(tmp_path / "back")["lm_head.weight"]
    dtype = np.float16 if kind == "F16" else np.uint16
    values = np.frombuffer(found, dtype)
    if kind != "F16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    exact = expected["lm_head.weight"]
    exact = exact if kind == "F16" else to_bfloat16(exact)
    np.testing.assert_array_equal(values.reshape(exact.shape), exact)


def test_a_model_in_parts_is_read_whole(source: Path, tmp_path: Path) -> None:
    out = to_gguf(source, tmp_path / "out")
    parts = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    reader = gguf.GGUFReader(out / FILE)
    for path, tensors in zip(
        parts, (reader.tensors[::2], reader.tensors[1::2]), strict=True
    ):
        writer = gguf.GGUFWriter(path, "gpt-oss")
        for field in reader.fields.values():
            if field.name.startswith("gpt-oss.") and path == parts[0]:
                writer.add_key_value(field.name, field.contents(), field.types[0])
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    opened = open_source(parts[1], tokenizer=source)
    assert len(opened.checkpoint.files) == 2
    convert(make_hf_plan(opened.checkpoint), tmp_path / "back")
    assert raw_tensors(tmp_path / "back") == raw_tensors(source)
    parts[0].unlink()
    with pytest.raises(CheckpointError, match="2 parts are needed"):
        open_source(parts[1])


def test_damaged_files_are_named_errors(source: Path, tmp_path: Path) -> None:
    whole = (to_gguf(source, tmp_path / "out") / FILE).read_bytes()
    head = read_gguf(tmp_path / "out" / FILE).data_start
    path = tmp_path / "damaged.gguf"
    draw = np.random.default_rng(1)
    refused = 0
    for i in range(60):
        raw = bytearray(whole)
        if i % 3 == 0:
            raw = raw[: int(draw.integers(0, len(raw)))]
        else:
            places = draw.integers(0, head, 1 + i % 5)
            raw[int(places[0])] = 0xFF
            for place in places[1:]:
                raw[int(place)] = int(draw.integers(0, 256))
        path.write_bytes(raw)
        try:
            open_source(path)
        except GptOssError as error:
            refused += 1
            assert len(str(error)) < 500
    assert refused > 30


def test_other_kinds_of_gguf_are_refused(source: Path, tmp_path: Path) -> None:
    out = to_gguf(source, tmp_path / "out") / FILE
    whole = out.read_bytes()
    path = tmp_path / "other.gguf"
    path.write_bytes(whole.replace(b"gpt-oss", b"gpt-osx"))
    with pytest.raises(CheckpointError, match="architecture"):
        open_source(path)
    path.write_bytes(b"GGML" + whole[4:])
    with pytest.raises(CheckpointError, match="begins with b'GGML', not with `GGUF`"):
        open_source(path)
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(CheckpointError, match="is a web page"):
        open_source(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"has 0 bytes.*download it again"):
        open_source(path)
    path.write_bytes(b"GGML" + whole[4:])
    shutil.copy(out, tmp_path / "second.gguf")
    with pytest.raises(CheckpointError, match="2 models"):
        open_source(tmp_path)


def copied(source: Path, path: Path, leave_out: str) -> Path:
    """Copy a GGUF with the `gguf` package, without one tensor."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "gpt-oss")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kinds = [*field.types, None]
            writer.add_key_value(key, field.contents(), *kinds[:2])
    for tensor in reader.tensors:
        if tensor.name != leave_out:
            kind = tensor.tensor_type
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_another_tool_made_of_a_gguf_is_said(source: Path, tmp_path: Path) -> None:
    out = to_gguf(source, tmp_path / "out") / FILE
    whole = out.read_bytes()
    path = tmp_path / "other.gguf"
    renamed = whole.replace(b"post_attention_norm", b"ffn_norm_of_a_model")
    path.write_bytes(renamed)
    with pytest.raises(CheckpointError, match=r"ffn_norm.* has no name of llama.cpp's"):
        open_source(path)
    path.write_bytes(whole.replace(b"gpt-oss", b"gptoss_"))
    with pytest.raises(CheckpointError, match=r"expected `gpt-oss` or Ollama's"):
        open_source(path)
    place = whole.index(b"blk.0.attn_q.weight") + len("blk.0.attn_q.weight") + 4 + 16
    path.write_bytes(whole[:place] + (21).to_bytes(4, "little") + whole[place + 4 :])
    with pytest.raises(
        CheckpointError, match="is stored as IQ3_S, readable are F32, F16"
    ):
        open_source(path)
    tied = copied(out, tmp_path / "tied.gguf", "output.weight")
    with pytest.raises(CheckpointError, match=r"has no output head \(`output"):
        open_source(tied)
    for x in (copied(out, tmp_path / "whole.gguf", ""), out):
        assert open_source(x).checkpoint.config.num_hidden_layers
