"""gpt-oss for other runtimes is named, with one line on what to do.

Names of files are those of `onnxruntime/gpt-oss-20b-onnx`,
`OpenVINO/gpt-oss-20b-int4-ov`, MLC LLM's and TensorRT-LLM's; a `quant_method` is what
ExLlamaV3 writes to `config.json`.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.hub.repo_listing import HubFile, RepoListing, select_files
from mlx_gptoss.errors import CheckpointError, HubError
from mlx_gptoss.format.foreign_forms import USE_OTHER
from tests.support.checkpoints import hf_config, save_tensors

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


def test_exl3_is_named(tmp_path: Path) -> None:
    said = {"quant_method": "exl3", "version": "0.0.6", "bits": 4.0, "head_bits": 6}
    config = hf_config(num_hidden_layers=1) | {"quantization_config": said}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = "model.layers.0.self_attn.q_proj"
    tensors = {
        f"{path}.trellis": np.zeros((4, 4, 64), np.uint16),
        f"{path}.suh": np.ones(64, np.float32),
        f"{path}.svh": np.ones(64, np.float32),
        "model.norm.weight": np.ones(192, np.float32),
    }
    save_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"(EXL3 \(ExLlamaV3\)|HQQ or EXL)"):
        open_checkpoint(tmp_path)
