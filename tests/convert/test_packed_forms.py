"""Goldens of bitsandbytes, modelopt and compressed-tensors, decoded and converted.

`tests/support/packed_goldens.py` made them, with the libraries themselves.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_gptoss.checkpoint import open_checkpoint, read_header
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.mxfp4 import pack, unpack
from mlx_gptoss.memory.units import format_bytes
from mlx_gptoss_convert.measure.verify import verify
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.read.nvfp4 import decode_compressed
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader
from mlx_gptoss_convert.steps.affine import from_float32
from mlx_gptoss_convert.write.conversion import convert
from tests.convert.test_convert import logits, raw_tensors
from tests.support import oracle
from tests.support.packed_digests import assert_decodes_as_the_library_did
from tests.support.packed_goldens import CONFIG, EXPERTS, FOLDER, TENSORS
from tests.support.packed_goldens import GOLDEN_FORMS as FORMS

PARTS = ("gate_up_proj", "down_proj")
CAST = (
    "modelopt",
    "compressed",
    "compressed_cast",
)  # their experts were MXFP4 and lost nothing
IDS = list(range(12))


def converted(form: str, tmp_path: Path) -> Path:
    plan = make_plan(open_source(FOLDER / form).checkpoint, RECIPES["lossless"])
    convert(plan, tmp_path / "made")
    return tmp_path / "made"


@pytest.mark.parametrize("form", FORMS)
def test_every_weight_decodes_as_the_library_does(form: str) -> None:
    assert_decodes_as_the_library_did(FOLDER / form)


@pytest.mark.parametrize("form", FORMS)
def test_any_bytes_of_a_weight_are_those_of_the_whole(form: str) -> None:
    checkpoint = open_source(FOLDER / form).checkpoint
    name = "model.layers.0.mlp.experts.down_proj.weight"
    stored = SourceTensor.from_checkpoint(name, checkpoint.tensors[name])
    with TensorReader() as reader:
        whole = reader.read(stored, 0, stored.nbytes)
        for start, stop in (
            (0, 2),
            (2, 300),
            (130, 8194),
            (8190, 20480),
            (24574, 24576),
        ):
            part = reader.read(stored, start, stop)
            np.testing.assert_array_equal(part, whole[start:stop])


@pytest.mark.parametrize("form", ["modelopt", "compressed_cast"])
def test_experts_cast_from_mxfp4_come_back_bit_by_bit(
    form: str, tmp_path: Path
) -> None:
    found = raw_tensors(converted(form, tmp_path))

    for part in PARTS:
        blocks, scales = (TENSORS[f"{EXPERTS}{part}_{x}"] for x in ("blocks", "scales"))
        nibbles = unpack(blocks)  # both libraries drop the sign of zeros
        kept = pack(np.where(nibbles == 8, 0, nibbles).astype(np.uint8))
        assert found[f"{EXPERTS}{part}_blocks"] == kept.tobytes()
        assert found[f"{EXPERTS}{part}_scales"] == scales.tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_a_converted_model_computes_what_was_decoded(form: str, tmp_path: Path) -> None:
    made = converted(form, tmp_path)

    report = verify(made, FOLDER / form)
    assert report.faults == []
    lossy = json.loads((made / "conversion.json").read_text())["lossy_blocks"]
    assert bool(lossy) == (form not in CAST)
    if form in CAST:
        seen = oracle.logits(TENSORS, CONFIG, IDS)
        found = logits(made, IDS)
        assert np.corrcoef(found.ravel(), seen.ravel())[0, 1] > 0.98


def test_a_reciprocal_scale_divides_as_compressed_tensors_does(tmp_path: Path) -> None:
    """Multiplying by 1 / total may round otherwise: found on the demo's attention."""
    group = np.float32(1.125)  # 0x39 in E4M3
    totals = np.random.default_rng(3).uniform(500, 9000, 200_000).astype(np.float32)
    exact = from_float32(3 * (group / totals), "BF16")
    differs = exact != from_float32(3 * (group * (1 / totals)), "BF16")
    assert differs.any()
    for total, expected in zip(totals[differs][:3], exact[differs][:3], strict=True):
        save_file(
            {
                "w.weight_packed": np.full((4, 8), 0x55, np.uint8),  # 3 in each nibble
                "w.weight_scale": np.full((4, 1), 0x39, np.uint8),
                "w.weight_global_scale": np.array([total]),
            },
            tmp_path / "w.safetensors",
        )
        shown = decode_compressed(read_header(tmp_path / "w.safetensors"))["w.weight"]
        source = SourceTensor.from_checkpoint("w.weight", shown)
        with TensorReader() as reader:
            found = reader.read(source, 0, source.nbytes).view(np.uint16)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", FORMS)
def test_loading_one_says_how_to_convert_it_and_what_it_takes(
    form: str, tmp_path: Path
) -> None:
    plan = make_plan(open_source(FOLDER / form).checkpoint, RECIPES["q8"])

    with pytest.raises(CheckpointError) as error:
        open_checkpoint(FOLDER / form)

    message = str(error.value)
    assert f"convert them with `mlx-gptoss convert {FOLDER / form} DST`" in message
    assert f"takes about {format_bytes(plan.nbytes)} of disk" in message


def test_a_golden_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(FOLDER / "modelopt", folder)
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'q_proj.weight_scale"', b'q_proj.weight_scalf"'))

    with pytest.raises(CheckpointError, match="of an NVFP4 matrix is missing"):
        open_source(folder)
