"""NVFP4 in a GGUF (`FreedomAISVR/gpt-oss-20B-NVFP4-GGUF`), judged by `gguf`."""

import re
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from mlx_gptoss.cli import cli
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss_convert.measure.verify import verify
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.steps.affine import from_float32
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.gguf import FILE, make_gguf_plan
from tests.convert.test_convert import expert_bytes, raw_tensors
from tests.support import checkpoints, layout_writers
from tests.support.demo_checkpoint import ANSWER, ask, demo_folder
from tests.support.foreign_ggufs import (
    Tensors,
    metadata_of,
    read_tensors,
    write_gguf,
)
from tests.support.gguf_conversions import to_gguf, to_mlx, write_tokenizer

CONFIG = checkpoints.hf_config(
    num_hidden_layers=2, hidden_size=128, intermediate_size=192, num_attention_heads=2
)
TENSORS = checkpoints.random_tensors(CONFIG, seed=21)
EXPERTS = re.compile(r"blk\.\d+\.ffn_(gate|up|down)_exps\.weight")
MATRICES = re.compile(r"blk\.\d+\.attn_(q|output)\.weight|token_embd\.weight")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    layout_writers.WRITERS["hf"](folder / "source", CONFIG, TENSORS)
    write_tokenizer(folder / "source" / "tokenizer.json", "gpt-4o")
    return to_gguf(folder / "source", folder / "gguf") / FILE


def blocks(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Pack codes (..., columns) and scales (..., columns / 16) as ggml does."""
    groups = codes.reshape(-1, 4, 16)
    packed = groups[:, :, :8] | (groups[:, :, 8:] << 4)
    joined = np.concatenate([scales.reshape(-1, 4), packed.reshape(-1, 32)], axis=1)
    return joined.astype(np.uint8).reshape(*codes.shape[:-1], -1)


def random_blocks(shape: tuple[int, ...], seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    scales = draw.integers(0, 128, (*shape[:-1], shape[-1] // 16), np.uint8)
    return blocks(draw.integers(0, 16, shape, np.uint8), scales)


def cast_experts(tensors: Tensors) -> Tensors:
    """Store MXFP4 experts as NVFP4 with the same codes, as a cast does.

    Scales of groups are powers of two, and each expert has one of its own.
    """
    made: Tensors = {}
    for name, (data, kind) in tensors.items():
        if not EXPERTS.fullmatch(name):
            made[name] = data, kind
            continue
        stored = data.reshape(*data.shape[:-1], -1, 17)
        low, high = stored[..., 1:] & 15, stored[..., 1:] >> 4
        codes = np.concatenate([low, high], axis=-1).reshape(*data.shape[:-1], -1)
        exponents = stored[..., 0].astype(int) - 127
        largest = exponents.max(axis=(1, 2))
        own = np.repeat(exponents - largest[:, None, None], 2, axis=-1)
        assert own.min() > -7
        made[name] = blocks(codes, ((own + 7) << 3).astype(np.uint8)), Kind.NVFP4
        path = name.removesuffix(".weight")
        made[f"{path}.scale"] = (2.0**largest).astype(np.float32), Kind.F32
        made[f"{path}.input_scale"] = np.full(len(largest), 3, np.float32), Kind.F32
    return made


def written(ours: Path, path: Path, tensors: Tensors) -> Path:
    pairs = metadata_of(gguf.GGUFReader(ours))
    return write_gguf(path, "gpt-oss", pairs, tensors)


def test_experts_that_were_mxfp4_come_back_bit_by_bit(
    ours: Path, tmp_path: Path
) -> None:
    cast = cast_experts(read_tensors(gguf.GGUFReader(ours)))
    theirs = written(ours, tmp_path / "theirs.gguf", cast)
    (note,) = open_source(theirs).notes
    assert (
        "6 expert matrices are stored as NVFP4: they become MXFP4, bit by bit" in note
    )

    made = to_mlx(theirs, tmp_path / "made")

    found = raw_tensors(made)
    assert {name: found[name] for name in expert_bytes(TENSORS)} == expert_bytes(
        TENSORS
    )
    assert verify(made, theirs).faults == []


def test_matrices_become_what_the_package_decodes(ours: Path, tmp_path: Path) -> None:
    tensors = read_tensors(gguf.GGUFReader(ours))
    for seed, (name, stored) in enumerate(tensors.items()):
        if MATRICES.fullmatch(name):
            shape = dequantize(*stored).shape
            tensors[name] = random_blocks(shape, seed), Kind.NVFP4
    theirs = written(ours, tmp_path / "theirs.gguf", tensors)
    made = to_mlx(theirs, tmp_path / "made")
    found = raw_tensors(made)
    for name, stored in (
        ("model.layers.0.self_attn.q_proj", "blk.0.attn_q"),
        ("model.embed_tokens", "token_embd"),
    ):
        data, kind = tensors[f"{stored}.weight"]
        exact = from_float32(dequantize(data, kind), "BF16").reshape(-1)
        bits = np.frombuffer(found[f"{name}.weight"], np.uint16)
        # As numbers: the package drops the sign of codes that are zero.
        one, other = (
            (x.astype(np.uint32) << 16).view(np.float32) for x in (bits, exact)
        )
        np.testing.assert_array_equal(one, other)
    assert verify(made, theirs).faults == []


def test_the_scale_of_a_matrix_multiplies_its_values(
    ours: Path, tmp_path: Path
) -> None:
    tensors = read_tensors(gguf.GGUFReader(ours))
    name, expected = "blk.1.attn_q", []
    data = random_blocks((2 * 64, 128), 5)
    for scale in (1.0, 4.0):
        tensors[f"{name}.weight"] = data, Kind.NVFP4
        tensors[f"{name}.scale"] = np.array([scale], np.float32), Kind.F32
        theirs = written(ours, tmp_path / f"{scale}.gguf", tensors)
        made = raw_tensors(to_mlx(theirs, tmp_path / f"made-{scale}"))
        bits = np.frombuffer(made["model.layers.1.self_attn.q_proj.weight"], np.uint16)
        expected.append((bits.astype(np.uint32) << 16).view(np.float32))
    np.testing.assert_array_equal(4 * expected[0], expected[1])


@pytest.mark.parametrize(
    ("path", "scale", "words"),
    [
        ("blk.0.attn_k", [2.0], "scales a matrix that is not NVFP4"),
        ("blk.0.ffn_up_exps", [1.0, 2.0], "has 2 values, `blk.0.ffn_up_exps.weight`"),
        ("blk.0.ffn_up_exps", [np.nan], "is not one or a few finite floats"),
    ],
)
def test_odd_scales_are_refused(
    ours: Path, tmp_path: Path, path: str, scale: list[float], words: str
) -> None:
    tensors = cast_experts(read_tensors(gguf.GGUFReader(ours)))
    tensors[f"{path}.scale"] = np.array(scale, np.float32), Kind.F32
    theirs = written(ours, tmp_path / "theirs.gguf", tensors)
    with pytest.raises(CheckpointError, match=re.escape(words)):
        open_source(theirs)


def test_a_scale_of_one_beside_another_type_has_no_effect(
    ours: Path, tmp_path: Path
) -> None:
    tensors = read_tensors(gguf.GGUFReader(ours))
    tensors["blk.0.attn_k.scale"] = np.ones(1, np.float32), Kind.F32
    theirs = written(ours, tmp_path / "theirs.gguf", tensors)
    assert open_source(theirs).checkpoint.config.num_hidden_layers == 2


@pytest.mark.soak
def test_the_demo_answers_out_of_nvfp4(tmp_path: Path) -> None:
    opened = open_source(demo_folder())
    plan = make_gguf_plan(
        opened.checkpoint, RECIPES["lossless"], files=opened.files, pre="gpt-4o"
    )
    convert(plan, tmp_path / "gguf")
    whole = tmp_path / "gguf" / FILE
    cast = cast_experts(read_tensors(gguf.GGUFReader(whole)))
    theirs, made = written(whole, tmp_path / "theirs.gguf", cast), tmp_path / "made"
    for words in (["convert", theirs, made], ["verify", made, "--against", theirs]):
        result = CliRunner().invoke(cli, list(map(str, words)))
        assert result.exit_code == 0, result.stderr
    assert ANSWER in ask(made)
