import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from mlx_gptoss_convert.plan.shards import PAGE, index_json, lay_out, plan_shards
from mlx_gptoss_convert.steps.step import OutputTensor
from mlx_gptoss_convert.write.writer import ShardFile

ODD = [
    OutputTensor("norm", "BF16", (5,)),
    OutputTensor("scales", "U8", (3, 7)),
    OutputTensor("blocks", "U8", (2, PAGE)),
    OutputTensor("weight", "U32", (3, 4)),
    OutputTensor("bias", "F32", (3,)),
]


def write(folder: Path, tensors: list[OutputTensor]) -> Path:
    file = ShardFile(folder, lay_out("model.safetensors", tensors))
    for n, tensor in enumerate(tensors):
        file.write(tensor.name, 0, memoryview(bytes([n]) * tensor.nbytes))
    file.finish()
    return file.path


def test_data_starts_on_a_page_and_has_no_holes() -> None:
    shard = lay_out("model.safetensors", ODD)
    ends = 0
    for tensor in shard.tensors:
        assert shard.offsets[tensor.name] == len(shard.header) + ends
        ends += tensor.nbytes
    assert (len(shard.header) % PAGE, shard.nbytes) == (0, len(shard.header) + ends)


def test_each_tensor_starts_on_the_power_of_two_its_size_holds() -> None:
    shard = lay_out("model.safetensors", ODD)
    boundaries = {"blocks": PAGE, "weight": 16, "bias": 4, "norm": 2, "scales": 1}
    assert [tensor.name for tensor in shard.tensors] == list(boundaries)
    assert not [n for n, to in boundaries.items() if shard.offsets[n] % to]


def test_the_safetensors_library_reads_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, ODD)
    with safe_open(path, "numpy") as file:  # numpy has no bfloat16, so not `norm`
        read = {t.name: file.get_tensor(t.name) for t in ODD if t.dtype != "BF16"}
        assert sorted(file.keys()) == sorted(t.name for t in ODD)
    assert {name: tensor.shape for name, tensor in read.items()} == {
        t.name: t.shape for t in ODD if t.dtype != "BF16"
    }
    np.testing.assert_array_equal(read["scales"], np.full((3, 7), 1, np.uint8))


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (write(tmp_path / name, ODD).read_bytes() for name in "ab")
    assert first == second


def test_shards_are_filled_in_order_and_named_from_one() -> None:
    bundles = [[OutputTensor(f"t{n}", "U8", (100,))] for n in range(5)]
    shards = plan_shards(bundles, shard_bytes=250)
    assert {shard.name: [t.name for t in shard.tensors] for shard in shards} == {
        "model-00001-of-00003.safetensors": ["t0", "t1"],
        "model-00002-of-00003.safetensors": ["t2", "t3"],
        "model-00003-of-00003.safetensors": ["t4"],
    }
    assert json.loads(index_json(shards))["metadata"] == {"total_size": 500}


def test_a_bundle_stays_in_one_file_even_when_larger_than_the_limit() -> None:
    one, two, three = (OutputTensor(name, "U8", (100,)) for name in "abc")
    shards = plan_shards([[one], [two, three]], shard_bytes=150)
    assert [len(shard.tensors) for shard in shards] == [1, 2]


def test_a_file_has_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    file = ShardFile(tmp_path, lay_out("model.safetensors", ODD))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors.part"]
    file.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
