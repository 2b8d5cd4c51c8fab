"""gpt-oss for other runtimes is named, with one line on what to do.

Names of files are those of `onnxruntime/gpt-oss-20b-onnx`,
`OpenVINO/gpt-oss-20b-int4-ov`, `FastFlowLM/GPT-OSS-20B-NPU2`, MLC LLM's, TensorRT-LLM's
and what trainers write.
"""

from pathlib import Path

import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.hub.repo_listing import HubFile, RepoListing, select_files
from mlx_gptoss.errors import CheckpointError, HubError
from mlx_gptoss.format.foreign_files import USE_OTHER
from mlx_gptoss_convert.read.checkpoint import open_source

RUNTIMES = {
    "is ONNX, for ONNX Runtime (`model.onnx`)": (
        "genai_config.json",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
    ),
    "is OpenVINO's graph (`openvino_model.xml`)": (
        "config.json",
        "openvino_model.bin",
        "openvino_model.xml",
        "openvino_tokenizer.xml",
    ),
    "is MLC LLM's shards (`mlc-chat-config.json`)": (
        "mlc-chat-config.json",
        "params_shard_0.bin",
        "tokenizer.json",
    ),
    "is a TensorRT-LLM engine (`rank0.engine`)": ("config.json", "rank0.engine"),
    "is a Core ML package (`gpt.mlpackage`)": ("gpt.mlpackage", "tokenizer.json"),
    "is LiteRT-LM's (`gpt-oss-20b.litertlm`)": ("gpt-oss-20b.litertlm",),
    "is FastFlowLM's, for AMD's NPU (`model.q4nx`)": (
        "config.json",
        "model.q4nx",
        "tokenizer.json",
    ),
    "is an ExecuTorch program (`model.pte`)": ("model.pte",),
    "is GGML, which llama.cpp had before GGUF (`ggml-model-q4_0.bin`)": (
        "ggml-model-q4_0.bin",
    ),
    "is OpenAI's file for its own Metal program (`model.bin`)": ("model.bin",),
}
# What else is in other files: the advice is another.
CONVERTIBLE = {
    "is a GGUF cut into parts (`a.gguf.part1of2`)": (
        ("a.gguf.part1of2", "a.gguf.part2of2"),
        "join them in order (`cat FILE.gguf.part* > FILE.gguf`), then convert that",
    ),
    "is a llamafile, a program with a GGUF inside (`gpt-oss-20b.llamafile`)": (
        ("gpt-oss-20b.llamafile",),
        "take the GGUF out of it with `unzip`",
    ),
    "is an archive of NeMo (`gpt-oss.nemo`)": (("gpt-oss.nemo",), "Megatron Bridge"),
    "is a checkpoint of Megatron (`latest_checkpointed_iteration.txt`)": (
        ("iter_0000010", "latest_checkpointed_iteration.txt"),
        "`AutoBridge.export_ckpt`",
    ),
    "is a distributed checkpoint of PyTorch, as FSDP saves it (`__0_0.distcp`)": (
        (".metadata", "__0_0.distcp", "__1_0.distcp"),
        "`accelerate merge-weights FOLDER OUT`",
    ),
    "is a distributed checkpoint of PyTorch, as FSDP saves it "
    "(`pytorch_model_fsdp_0`)": (
        ("config.json", "pytorch_model_fsdp_0", "trainer_state.json"),
        "`accelerate merge-weights FOLDER OUT`",
    ),
    "is a checkpoint of DeepSpeed's ZeRO (`zero_to_fp32.py`)": (
        ("config.json", "global_step500", "latest", "zero_to_fp32.py"),
        "`python zero_to_fp32.py . OUT --safe_serialization`",
    ),
    "is one file a GPU of verl's FSDP (`model_world_size_8_rank_0.pt`)": (
        ("model_world_size_8_rank_0.pt", "optim_world_size_8_rank_0.pt"),
        "`python -m verl.model_merger merge",
    ),
}


@pytest.mark.parametrize("what", RUNTIMES)
def test_a_folder_of_another_runtime_is_named(what: str, tmp_path: Path) -> None:
    for name in RUNTIMES[what]:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(tmp_path)
    assert str(error.value) == (
        f"`{tmp_path}` {what}, which is not read here: {USE_OTHER}"
    )


@pytest.mark.parametrize("what", RUNTIMES)
def test_a_repository_of_another_runtime_is_named(what: str) -> None:
    names = [f"cpu/{name}" for name in RUNTIMES[what]]
    files = {name: HubFile(name, 5, "e", None) for name in names}
    with pytest.raises(HubError) as error:
        select_files(RepoListing("owner/name", "c", "gpt_oss", files))
    assert str(error.value) == (
        f"`owner/name` {what}, which is not read here: {USE_OTHER}"
    )


@pytest.mark.parametrize("what", CONVERTIBLE)
def test_what_can_be_joined_or_exported_first_says_how(
    what: str, tmp_path: Path
) -> None:
    names, advice = CONVERTIBLE[what]
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError) as error:
        open_source(tmp_path)
    assert f"`{tmp_path}` {what}, which is not read here: " in str(error.value)
    assert advice in str(error.value)


def test_a_single_file_of_another_program_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gpt-oss-20b.llamafile"
    path.write_bytes(b"MZqFpD")
    with pytest.raises(CheckpointError, match="a llamafile, a program with a GGUF"):
        open_source(path)
