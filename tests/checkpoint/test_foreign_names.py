"""Tensors under other tools' names are renamed, stacked and tied while loading."""

from pathlib import Path

import mlx.core as mx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.checkpoint import check_values, load_model, open_checkpoint
from mlx_gptoss.checkpoint.expert_records import explain_refusal
from mlx_gptoss.checkpoint.notices import list_file_notices
from mlx_gptoss.checkpoint.renaming import name_tensors
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.checkpoint.tensor_reads import TensorChunk, fill_transposed
from mlx_gptoss.format.foreign_names import WRAPPERS, plain_name, wrappers_in
from tests.support import checkpoints, layout_writers, oracle

IDS = np.random.default_rng(3).integers(0, 301, 12).tolist()
CONFIG = checkpoints.hf_config(
    num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, hidden_size=64
)
TENSORS = checkpoints.random_tensors(CONFIG, seed=3)
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
TOLERANCE = 5e-4  # float32 with sums in another order


def logits(folder: Path) -> np.ndarray:
    model = load_model(open_checkpoint(folder), dtype=mx.float32)
    return np.array(model(mx.array([IDS]))[0])


def test_a_tied_model_without_a_head_computes_with_its_embedding_once(
    tmp_path: Path,
) -> None:
    kept = {name: x for name, x in TENSORS.items() if name != HEAD}
    checkpoints.write_folder(tmp_path, CONFIG | {"tie_word_embeddings": True}, kept)

    checkpoint = open_checkpoint(tmp_path)
    model = load_model(checkpoint, dtype=mx.float32)

    expected = oracle.logits(kept | {HEAD: kept[EMBEDDING]}, CONFIG, IDS)
    assert np.abs(np.array(model(mx.array([IDS]))[0]) - expected).max() < TOLERANCE
    assert model.lm_head.weight is model.model.embed_tokens.weight
    sizes = checkpoint.bytes_by_part
    assert (sizes["lm_head"], checkpoint.loaded_bytes_by_part(4)["lm_head"]) == (0, 0)
    assert sum(sizes.values()) == sum(x.nbytes for x in checkpoint.stored_parts)


def test_a_tied_model_with_a_head_computes_with_that_head(tmp_path: Path) -> None:
    checkpoints.write_folder(tmp_path, CONFIG | {"tie_word_embeddings": True}, TENSORS)

    expected = oracle.logits(TENSORS, CONFIG, IDS)

    assert np.abs(logits(tmp_path) - expected).max() < TOLERANCE
    assert any(
        "that head is used" in line
        for line in list_file_notices(open_checkpoint(tmp_path))
    )


def test_wrappers_and_stale_tables_are_noted(tmp_path: Path) -> None:
    layout_writers.write_single_experts(tmp_path, CONFIG, TENSORS)

    notes = list_file_notices(open_checkpoint(tmp_path))

    assert notes == [
        "the names of tensors have `_fsdp_wrapped_module.`, which a wrapper of "
        "training adds: read without it",
        "`config.json` says that experts are MXFP4, the tensors are not: used as "
        "stored",
    ]


def test_single_experts_are_checked_for_values_and_not_streamed(
    tmp_path: Path,
) -> None:
    layout_writers.write_unsloth(tmp_path, CONFIG, TENSORS)
    checkpoint = open_checkpoint(tmp_path)

    check_values(checkpoint)

    assert "only quantized experts can be streamed" in str(explain_refusal(checkpoint))


def test_layers_may_differ_in_their_number_of_experts(tmp_path: Path) -> None:
    pruned = {
        name: x[: 5 - int(name.split(".")[2])] if ".mlp." in name else x
        for name, x in TENSORS.items()
    }
    checkpoints.write_folder(tmp_path, CONFIG, pruned)

    config = open_checkpoint(tmp_path).config

    assert (config.num_local_experts, config.experts_by_layer) == (5, (5, 4))
    expected = oracle.logits(pruned, CONFIG, IDS)
    assert np.abs(logits(tmp_path) - expected).max() < TOLERANCE


@given(st.lists(st.sampled_from([*WRAPPERS]), max_size=3), st.data())
def test_wrappers_anywhere_leave_the_plain_name(
    leading: list[str], data: st.DataObject
) -> None:
    inner = [part for part in WRAPPERS if part.startswith("_")]
    name = data.draw(st.sampled_from(sorted(TENSORS)))
    parts = name.split(".")
    place = data.draw(st.integers(1, len(parts) - 1))
    added = data.draw(st.lists(st.sampled_from(inner), max_size=2))
    wrapped = ".".join(parts[:place]) + "." + "".join(added) + ".".join(parts[place:])
    wrapped = "".join(leading) + wrapped

    assert plain_name(wrapped) == name
    assert set(wrappers_in(wrapped)) == {*leading, *added}


def test_names_of_hugging_face_stay() -> None:
    stored = {
        name: StoredTensor(name, Path("x"), "U8", (1,), n, 1)
        for n, name in enumerate(TENSORS)
    }
    named = name_tensors(stored)
    assert (dict(named.tensors), named.single_experts) == (stored, False)


def test_a_matrix_is_transposed_in_strips(tmp_path: Path) -> None:
    values = np.arange(1100 * 600, dtype=np.float32).reshape(1100, 600)
    path = tmp_path / "x"
    path.write_bytes(values.tobytes())
    tensor = StoredTensor("x", path, "F32", values.shape, 0, values.nbytes)
    out = np.empty((600, 1100), np.float32)
    with path.open("rb") as file:
        fill_transposed(file.fileno(), TensorChunk(tensor, 0, values.size), out)
    np.testing.assert_array_equal(out, values.T)
