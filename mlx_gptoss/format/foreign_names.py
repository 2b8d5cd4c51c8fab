"""Names that other tools give to the tensors of gpt-oss, as data with their source.

Wrappers insert a part into the path of a module; Unsloth's training form and other
exporters store every expert as a tensor of its own. Nothing else about the tensors
differs. Tables only: knows no files.
"""

import re
from dataclasses import dataclass

# Parts that a wrapper inserts, and the wrapper:
#   base_model.model.           peft, `PeftModel` around `LoraModel`
#   module.                     torch.nn.parallel.DistributedDataParallel, DeepSpeed
#   _orig_mod.                  torch.compile, `OptimizedModule`
#   _fsdp_wrapped_module.       torch.distributed.fsdp, `FullyShardedDataParallel`
#   _checkpoint_wrapped_module. torch's `checkpoint_wrapper`
#   _forward_module.            lightning.fabric
WRAPPERS = {
    "base_model.model.": "PEFT",
    "module.": "DistributedDataParallel",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "_forward_module.": "Fabric",
}
# These names can also be those of modules, so they are wrappers only at the beginning.
LEADING_ONLY = ("base_model.model.", "module.")


def _any_of(parts: list[str]) -> str:
    return "|".join(re.escape(part) for part in parts)


LEADING_WRAPPERS = re.compile(f"(?:{_any_of(list(WRAPPERS))})+")
INNER_WRAPPER = re.compile(
    rf"(?<=\.)(?:{_any_of([part for part in WRAPPERS if part not in LEADING_ONLY])})"
)

# Unsloth replaces `GptOssTopKRouter` by a module with a linear layer inside
# (unsloth_zoo/temporary_patches/gpt_oss.py).
RENAMED_PARTS = ((".mlp.router.linear.", ".mlp.router."),)


@dataclass(frozen=True)
class ExpertName:
    """A pattern of names of single experts: `number`, and the stack it belongs to."""

    tool: str
    pattern: re.Pattern[str]
    stack: str  # expanded by the match, with `number` left out


# A linear layer per expert: weight (out, in), bias (out).
SINGLE_EXPERTS = (
    ExpertName(  # unsloth_zoo/temporary_patches/gpt_oss.py, `GptOssExperts`
        "Unsloth",
        re.compile(
            r"(?P<experts>.*\.mlp\.experts\.)(?P<part>gate_up|down)_projs"
            r"\.(?P<number>\d+)\.(?P<kind>weight|bias)"
        ),
        r"\g<experts>\g<part>_proj.\g<kind>",
    ),
    # As most mixtures of experts are stored (Qwen's, DeepSeek's), and llm-compressor's
    # (modeling/gpt_oss.py, `LinearExperts`), which has `experts` twice.
    ExpertName(
        "one expert a tensor",
        re.compile(
            r"(?P<experts>.*\.mlp\.experts\.)(?:experts\.)?(?P<number>\d+)"
            r"\.(?P<part>gate_up|gate|up|down)_proj\.(?P<kind>weight|bias)"
        ),
        r"\g<experts>\g<part>_proj.\g<kind>",
    ),
)


def strip_wrappers(name: str) -> str:
    """Remove from a tensor's name what wrappers added to it."""
    found = LEADING_WRAPPERS.match(name)
    return INNER_WRAPPER.sub("", name if found is None else name[found.end() :])


def wrappers_in(name: str) -> list[str]:
    """List the parts that wrappers added to a tensor's name."""
    found = LEADING_WRAPPERS.match(name)
    leading = "" if found is None else found[0]
    parts = re.findall(_any_of(list(WRAPPERS)), leading)
    return list(dict.fromkeys([*parts, *INNER_WRAPPER.findall(name)]))


def plain_name(name: str) -> str:
    """Return Hugging Face's name of a tensor, apart from single experts."""
    name = strip_wrappers(name)
    for part, plain in RENAMED_PARTS:
        name = name.replace(part, plain)
    return name


def single_expert(name: str) -> tuple[str, int] | None:
    """Return the stack that a single expert belongs to, and its number; else None."""
    for known in SINGLE_EXPERTS:
        found = known.pattern.fullmatch(name)
        if found is not None:
            return found.expand(known.stack), int(found["number"])
    return None
