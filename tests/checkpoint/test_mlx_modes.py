"""What mlx-lm quantizes runs as it is, resident and streamed, and converts."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint import check_values, open_checkpoint
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.block_formats import decode_blocks
from mlx_gptoss_convert.measure.verify import verify
from tests.convert.test_convert import run as convert
from tests.support import checkpoints, oracle
from tests.support.mlx_lm_quantized import decoded_by_mlx, write_with_mlx_lm
from tests.support.streaming import resident, streamed

CONFIG = checkpoints.hf_config(
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    hidden_size=64,
    intermediate_size=128,
)
TENSORS = checkpoints.random_tensors(CONFIG, seed=9)
IDS = np.random.default_rng(3).integers(0, 301, 12).tolist()
# Relative: the weights are coarse, so logits are larger than those of other tests.
TOLERANCE = 1e-4


def mixed(path: str, module: Any) -> bool | dict[str, Any]:
    """Give the layers different modes, as mixed recipes do."""
    if path.endswith("router"):
        return False
    if path.endswith("down_proj"):
        bits = 6 if ".1." in path else 3
        return {"group_size": 64, "bits": bits, "mode": "affine"}
    if path.endswith("v_proj"):
        return {"group_size": 32, "bits": 8, "mode": "mxfp8"}
    return {"group_size": 16, "bits": 4, "mode": "nvfp4"}


@pytest.fixture(scope="module", params=["nvfp4", "mxfp8", "mixed"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Path:
    mode = request.param
    where = tmp_path_factory.mktemp(mode)
    if mode == "mixed":
        return write_with_mlx_lm(where, CONFIG, TENSORS, "affine", predicate=mixed)
    return write_with_mlx_lm(where, CONFIG, TENSORS, mode)


def logits(model: Any) -> np.ndarray:
    return np.array(model(mx.array([IDS]))[0])


def test_it_computes_the_oracles_logits_resident_and_streamed(folder: Path) -> None:
    checkpoint = open_checkpoint(folder, strict=True)
    check_values(checkpoint)
    found = logits(resident(checkpoint))

    expected = oracle.logits(decoded_by_mlx(folder), CONFIG, IDS)
    assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()
    with streamed(checkpoint, 4) as other:
        assert np.array_equal(logits(other.model), found)


def test_a_conversion_keeps_the_experts(folder: Path, tmp_path: Path) -> None:
    made = convert(folder, tmp_path / "made")

    report = verify(made, folder)

    assert report.faults == []
    assert report.expert_bytes > 0
    assert report.errors["embed"].summary()["max"] == 0


def test_a_byte_that_is_no_number_is_found(tmp_path: Path) -> None:
    made = write_with_mlx_lm(tmp_path, CONFIG, TENSORS, "mxfp8")
    weight = open_checkpoint(made).tensors["model.layers.1.self_attn.o_proj.weight"]
    with weight.file.open("r+b") as file:
        file.seek(weight.offset + 4 * 33 + 2)
        file.write(bytes([0xFF]))

    with pytest.raises(CheckpointError, match=r"127 or 255 \(NaN\) at \(1, 1\)"):
        check_values(open_checkpoint(made))


@pytest.mark.parametrize(
    ("mode", "group"), [("mxfp4", 32), ("mxfp8", 32), ("nvfp4", 16)]
)
def test_every_byte_decodes_as_mlx_does(mode: str, group: int) -> None:
    codes = np.arange(256, dtype=np.uint8)
    columns = group // (1 if mode == "mxfp8" else 2)
    weight = np.resize(codes, (256, columns))
    scales = codes[:, None]
    expected = mx.dequantize(
        mx.array(weight).view(mx.uint32), mx.array(scales), mode=mode, dtype=mx.float32
    )
    # MLX's table has no NaN for the scale 255, and its largest scales are infinite.
    rows = slice(1, 252)

    found = decode_blocks(weight, scales, mode)[rows]

    known = np.isfinite(found) & np.isfinite(np.array(expected)[rows])
    np.testing.assert_array_equal(found[known], np.array(expected)[rows][known])
    assert known.mean() > 0.95
