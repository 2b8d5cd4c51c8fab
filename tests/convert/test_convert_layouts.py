"""Every layout of a checkpoint, converted losslessly and quantized."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_gptoss.format.mxfp4 import decode
from tests.convert.test_convert import (
    CHANGES,
    CONFIG,
    IDS,
    LOGITS,
    TENSORS,
    expert_bytes,
    logits,
    raw_tensors,
    run,
    write_source,
)
from tests.support import oracle
from tests.support.layout_writers import AFFINE, DENSE, WRITERS


@pytest.mark.parametrize("layout", WRITERS)
def test_a_lossless_conversion_computes_what_the_source_does(
    tmp_path: Path, layout: str
) -> None:
    seen = write_source(tmp_path / "source", layout)
    result = run(tmp_path / "source", tmp_path / "result")
    expected = oracle.logits(seen, CONFIG, IDS)
    np.testing.assert_allclose(logits(result), expected, rtol=0, atol=LOGITS)


@pytest.mark.parametrize("layout", sorted(set(WRITERS) - DENSE - AFFINE))
def test_experts_keep_their_bytes(tmp_path: Path, layout: str) -> None:
    write_source(tmp_path / "source", layout)
    found = raw_tensors(run(tmp_path / "source", tmp_path / "result", "q4"))
    expected = expert_bytes(TENSORS)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("layout", sorted(DENSE))
def test_dense_experts_that_were_mxfp4_are_encoded_exactly(
    tmp_path: Path, layout: str
) -> None:
    write_source(tmp_path / "source", layout)
    result = run(tmp_path / "source", tmp_path / "result")
    found = raw_tensors(result)
    for name in (name for name in TENSORS if name.endswith("_blocks")):
        blocks, scales = (
            np.frombuffer(found[key], np.uint8).reshape(TENSORS[key].shape)
            for key in (name, name.replace("_blocks", "_scales"))
        )
        expected = oracle.mxfp4_decode(
            TENSORS[name], TENSORS[name.replace("_blocks", "_scales")]
        )
        np.testing.assert_array_equal(decode(blocks, scales), expected)
    report = json.loads((result / "conversion.json").read_text())
    assert report["lossy_blocks"] == {}


def test_affine_experts_are_kept_as_they_are(tmp_path: Path) -> None:
    write_source(tmp_path / "source", "mlx-split-affine")
    result = run(tmp_path / "source", tmp_path / "result", "q8")
    before, after = raw_tensors(tmp_path / "source"), raw_tensors(result)
    experts = {name for name in before if ".experts." in name}
    assert {name: after[name] for name in experts} == {
        name: before[name] for name in experts
    }


@pytest.mark.parametrize("layout", WRITERS)
def test_a_quantized_conversion_stays_close_to_the_source(
    tmp_path: Path, layout: str
) -> None:
    seen = write_source(tmp_path / "source", layout)
    result = run(tmp_path / "source", tmp_path / "result", "q8")
    before = oracle.logits(seen, CONFIG, IDS)
    change = np.sqrt(np.mean((logits(result) - before) ** 2) / np.mean(before**2))
    assert change < CHANGES["q8"]
