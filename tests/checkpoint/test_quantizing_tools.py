"""Checkpoints of quantizing tools are named, with what to do; drafts are, too."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.hub.repo_listing import HubFile, RepoListing, select_files
from mlx_gptoss.errors import CheckpointError, ConfigError, HubError
from mlx_gptoss_convert.read.checkpoint import open_source
from tests.support.quantized_names import CONFIG, TOOLS, Tool, write_tool

DRAFTS: dict[str, dict[str, Any]] = {
    # RedHatAI/gpt-oss-20b-speculator.eagle3
    "`openai/gpt-oss-20b`": {
        "architectures": ["Eagle3DraftModel"],
        "draft_vocab_size": 32000,
        "speculators_config": {
            "algorithm": "eagle3",
            "verifier": {
                "architectures": ["GptOssForCausalLM"],
                "name_or_path": "openai/gpt-oss-20b",
            },
        },
        "speculators_model_type": "eagle3",
    },
    # nvidia/gpt-oss-120b-Eagle3-v2, nebius/EAGLE3-gpt-oss-20b
    "the model it was made for": {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "num_hidden_layers": 1,
    },
}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)
def test_what_a_tool_quantized_is_named(tool: Tool, tmp_path: Path) -> None:
    write_tool(tmp_path, tool)
    for opens in (open_checkpoint, open_source):
        with pytest.raises((CheckpointError, ConfigError)) as raised:
            opens(tmp_path)
        message = str(raised.value)
        assert tool.says in message
        assert "use the checkpoint it was quantized from" in message
        assert not re.search(r"\n|download", message)


@pytest.mark.parametrize("target", DRAFTS)
def test_a_draft_model_is_named(target: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DRAFTS[target]))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError) as raised:
        open_checkpoint(tmp_path)
    assert str(raised.value).endswith(f"and is not used here: give {target}")


def test_a_checkpoint_of_tensorrt_llm_is_named(tmp_path: Path) -> None:
    said = {
        "architecture": "GptOssForCausalLM",
        "dtype": "bfloat16",
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
    }
    (tmp_path / "config.json").write_text(json.dumps(said))
    (tmp_path / "rank0.safetensors").touch()
    with pytest.raises(ConfigError, match="is a checkpoint of TensorRT-LLM, cut for"):
        open_checkpoint(tmp_path)


def test_a_draft_model_on_the_hub_is_not_downloaded() -> None:
    files = {
        name: HubFile(name, 5, "e", None)
        for name in ("config.json", "model.safetensors")
    }
    with pytest.raises(HubError, match="is a draft model, which guesses tokens"):
        select_files(
            RepoListing("owner/name", "c", "llama", files, ("LlamaForCausalLMEagle3",))
        )
    with pytest.raises(HubError, match="only gpt-oss models"):
        select_files(RepoListing("owner/name", "c", "bert", files))
    filters = RepoListing("owner/name", "c", "openai_privacy_filter", files)
    assert len(select_files(filters)) == 2


def test_the_names_alone_are_no_quantization(tmp_path: Path) -> None:
    """The same files with floats open, whatever their settings say."""

    def dense(rows: int, columns: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {"weight": ("BF16", (rows, columns))}

    for name, tool in TOOLS.items():
        if tool.key == "quantization_config":
            (tmp_path / name).mkdir()
            folder = write_tool(tmp_path / name, Tool(dense, tool.settings, ""))
            opened = open_checkpoint(folder)
            assert opened.config.num_local_experts == CONFIG["num_local_experts"]
