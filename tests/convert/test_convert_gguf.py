"""GGUF in and out, judged by the package `gguf` of llama.cpp's project."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss_convert.measure.verify import verify
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES, affine
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.gguf import FILE, make_gguf_plan
from tests.convert.test_convert import IDS, LOGITS, expert_bytes, logits, raw_tensors
from tests.support import oracle
from tests.support.checkpoints import (
    to_bfloat16,
    write_folder,
)
from tests.support.conversions import contents, interrupt
from tests.support.gguf_conversions import (
    CONFIG,
    NAMES,
    TENSORS,
    read_by_judge,
    to_gguf,
    to_hf,
    to_mlx,
    values_by_judge,
    write_source,
    write_tokenizer,
)
from tests.support.layout_writers import WRITERS, dense_experts


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


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
    assert contents(tmp_path / "dst") == contents(tmp_path / "undisturbed")
