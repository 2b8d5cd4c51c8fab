"""Messages for adapters that do not belong to a model, and for tensors not read."""

import re
from collections.abc import Mapping

from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import LAYER_NUMBER, Matrix

MERGE_FIRST = "merge it into its model with the program that made it"
# Tensors that are no low-rank factors, by pattern, and what they are.
REFUSED_TENSORS = {
    r"lora_magnitude_vector|\.m$": "belongs to DoRA, which also scales the weights",
    r"lora_embedding_[AB]|embed_tokens\.lora_[abAB]": "updates the embedding",
    r"modules_to_save|original_module": "is a whole module (`modules_to_save`)",
    r"trainable_tokens|token_adapter": "has vocabulary rows of its own",
    r"(embed_tokens|lm_head)(\.base_layer)?\.weight$": (
        "is a whole vocabulary matrix, perhaps with new rows"
    ),
    r"bias$": "changes a bias",
}


def named_base(base: str | None) -> str:
    return f" (`{base}`)" if base else ""


def other_model_error(
    tensor: StoredTensor, why: str, base: str | None
) -> CheckpointError:
    """Make the error for a tensor that does not fit the model."""
    return CheckpointError(
        f"tensor `{tensor.name}` in `{tensor.file}` {why}: use it with the model "
        f"it was trained on{named_base(base)}"
    )


def refused_tensor_error(tensor: StoredTensor) -> CheckpointError:
    """Make the error for a tensor that is no factor of a low-rank update."""
    meaning = next(
        (said for end, said in REFUSED_TENSORS.items() if re.search(end, tensor.name)),
        "is no factor of a LoRA",
    )
    return CheckpointError(
        f"tensor `{tensor.name}` in `{tensor.file}` {meaning}, which is not read: "
        f"{MERGE_FIRST}"
    )


def no_target_error(
    tensor: StoredTensor, module: str, config: ModelConfig, base: str | None
) -> CheckpointError:
    """Make the error for an update of a module that the model does not have."""
    number = LAYER_NUMBER.search(module)
    if number is not None and int(number[1]) >= config.num_hidden_layers:
        why = f"is for layer {number[1]}, this model has {config.num_hidden_layers}"
        return other_model_error(tensor, why, base)
    place = module[number.end() :] if number else module
    return other_model_error(
        tensor, f"updates `{place}`, which this model does not have", base
    )


def shape_error(
    a: StoredTensor, b: StoredTensor, matrix: Matrix, base: str | None
) -> CheckpointError:
    """Make the error for factors that do not make a weight of the model."""
    *stack, rows, columns = matrix.shape
    of = f" in each of {stack[0]} experts" if stack else ""
    why = (
        f"has shape {a.shape} and its B {b.shape}, which do not make an update of "
        f"`{matrix.path}` with {columns} inputs and {rows} outputs{of}"
    )
    return other_model_error(a, why, base)


def unpaired_error(module: str, found: Mapping[str, StoredTensor]) -> CheckpointError:
    """Make the error for an A without its B, or a B without its A."""
    tensor = next(iter(found.values()))
    missing = "B" if "a" in found else "A"
    return CheckpointError(
        f"tensor `{tensor.name}` in `{tensor.file}` has no {missing} beside it: the "
        "adapter was not saved completely, save it again"
    )


def twice_error(a: StoredTensor, path: str) -> CheckpointError:
    return CheckpointError(
        f"tensor `{a.name}` in `{a.file}` is a second update of `{path}`: save one "
        "adapter in a folder"
    )
