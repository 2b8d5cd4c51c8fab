"""Explain checkpoints whose experts are stacked in places and stored singly in others.

Knows names, after single experts were stacked under names of their own (`renaming`).
"""

import re
from collections.abc import Mapping, Sequence

from mlx_gptoss.checkpoint.safetensors_header import StoredTensor

# Dense experts: one tensor of a layer, or stacked here of those stored one by one.
STACKED_OR_SINGLE = re.compile(
    r"(?P<where>model\.layers\.\d+\.mlp\.experts\.(?:gate_up|gate|up|down)_proj)"
    r"(?P<single>\.weight)?"
)


def explain_mixture(stored: Mapping[str, StoredTensor]) -> str | None:
    """Explain that experts are stacked in some places and stored singly in others."""
    forms: dict[str, dict[str, StoredTensor]] = {"stacked": {}, "single": {}}
    for name, tensor in stored.items():
        found = STACKED_OR_SINGLE.fullmatch(name)
        if found is not None:
            forms["single" if found["single"] else "stacked"][found["where"]] = tensor
    stacked, single = forms.values()
    if not stacked or not single:
        return None
    both = sorted(stacked.keys() & single.keys())
    if both:
        return (
            f"`{single[both[0]].file.parent}` has the experts of `{both[0]}` twice, in "
            f"one tensor and one by one{and_more(both)}: remove the file with those "
            "that do not belong to the model"
        )
    return (
        f"`{next(iter(single.values())).file.parent}` has the experts of "
        f"`{min(stacked)}` in one tensor and those of `{min(single)}` one by one: save "
        "them all alike, with `save_pretrained` of the whole model"
    )


def and_more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
