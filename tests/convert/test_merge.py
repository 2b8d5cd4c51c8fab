"""A merged model computes what the model with its adapter computes."""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.checkpoint import StoredTensor, load_model, open_checkpoint
from mlx_gptoss.checkpoint.adapters import open_adapter
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.format.layout import PACKED, matrices
from mlx_gptoss.format.mxfp4 import FP4_VALUES, VALUES_PER_BLOCK
from mlx_gptoss_convert.measure.matrices import MatrixReader
from mlx_gptoss_convert.measure.verify import verify
from mlx_gptoss_convert.merge.merge import MergeOptions, merge, prepare_merge
from mlx_gptoss_convert.plan.merging import plan_merge
from mlx_gptoss_convert.plan.recipe import RECIPES, affine
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader
from mlx_gptoss_convert.steps.merged import add_product
from mlx_gptoss_convert.write.conversion import convert
from mlx_gptoss_convert.write.outputs import plan_output
from tests.support import oracle
from tests.support.checkpoints import to_bfloat16
from tests.support.conversions import Stopped, contents, stop_after
from tests.support.gguf_conversions import write_tokenizer
from tests.support.layout_writers import AFFINE, WRITERS
from tests.support.merging import (
    ATTENTION,
    CONFIG,
    EXPERTS,
    PATHS,
    RAW,
    SCALE,
    TENSORS,
    adapter_folder,
    loras,
    merged,
    prepared,
    summed,
)

IDS = [3, 1, 41, 5, 9, 2, 6, 60, 7, 12, 33]
LOGITS = 5e-4  # float32 against float64
LOSSLESS = sorted(set(WRITERS) - AFFINE - {"mlx-packed", "mlx-packed-mixed"})


def source(tmp_path: Path, layout: str = "hf") -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path / "source"
    return folder, WRITERS[layout](folder, RAW, TENSORS)


def logits(folder: Path) -> np.ndarray:
    model = load_model(open_checkpoint(folder), dtype=mx.float32)
    return np.array(model(mx.array([IDS]))[0])


def matrix(folder: Path, path: str) -> np.ndarray:
    """Decode a matrix, or a stack of experts (E, out, in), whatever the layout."""
    checkpoint = open_source(folder).checkpoint
    with TensorReader() as reader:
        values = MatrixReader(checkpoint, reader)
        if path in EXPERTS:
            experts = range(CONFIG.num_local_experts)
            return np.stack([values.expert(path, expert) for expert in experts])
        found = {x.path: x for x in matrices(CONFIG, PACKED)}
        return np.concatenate(list(values.rows(found[path])))


def exact(tensors: oracle.Tensors, path: str) -> np.ndarray:
    """Return the sum of a weight and its update, in float64."""
    found = summed(tensors, {path: ALL[path]})
    if path in EXPERTS:
        return found[path].swapaxes(1, 2)
    return found[f"{path}.weight"]


ALL = loras()


def test_a_dense_float32_model_equals_the_model_with_its_adapter(
    tmp_path: Path,
) -> None:
    folder, seen = source(tmp_path, "dense-float32")
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    found = merged(folder, adapter, tmp_path / "dst", dense_experts=True)
    expected = oracle.logits(summed(seen, ALL), RAW, IDS)
    np.testing.assert_allclose(logits(found), expected, rtol=0, atol=LOGITS)
    moved = np.abs(expected - oracle.logits(seen, RAW, IDS)).max()
    assert moved > 100 * LOGITS


@pytest.mark.parametrize("to", ["mlx", "hf"])
@pytest.mark.parametrize("layout", LOSSLESS)
def test_every_matrix_of_every_layout_is_the_sum_rounded_to_the_models_floats(
    layout: str, to: str, tmp_path: Path
) -> None:
    folder, seen = source(tmp_path, layout)
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    dst = merged(folder, adapter, tmp_path / "dst", dense_experts=True, to=to)
    for path in PATHS:
        expected = exact(seen, path)
        error = np.abs(matrix(dst, path) - expected) / np.abs(expected).max()
        assert error.max() < 2**-8, path
    if "float" not in layout:
        q = matrix(dst, ATTENTION[0])
        np.testing.assert_array_equal(q, to_bfloat16(q))


def test_what_the_adapter_does_not_update_keeps_its_bytes(tmp_path: Path) -> None:
    folder, _ = source(tmp_path)
    adapter = adapter_folder(tmp_path / "adapter", loras(ATTENTION))
    dst = merged(folder, adapter, tmp_path / "dst")
    before, after = (open_checkpoint(x) for x in (folder, dst))
    for name, tensor in before.tensors.items():
        path = name.rpartition(".")[0]
        same = raw(tensor) == raw(after.tensors[name])
        assert same == (path not in ATTENTION or name.endswith("bias")), name


def raw(tensor: StoredTensor) -> bytes:
    with TensorReader() as reader:
        stored = SourceTensor.from_checkpoint(tensor.name, tensor)
        return reader.read(stored, 0, stored.nbytes).tobytes()


@pytest.mark.parametrize("recipe", ["q8", "q4"])
def test_merged_matrices_are_quantized_as_the_recipe_says(
    recipe: str, tmp_path: Path
) -> None:
    folder, seen = source(tmp_path)
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    dst = merged(folder, adapter, tmp_path / "dst", recipe=recipe)
    expected = exact(seen, ATTENTION[0])
    error = matrix(dst, ATTENTION[0]) - expected
    relative = np.sqrt((error**2).mean() / (expected**2).mean())
    assert relative < {"q8": 0.006, "q4": 0.09}[recipe]


def test_a_packed_source_gets_its_update_at_the_recipes_bits(tmp_path: Path) -> None:
    folder, _ = source(tmp_path, "mlx-packed")
    updates = {path: ALL[path] for path in ATTENTION}
    adapter = adapter_folder(tmp_path / "adapter", updates)
    dst = merged(folder, adapter, tmp_path / "dst", recipe="q8")
    before = matrix(folder, ATTENTION[0])
    expected = before + SCALE * (ALL[ATTENTION[0]].b @ ALL[ATTENTION[0]].a)
    error = matrix(dst, ATTENTION[0]) - expected
    assert np.sqrt((error**2).mean() / (expected**2).mean()) < 0.006


def test_affine_experts_stay_affine(tmp_path: Path) -> None:
    folder, _ = source(tmp_path, "mlx-split-affine")
    adapter = adapter_folder(tmp_path / "adapter", loras(EXPERTS))
    dst = merged(folder, adapter, tmp_path / "dst")
    before, after = (open_checkpoint(x).structure.quantization for x in (folder, dst))
    assert {k: v for k, v in after.items() if "experts" in k} == {
        k: v for k, v in before.items() if "experts" in k
    }


def test_affine_experts_become_mxfp4_in_hugging_faces_layout(tmp_path: Path) -> None:
    folder, _ = source(tmp_path, "mlx-split-affine")
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    dst = merged(folder, adapter, tmp_path / "dst", to="hf")
    path = EXPERTS[0]
    expected = matrix(folder, path) + SCALE * (ALL[path].b @ ALL[path].a)
    error = matrix(dst, path) - expected
    assert np.sqrt((error**2).mean() / (expected**2).mean()) < 0.12
    some = adapter_folder(tmp_path / "some", loras(ATTENTION))
    with pytest.raises(ConversionError, match="holds experts as MXFP4 only"):
        merged(folder, some, tmp_path / "other", to="hf")


def block_errors(values: np.ndarray, made: np.ndarray) -> np.ndarray:
    squares = (made.astype(np.float64) - values) ** 2
    return squares.reshape(-1, VALUES_PER_BLOCK).sum(axis=1)


def best_errors(values: np.ndarray) -> np.ndarray:
    """Return the least squared error of each block over every scale exponent."""
    blocks = values.reshape(-1, VALUES_PER_BLOCK)
    found = np.full(len(blocks), np.inf)
    for exponent in range(-16, 6):
        scaled = blocks * 2.0**-exponent
        nearest = np.abs(scaled[..., None] - FP4_VALUES.astype(np.float64)).min(axis=-1)
        found = np.minimum(found, (nearest**2).sum(axis=1) * 4.0**exponent)
    return found


def test_experts_have_the_least_error_a_block_and_less_than_plain_encoding(
    tmp_path: Path,
) -> None:
    folder, seen = source(tmp_path)
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    dst = merged(folder, adapter, tmp_path / "dst")
    path = EXPERTS[0]
    values = exact(seen, path)
    ours = block_errors(values, matrix(dst, path))
    np.testing.assert_array_less(ours, best_errors(values) * (1 + 1e-5) + 1e-12)

    weight = mx.array(values.astype(np.float32))
    packed = mx.quantize(weight, group_size=32, bits=4, mode="mxfp4")
    plain = mx.dequantize(*packed, group_size=32, bits=4, mode="mxfp4")
    theirs = block_errors(values, np.array(plain.astype(mx.float32)))
    assert ours.sum() < 0.97 * theirs.sum()
    assert (ours <= theirs * (1 + 1e-5)).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_range_of_bytes_of_a_sum_is_the_same_as_in_the_whole(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    layout = data.draw(st.sampled_from(["hf", "dense", "mlx-split-mxfp4", "original"]))
    folder = tmp_path_factory.getbasetemp() / f"ranges-{layout}"
    if not folder.exists():
        WRITERS[layout](folder, RAW, TENSORS)
        adapter_folder(folder / "adapter", ALL)
    opened = open_source(folder)
    adapter = open_adapter(folder / "adapter", CONFIG)
    tensors = plan_merge(opened, adapter).merged.checkpoint.tensors
    name = data.draw(st.sampled_from(sorted(x for x in tensors if "weight" in x)))
    stored = SourceTensor.from_checkpoint(name, tensors[name])
    start = data.draw(st.integers(0, stored.nbytes - 1))
    stop = data.draw(st.integers(start + 1, min(start + 9000, stored.nbytes)))
    with TensorReader() as reader:
        whole = reader.read(stored, 0, stored.nbytes)
        np.testing.assert_array_equal(
            reader.read(stored, start, stop), whole[start:stop]
        )


def test_a_product_is_the_same_however_it_is_cut() -> None:
    draw = np.random.default_rng(0)
    left, right = draw.standard_normal((150, 7)), draw.standard_normal((7, 33))
    whole = np.zeros((150, 33), np.float32)
    add_product(whole, left, right)
    parts = np.zeros_like(whole)
    for start in range(0, 150, 11):
        add_product(parts[start : start + 11], left[start : start + 11], right)
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_allclose(whole, left @ right, atol=1e-5)


def test_an_interrupted_merge_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    folder, _ = source(tmp_path)
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    whole = contents(merged(folder, adapter, tmp_path / "whole", recipe="q8"))
    plan = prepared(folder, adapter, "q8")
    with pytest.raises(Stopped):
        merge(plan, tmp_path / "dst", progress=stop_after(30))
    merge(prepared(folder, adapter, "q8"), tmp_path / "dst", resume=True)
    assert contents(tmp_path / "dst") == whole


def test_another_adapter_does_not_resume_a_merge(tmp_path: Path) -> None:
    folder, _ = source(tmp_path)
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    with pytest.raises(Stopped):
        merge(prepared(folder, adapter), tmp_path / "dst", progress=stop_after(9))
    other = adapter_folder(tmp_path / "other", loras(seed=1))
    with pytest.raises(ConversionError, match="was started with another adapter"):
        merge(prepared(folder, other), tmp_path / "dst", resume=True)


def test_the_result_names_model_adapter_scale_and_training(tmp_path: Path) -> None:
    folder, _ = source(tmp_path)
    adapter = adapter_folder(tmp_path / "adapter", loras(ATTENTION))
    (adapter / "README.md").write_text("---\ntags: x\n---\n\n# Mine\n\nOn my mail.\n")
    dst = merged(folder, adapter, tmp_path / "dst")
    digest = open_adapter(adapter, CONFIG).digest
    facts = json.loads((dst / "conversion.json").read_text())
    assert facts["adapter"] == {
        "digest": digest,
        "layout": "peft",
        "base": "openai/gpt-oss-20b",
        "scale": 1.0,
        "rank": 3,
        "matrices": 8,
        "training": {},
    }
    assert "config_sha256" in facts["source"]
    card = (dst / "README.md").read_text()
    assert (
        "Merged: an adapter (peft, rank 3, 8 matrices) that was trained on "
        f"`openai/gpt-oss-20b`, with the scale 1; digest of its updates and model "
        f"`{digest}`." in card
    )
    assert "\n## The adapter's card\n\n### Mine\n\nOn my mail.\n" in card
    assert "merge, store as bf16" in card


@pytest.mark.parametrize("recipe", ["lossless", "q8"])
def test_a_gguf_has_the_sums(recipe: str, tmp_path: Path) -> None:
    folder, seen = source(tmp_path)
    write_tokenizer(folder / "tokenizer.json")
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    dst = merged(folder, adapter, tmp_path / "dst", recipe=recipe, to="gguf")
    packed = merged(folder, adapter, tmp_path / "packed")
    for path in EXPERTS:
        np.testing.assert_array_equal(matrix(dst, path), matrix(packed, path))
    for path in ATTENTION:
        expected = exact(seen, path)
        error = np.abs(matrix(dst, path) - expected) / np.abs(expected).max()
        assert error.max() < 2**-7, path


def test_a_gguf_can_be_merged_into(tmp_path: Path) -> None:
    folder, seen = source(tmp_path)
    write_tokenizer(folder / "tokenizer.json")
    plan = plan_output(open_source(folder), RECIPES["lossless"], to="gguf")
    convert(plan, tmp_path / "gguf")
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    dst = merged(tmp_path / "gguf", adapter, tmp_path / "dst", dense_experts=True)
    for path in PATHS:
        expected = exact(seen, path)
        error = np.abs(matrix(dst, path) - expected) / np.abs(expected).max()
        assert error.max() < 2**-8, path


def test_a_merged_folder_is_verified_alone(tmp_path: Path) -> None:
    folder, _ = source(tmp_path)
    adapter = adapter_folder(tmp_path / "adapter", loras(ATTENTION))
    dst = merged(folder, adapter, tmp_path / "dst")
    report = verify(dst)
    assert (report.faults, report.digests) == ([], len(open_checkpoint(dst).tensors))
    with pytest.raises(ConversionError, match="leave `--against` out"):
        verify(dst, folder)


def test_dense_experts_do_not_go_into_a_gguf(tmp_path: Path) -> None:
    folder, _ = source(tmp_path)
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    with pytest.raises(ConversionError, match="a GGUF of gpt-oss holds experts as"):
        prepared(folder, adapter, to="gguf", dense_experts=True)


def test_a_recipe_that_packs_experts_does_not_keep_them_dense(tmp_path: Path) -> None:
    folder, _ = source(tmp_path)
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    opened = open_source(folder)
    recipe = replace(RECIPES["q8"], experts=affine(3))
    options = MergeOptions(recipe, dense_experts=True, measures=False)
    with pytest.raises(ConversionError, match="packs the experts: leave its"):
        prepare_merge(opened, open_adapter(adapter, CONFIG), options)


def test_memory_for_updates_is_counted(tmp_path: Path) -> None:
    folder, _ = source(tmp_path)
    adapter = adapter_folder(tmp_path / "adapter", ALL)
    with pytest.raises(ConversionError, match="allow more with `--max-memory`"):
        prepared(folder, adapter, max_memory=10**6)
