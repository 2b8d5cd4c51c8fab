"""Give stored tensors Hugging Face's names, and stack experts stored one by one.

Only names change: a stack is read from its parts where they lie. Reads no file.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.foreign_names import plain_name, single_expert, wrappers_in

NO_OFFSET = -1  # a read at it fails; the parts have offsets


@dataclass(frozen=True)
class TensorStack(StoredTensor):
    """Tensors of one dtype and shape, in any files, as one with a leading axis.

    It has no bytes of its own: read its `parts` one after another.
    """

    tensors: tuple[StoredTensor, ...]

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        return self.tensors


@dataclass(frozen=True)
class NamedTensors:
    """Stored tensors by Hugging Face's names; `single_experts` if any were stacked."""

    tensors: Mapping[str, StoredTensor]
    single_experts: bool
    notes: tuple[str, ...]


def name_tensors(stored: Mapping[str, StoredTensor]) -> NamedTensors:
    """Rename and stack stored tensors.

    Raises CheckpointError for two tensors of one name, and for experts that are missing
    or differ in shape or dtype.
    """
    found: dict[str, StoredTensor] = {}
    experts: dict[str, dict[int, StoredTensor]] = defaultdict(dict)
    for name, tensor in stored.items():
        plain = plain_name(name)
        expert = single_expert(plain)
        if expert is None:
            add_tensor(found, plain, tensor)
            continue
        stack, number = expert
        other = experts[stack].setdefault(number, tensor)
        if other is not tensor:
            raise same_name_error(other, tensor, f"{stack}, expert {number}")
    for stack, parts in experts.items():
        add_tensor(found, stack, stack_experts(stack, parts))
    wrappers = dict.fromkeys(part for name in stored for part in wrappers_in(name))
    notes = [
        f"the names of tensors have `{part}`, which a wrapper of training adds: "
        "read without it"
        for part in wrappers
    ]
    return NamedTensors(found, bool(experts), tuple(notes))


def add_tensor(found: dict[str, StoredTensor], name: str, tensor: StoredTensor) -> None:
    other = found.setdefault(name, tensor)
    if other is not tensor:
        raise same_name_error(other, tensor, name)


def same_name_error(
    one: StoredTensor, other: StoredTensor, name: str
) -> CheckpointError:
    return CheckpointError(
        f"tensors `{one.name}` in `{one.file}` and `{other.name}` in `{other.file}` "
        f"are both `{name}`: remove the one that does not belong to the model"
    )


def stack_experts(name: str, parts: Mapping[int, StoredTensor]) -> TensorStack:
    """Stack the experts of one projection, numbered from 0."""
    numbers = sorted(parts)
    first = parts[numbers[0]]
    missing = sorted(set(range(numbers[-1] + 1)) - set(numbers))
    if missing:
        raise CheckpointError(
            f"expert {missing[0]} of `{name}` is missing from `{first.file.parent}`, "
            f"which has one tensor an expert, up to {numbers[-1]}: if it was pruned, "
            "renumber the experts without a gap; if not, a file is missing"
        )
    for part in parts.values():
        if (part.dtype, part.shape) != (first.dtype, first.shape):
            raise CheckpointError(
                f"tensor `{part.name}` in `{part.file}` is {part.dtype} of shape "
                f"{part.shape}, expert {numbers[0]} is {first.dtype} of shape "
                f"{first.shape}: save all experts of a layer alike"
            )
    before, _, after = first.name.rpartition(f".{numbers[0]}.")
    return TensorStack(
        name=f"{before}.*.{after}",
        file=first.file,
        dtype=first.dtype,
        shape=(len(numbers), *first.shape),
        offset=NO_OFFSET,
        nbytes=first.nbytes * len(numbers),
        tensors=tuple(parts[number] for number in numbers),
    )
