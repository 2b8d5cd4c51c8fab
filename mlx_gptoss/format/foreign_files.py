"""Files of other runtimes and of training, that hold a model but are not read here.

By patterns of their names, as data: what they are, and what to do. Knows names only.
"""

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatch

USE_OTHER = (
    "use a checkpoint of safetensors or a GGUF, such as `openai/gpt-oss-20b` or the "
    "one it was made from"
)
MEGATRON = (
    "export it with Megatron Bridge (`AutoBridge.export_ckpt`), which writes Hugging "
    "Face's layout"
)


@dataclass(frozen=True)
class ForeignFile:
    """A pattern of names, what such a file is, and what to do."""

    pattern: str
    what: str
    advice: str = USE_OTHER


# The first pattern that a file has decides: what is certain comes first.
FOREIGN_FILES = (
    # A graph compiled for another runtime, or weights in its own order.
    ForeignFile("*.onnx", "ONNX, for ONNX Runtime"),  # with genai_config.json
    ForeignFile("openvino_model.xml", "OpenVINO's graph"),  # with openvino_model.bin
    ForeignFile("mlc-chat-config.json", "MLC LLM's shards"),  # params_shard_N.bin
    ForeignFile("*.engine", "a TensorRT-LLM engine"),
    ForeignFile("*.litertlm", "LiteRT-LM's"),
    ForeignFile("*.task", "MediaPipe's"),
    ForeignFile("*.tflite", "LiteRT's"),
    ForeignFile("*.mlpackage", "a Core ML package"),
    ForeignFile("*.mlmodelc", "a compiled Core ML model"),
    ForeignFile("*.q4nx", "FastFlowLM's, for AMD's NPU"),  # FastFlowLM/GPT-OSS-20B-NPU2
    ForeignFile("*.pte", "an ExecuTorch program"),
    ForeignFile("*.rkllm", "RKLLM's, for Rockchip's NPU"),
    ForeignFile("*.dlc", "Qualcomm's, for its NPU"),
    # A GGUF in another wrapping.
    ForeignFile(
        "*.gguf.part*of*",  # mradermacher's; older than llama.cpp's own splitting
        "a GGUF cut into parts",
        "join them in order (`cat FILE.gguf.part* > FILE.gguf`), then convert that",
    ),
    ForeignFile(
        "*.llamafile",
        "a llamafile, a program with a GGUF inside",
        "take the GGUF out of it with `unzip`, then convert that",
    ),
    ForeignFile("*ggml*.bin", "GGML, which llama.cpp had before GGUF"),
    # What trainers write between their steps.
    ForeignFile("*.nemo", "an archive of NeMo", MEGATRON),
    ForeignFile(
        "latest_checkpointed_iteration.txt", "a checkpoint of Megatron", MEGATRON
    ),
    *(
        ForeignFile(pattern, "a checkpoint of Megatron", MEGATRON)
        for pattern in ("model_optim_rng.pt", "mp_rank_*", "common.pt")
    ),
    ForeignFile(
        "zero_to_fp32.py",
        "a checkpoint of DeepSpeed's ZeRO",
        "join it first: `python zero_to_fp32.py . OUT --safe_serialization`, and copy "
        "`config.json` into OUT",
    ),
    ForeignFile(
        "model_world_size_*_rank_*.pt",
        "one file a GPU of verl's FSDP",
        "join it first: `python -m verl.model_merger merge --backend fsdp "
        "--local_dir FOLDER --target_dir OUT`",
    ),
    *(
        ForeignFile(
            pattern,
            "a distributed checkpoint of PyTorch, as FSDP saves it",
            "join it first: `accelerate merge-weights FOLDER OUT`, and copy "
            "`config.json` into OUT",
        )
        for pattern in ("pytorch_model_fsdp_*", "*.distcp")
    ),
    # `metal/model.bin` of OpenAI's repositories.
    ForeignFile("model.bin", "OpenAI's file for its own Metal program"),
)


def describe_runtime(names: Collection[str]) -> str | None:
    """Describe a folder with these files if another program's model is in it."""
    for known in FOREIGN_FILES:
        name = next((x for x in sorted(names) if fnmatch(x, known.pattern)), None)
        if name is not None:
            return f"is {known.what} (`{name}`), which is not read here: {known.advice}"
    return None
