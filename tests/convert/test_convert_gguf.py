"""GGUF in and out, judged by the package `gguf` of llama.cpp's own project."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from gguf.quants import dequantize, quantize

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.errors import CheckpointError, ConversionError, GptOssError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss_convert.measure.verify import verify
from mlx_gptoss_convert.plan.plan import ConversionPlan, make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES, affine
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.read.gguf import ARRAY, read_gguf
from mlx_gptoss_convert.read.gguf_tokenizer import PRE_TOKENIZERS
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.gguf import FILE, make_gguf_plan
from mlx_gptoss_convert.write.gguf_header import encode_value
from mlx_gptoss_convert.write.hf import make_hf_plan
from tests.convert.test_convert import IDS, LOGITS, expert_bytes, logits, raw_tensors
from tests.support import oracle
from tests.support.checkpoints import (
    hf_config,
    random_tensors,
    to_bfloat16,
    write_folder,
)
from tests.support.layout_writers import WRITERS, dense_experts

CONFIG = hf_config(num_hidden_layers=2, intermediate_size=128, swiglu_limit=7.0)
TENSORS = random_tensors(CONFIG, seed=11)
WORDS = ["ab", "abc", " d"]  # merged from single bytes
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "lm_head.weight": "output.weight",
    "model.norm.weight": "output_norm.weight",
    "model.layers.1.input_layernorm.weight": "blk.1.attn_norm.weight",
    "model.layers.0.post_attention_layernorm.weight": (
        "blk.0.post_attention_norm.weight"
    ),
    "model.layers.1.self_attn.q_proj.weight": "blk.1.attn_q.weight",
    "model.layers.1.self_attn.k_proj.bias": "blk.1.attn_k.bias",
    "model.layers.1.self_attn.o_proj.weight": "blk.1.attn_output.weight",
    "model.layers.1.self_attn.sinks": "blk.1.attn_sinks.weight",
    "model.layers.1.mlp.router.weight": "blk.1.ffn_gate_inp.weight",
    "model.layers.1.mlp.router.bias": "blk.1.ffn_gate_inp.bias",
    "model.layers.1.mlp.experts.down_proj_bias": "blk.1.ffn_down_exps.bias",
}


def write_tokenizer(path: Path, pre: str = "smollm") -> None:
    """Write a byte-level vocabulary of a few words, with a special token."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "ab", "abc", "Ġd"]
    raw = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": len(tokens) + i,
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, content in enumerate(("<|return|>", "<|end|>", "<|call|>"))
        ],
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [["a", "b"], ["ab", "c"], ["Ġ", "d"]],
        },
    }
    path.write_text(json.dumps(raw))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


def write_source(folder: Path, layout: str = "hf") -> Path:
    WRITERS[layout](folder, CONFIG, TENSORS)
    write_tokenizer(folder / "tokenizer.json")
    return folder


def to_gguf(source: Path, dst: Path, recipe: str = "lossless") -> Path:
    opened = open_source(source)
    plan = make_gguf_plan(opened.checkpoint, RECIPES[recipe], files=opened.files)
    convert(plan, dst)
    return dst


def to_mlx(source: Path, dst: Path, recipe: str = "lossless", **options: Any) -> Path:
    opened = open_source(source)
    plan = make_plan(opened.checkpoint, RECIPES[recipe], files=opened.files, **options)
    convert(plan, dst)
    return dst


def to_hf(source: Path, dst: Path) -> Path:
    opened = open_source(source)
    convert(make_hf_plan(opened.checkpoint, files=opened.files), dst)
    return dst


def read_by_judge(folder: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(folder / FILE)
    return {tensor.name: tensor for tensor in reader.tensors}


def values_by_judge(tensor: Any) -> np.ndarray:
    return dequantize(tensor.data, tensor.tensor_type)


def test_the_judge_reads_the_values_of_every_kind_of_tensor(
    source: Path, tmp_path: Path
) -> None:
    found = read_by_judge(to_gguf(source, tmp_path / "out"))
    for ours, theirs in NAMES.items():
        np.testing.assert_array_equal(
            values_by_judge(found[theirs]), TENSORS[ours], err_msg=theirs
        )
    dense = dense_experts(TENSORS)
    gate_up = dense["model.layers.1.mlp.experts.gate_up_proj"].swapaxes(1, 2)
    bias = TENSORS["model.layers.1.mlp.experts.gate_up_proj_bias"]
    expected = {
        "blk.1.ffn_gate_exps.weight": gate_up[:, 0::2],
        "blk.1.ffn_up_exps.weight": gate_up[:, 1::2],
        "blk.1.ffn_gate_exps.bias": bias[:, 0::2],
        "blk.1.ffn_up_exps.bias": bias[:, 1::2],
        "blk.1.ffn_down_exps.weight": dense[
            "model.layers.1.mlp.experts.down_proj"
        ].swapaxes(1, 2),
    }
    seen = {name: values_by_judge(found[name]) for name in expected}
    np.testing.assert_equal(seen, expected)
    assert len(found) == 3 + 2 * 19


def test_the_judge_reads_the_metadata(source: Path, tmp_path: Path) -> None:
    fields = gguf.GGUFReader(to_gguf(source, tmp_path / "out") / FILE).fields
    expected = {
        "general.architecture": "gpt-oss",
        "gpt-oss.attention.sliding_window": 8,
        "gpt-oss.expert_feed_forward_length": 128,
        "gpt-oss.expert_used_count": 3,
        "gpt-oss.rope.freq_base": 150000.0,
        "gpt-oss.rope.scaling.original_context_length": 4096,
        "gpt-oss.rope.scaling.type": "yarn",
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.merges": ["a b", "ab c", "Ġ d"],
        "tokenizer.ggml.pre": "smollm",
    }
    assert {key: fields[key].contents() for key in expected} == expected
    assert len(fields["tokenizer.ggml.tokens"].contents()) == CONFIG["vocab_size"]


@pytest.mark.parametrize("layout", ["hf", "original", "mlx-split-mxfp4", "dense"])
def test_there_and_back_computes_what_the_source_does(
    tmp_path: Path, layout: str
) -> None:
    seen = WRITERS[layout](tmp_path / "source", CONFIG, TENSORS)
    write_tokenizer(tmp_path / "source" / "tokenizer.json")
    out = to_gguf(tmp_path / "source", tmp_path / "out")
    back = to_mlx(out / FILE, tmp_path / "back")
    expected = oracle.logits(seen, CONFIG, IDS)
    np.testing.assert_allclose(logits(back), expected, rtol=0, atol=LOGITS)


def test_every_byte_comes_back_by_way_of_split_packed_and_gguf(
    source: Path, tmp_path: Path
) -> None:
    split = to_mlx(source, tmp_path / "split", experts="split")
    packed = to_mlx(split, tmp_path / "packed")
    out = to_gguf(packed, tmp_path / "out")
    back = to_hf(to_mlx(out, tmp_path / "mlx"), tmp_path / "back")
    assert raw_tensors(back) == raw_tensors(source)


def test_experts_keep_their_bytes_under_every_recipe(
    source: Path, tmp_path: Path
) -> None:
    out = to_gguf(source, tmp_path / "out", "q8")
    found = raw_tensors(to_mlx(out, tmp_path / "back", "q4"))
    expected = expert_bytes(TENSORS)
    assert {name: found[name] for name in expected} == expected


def test_the_config_survives(source: Path, tmp_path: Path) -> None:
    out = to_gguf(source, tmp_path / "out")
    raw = json.loads((to_hf(out, tmp_path / "back") / "config.json").read_text())
    expected = ModelConfig.from_dict({**CONFIG, "eos_token_id": raw["eos_token_id"]})
    assert ModelConfig.from_dict(raw) == expected
    returned, called = 256 + 3, 256 + 5
    assert raw["eos_token_id"] == [2, returned, called]


def test_q8_is_as_close_as_the_judges_own(source: Path, tmp_path: Path) -> None:
    found = read_by_judge(to_gguf(source, tmp_path / "out", "q8"))
    tensor = found["blk.0.attn_q.weight"]
    exact = TENSORS["model.layers.0.self_attn.q_proj.weight"]
    theirs = quantize(exact, gguf.GGMLQuantizationType.Q8_0)
    error, limit = (
        np.sqrt(np.mean((dequantize(x, tensor.tensor_type) - exact) ** 2))
        for x in (tensor.data, theirs)
    )
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0
    assert 0 < error <= limit * 1.001
    router = found["blk.0.ffn_gate_inp.weight"]
    assert router.tensor_type == gguf.GGMLQuantizationType.F32


def test_q8_of_a_gguf_becomes_bfloat16_and_says_so(
    source: Path, tmp_path: Path
) -> None:
    out = to_gguf(source, tmp_path / "out", "q8")
    back = to_mlx(out, tmp_path / "back")
    exact = values_by_judge(read_by_judge(out)["output.weight"])
    found = raw_tensors(back)["lm_head.weight"]
    assert (
        found
        == np.ascontiguousarray(
            (to_bfloat16(exact).view(np.uint32) >> 16).astype(np.uint16)
        ).tobytes()
    )
    assert "dequantize from Q8_0 to bf16" in (back / "README.md").read_text()
    again = to_mlx(out, tmp_path / "again", "q8")
    assert open_checkpoint(again).structure.quantization["lm_head"] == affine(8)


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32", "Q8_0"])
def test_files_of_the_judges_own_are_read(
    source: Path, tmp_path: Path, kind: str
) -> None:
    """Rewrite ours with the writer on PyPI and matrices of another type."""
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


def test_the_tokenizer_comes_back(source: Path, tmp_path: Path) -> None:
    back = to_mlx(to_gguf(source, tmp_path / "out"), tmp_path / "back")
    text = "abc d ab 12 cab's\n <|end|> é"
    ours, theirs = (
        tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        for folder in (source, back)
    )
    assert theirs.encode(text).ids == ours.encode(text).ids
    assert theirs.decode(ours.encode(text).ids) == ours.decode(ours.encode(text).ids)
    assert theirs.get_vocab_size() == ours.get_vocab_size()


@pytest.mark.parametrize("as_folder", [True, False])
def test_another_tokenizer_may_be_given(
    source: Path, tmp_path: Path, as_folder: bool
) -> None:
    out = to_gguf(source, tmp_path / "out")
    given = tmp_path / "given"
    given.mkdir()
    write_tokenizer(given / "tokenizer.json", "gpt-2")
    path = given if as_folder else given / "tokenizer.json"
    opened = open_source(out, tokenizer=path)
    assert (
        opened.files.read("tokenizer.json") == (given / "tokenizer.json").read_bytes()
    )


def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused(
    source: Path,
) -> None:
    raw = json.loads((source / "tokenizer.json").read_text())
    raw["pre_tokenizer"] = {"type": "Whitespace"}
    (source / "tokenizer.json").write_text(json.dumps(raw))
    checkpoint = open_source(source).checkpoint
    with pytest.raises(ConversionError, match="--tokenizer-pre"):
        make_gguf_plan(checkpoint, RECIPES["lossless"])
    plan = make_gguf_plan(checkpoint, RECIPES["lossless"], pre="gpt-2")
    assert b"gpt-2" in plan.shards[0].header


def test_a_source_without_a_tokenizer_is_refused(source: Path) -> None:
    (source / "tokenizer.json").unlink()
    with pytest.raises(ConversionError, match="--tokenizer FILE"):
        make_gguf_plan(open_source(source).checkpoint, RECIPES["lossless"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"swiglu_limit": 5.0}, "swiglu_limit"),
        ({"layer_types": ["full_attention"] * 2}, "layer_types"),
    ],
)
def test_maths_that_llama_cpp_does_not_do_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_folder(tmp_path / "source", {**CONFIG, **change}, TENSORS)
    write_tokenizer(tmp_path / "source" / "tokenizer.json")
    with pytest.raises(ConversionError, match=message):
        make_gguf_plan(open_source(tmp_path / "source").checkpoint, RECIPES["q8"])


def test_bits_that_a_gguf_does_not_hold_are_refused(source: Path) -> None:
    with pytest.raises(ConversionError, match="recipe q8"):
        make_gguf_plan(open_source(source).checkpoint, RECIPES["q4"])


def test_verify_proves_a_gguf_against_its_source(source: Path, tmp_path: Path) -> None:
    out = to_gguf(source, tmp_path / "out")
    report = verify(out, source)
    experts = sum(len(raw) for raw in expert_bytes(TENSORS).values())
    assert (report.faults, report.expert_bytes) == ([], experts)
    assert report.digests == 3 + 2 * 19
    back = to_mlx(out / FILE, tmp_path / "back", "q8")
    assert verify(back, out / FILE).faults == []
    raw = bytearray((out / FILE).read_bytes())
    raw[-40] ^= 1
    (out / FILE).write_bytes(raw)
    assert "is not what `conversion.json` says" in verify(out).faults[0]


def test_verify_measures_what_became_q8(source: Path, tmp_path: Path) -> None:
    out = to_gguf(source, tmp_path / "out", "q8")
    report = verify(out, source)
    assert report.faults == []
    assert 0 < report.errors["lm_head"].largest < 0.01
    assert verify(to_mlx(out, tmp_path / "back"), out).faults == []


class Stopped(Exception):
    """Stands for Ctrl-C, a crash, a power cut."""


def interrupt(plan: ConversionPlan, dst: Path, pieces: int) -> None:
    left = iter(range(pieces))

    def stop(done: int, total: int, tensor: str) -> None:
        if next(left, None) is None:
            raise Stopped

    with pytest.raises(Stopped):
        convert(plan, dst, progress=stop)


@pytest.mark.parametrize("pieces", [0, 1, 20, 36])
@pytest.mark.parametrize("into", ["gguf", "mlx"])
def test_it_goes_on_where_it_was_stopped(
    source: Path, tmp_path: Path, pieces: int, into: str
) -> None:
    opened = open_source(source)
    plan = make_gguf_plan(opened.checkpoint, RECIPES["q8"])
    if into == "mlx":
        opened = open_source(to_gguf(source, tmp_path / "out", "q8"))
        plan = make_plan(opened.checkpoint, RECIPES["q8"], files=opened.files)
    interrupt(plan, tmp_path / "dst", pieces)
    convert(plan, tmp_path / "dst", resume=True)
    convert(plan, tmp_path / "undisturbed")
    found, expected = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("dst", "undisturbed")
    )
    assert found == expected


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
    with pytest.raises(CheckpointError, match="not a GGUF"):
        open_source(path)
    shutil.copy(out, tmp_path / "second.gguf")
    with pytest.raises(CheckpointError, match="2 models"):
        open_source(tmp_path)


def copied(source: Path, path: Path, leave_out: str) -> Path:
    """Copy a GGUF by the judge's own writer, without one tensor."""
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
    with pytest.raises(CheckpointError, match=r"made by llama\.cpp.s converter"):
        open_source(path)
    place = whole.index(b"blk.0.attn_q.weight") + len("blk.0.attn_q.weight") + 4 + 16
    path.write_bytes(whole[:place] + (12).to_bytes(4, "little") + whole[place + 4 :])
    with pytest.raises(
        CheckpointError, match="is stored as Q4_K, readable are F32, F16"
    ):
        open_source(path)
    tied = copied(out, tmp_path / "tied.gguf", "output.weight")
    with pytest.raises(CheckpointError, match=r"there is no output head \(`output"):
        open_source(tied)
    for x in (copied(out, tmp_path / "whole.gguf", ""), out):
        assert open_source(x).checkpoint.config.num_hidden_layers


def test_a_list_of_words_is_written_as_the_judge_writes_it() -> None:
    assert encode_value(ARRAY, ["a", "bc"]) == gguf.GGUFWriter(
        None, "gpt-oss"
    )._pack_val(["a", "bc"], gguf.GGUFValueType.ARRAY, add_vtype=False)
