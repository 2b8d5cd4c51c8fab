"""PEFT's names and orders of adapter tensors, and Unsloth's, which are read alike.

PEFT's names of experts do not tell whether they update gate_up_proj or down_proj: with
both, down_proj is `experts.lora_A` and gate_up_proj `experts.base_layer.lora_A`; one
alone is `experts.lora_A`. Their shapes always tell. Unsloth's 4-bit models have one
module for each expert (`experts.down_projs.3`) and `router.linear`.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from mlx_gptoss.checkpoint.adapters.factors import (
    EXPERTS_PEFT,
    EXPERTS_TURNED,
    LINEAR,
    FactorOrder,
    StoredPair,
)
from mlx_gptoss.checkpoint.adapters.faults import (
    no_target_error,
    other_model_error,
    refused_tensor_error,
    shape_error,
    twice_error,
    unpaired_error,
)
from mlx_gptoss.checkpoint.adapters.settings import PeftSettings, find_pattern
from mlx_gptoss.checkpoint.adapters.targets import target_matrices
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import Matrix

FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<kind>[AB])(\.\w+)?\.weight")
WRAPPERS = re.compile(r"^(base_model\.)?(model\.(?=model\.|lm_head))*")
ONE_EXPERT = re.compile(r"(.+\.mlp\.experts\.(?:gate_up|down)_proj)s\.(\d+)")
EXPERTS = ".mlp.experts"
PROJECTIONS = ("gate_up_proj", "down_proj")
HEAD_COPY = re.compile(r".*\blm_head\.base_layer\.weight")

Tensors = Mapping[str, StoredTensor]
Factors = tuple[StoredTensor, StoredTensor]


def peft_pairs(
    tensors: Tensors, settings: PeftSettings, config: ModelConfig, base: str | None
) -> dict[str, list[StoredPair]]:
    """Find the update of every tensor; return pairs by module path.

    Raises CheckpointError for a tensor that is not part of a low-rank update, and for
    one that does not fit the model.
    """
    found = group_factors(tensors, config, base)
    experts = {name: pair for name, pair in found.items() if module_of(name)[1] is None}
    order = experts_order(experts, config)
    pairs: dict[str, list[StoredPair]] = defaultdict(list)
    for name, factors in found.items():
        path, part = module_of(name)
        names = (path, f"{path}.weight", plain_name(name))
        if part is None:
            matrix = experts_matrix(path, factors, order, config, base)
            used, path, names, part = order, matrix.path, (matrix.path,), ""
        else:
            matrix = find_matrix(path, factors, config, base)
            used = LINEAR
        pair = make_pair(used, factors, matrix, part, names, settings, base)
        if any(pair.part == other.part or not other.part for other in pairs[path]):
            raise twice_error(pair.a, path)
        pairs[path].append(pair)
    return dict(pairs)


def group_factors(
    tensors: Tensors, config: ModelConfig, base: str | None
) -> dict[str, Factors]:
    """Join A and B of each module, by the module's name in the file."""
    found: dict[str, dict[str, StoredTensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        match = FACTOR.fullmatch(name)
        if match is not None and "embed_tokens" not in name:
            found[match["module"]][match["kind"].lower()] = tensor
        elif HEAD_COPY.fullmatch(name):
            check_head_copy(tensor, config, base)
        else:
            raise refused_tensor_error(tensor)
    for module, pair in found.items():
        if len(pair) < 2:
            raise unpaired_error(module, pair)
    return {module: (pair["a"], pair["b"]) for module, pair in found.items()}


def check_head_copy(
    tensor: StoredTensor, config: ModelConfig, base: str | None
) -> None:
    """Require the shape of the model's head of a copy that PEFT saves with its update.

    The copy is frozen while the update is trained, and so is not needed.
    """
    expected = (config.vocab_size, config.hidden_size)
    if tensor.shape != expected:
        raise other_model_error(
            tensor,
            f"has shape {tensor.shape}, this model's head has {expected} (new "
            "vocabulary rows are not read)",
            base,
        )


def plain_name(name: str) -> str:
    """Return the name of a module without those of the modules PEFT wraps it in."""
    path = WRAPPERS.sub("", name.replace(".base_layer", ""), count=1)
    return f"model.{path}" if path.startswith("layers.") else path


def module_of(name: str) -> tuple[str, str | None]:
    """Return the module path a name means, and the expert, "" for a whole matrix.

    The part of a stack of experts is None: `name` does not say which projection it is.
    """
    path = plain_name(name)
    one = ONE_EXPERT.fullmatch(path)
    if one is not None:
        return one[1], one[2]
    if path.endswith(EXPERTS):
        return path, None
    return path.removesuffix(".linear"), ""


def experts_order(experts: Mapping[str, Factors], config: ModelConfig) -> FactorOrder:
    """Tell by the shapes in which direction a file has its stacks of experts."""
    ways = [
        {
            order
            for order in (EXPERTS_PEFT, EXPERTS_TURNED)
            if fitting(module_of(name)[0], factors, order, config)
        }
        for name, factors in experts.items()
    ]
    return EXPERTS_TURNED if {EXPERTS_TURNED} in ways else EXPERTS_PEFT


def fitting(
    path: str, factors: Factors, order: FactorOrder, config: ModelConfig
) -> Matrix | None:
    """Return the projection of `path` that these factors make an update of."""
    targets = target_matrices(config)
    for name in PROJECTIONS:
        matrix = targets.get(f"{path}.{name}")
        if matrix is None:
            continue
        experts, rows, columns = matrix.shape
        sizes = order.sizes(factors[0].shape, factors[1].shape, experts)
        if sizes is not None and sizes[1:] == (columns, rows):
            return matrix
    return None


def experts_matrix(
    path: str,
    factors: Factors,
    order: FactorOrder,
    config: ModelConfig,
    base: str | None,
) -> Matrix:
    matrix = fitting(path, factors, order, config)
    if matrix is not None:
        return matrix
    first = target_matrices(config).get(f"{path}.{PROJECTIONS[0]}")
    if first is None:
        raise no_target_error(factors[0], path, config, base)
    raise shape_error(*factors, first, base)


def find_matrix(
    path: str, factors: Factors, config: ModelConfig, base: str | None
) -> Matrix:
    matrix = target_matrices(config).get(path)
    if matrix is None:
        raise no_target_error(factors[0], path, config, base)
    return matrix


def make_pair(
    order: FactorOrder,
    factors: Factors,
    matrix: Matrix,
    part: str,
    names: Sequence[str],
    settings: PeftSettings,
    base: str | None,
) -> StoredPair:
    """Check the shapes of two factors and find their scale."""
    a, b = factors
    *stack, rows, columns = matrix.shape
    experts = stack[0] if stack else 0
    sizes = order.sizes(a.shape, b.shape, experts)
    one_of_many = order is LINEAR and bool(stack)
    fits = sizes is not None and sizes[0] and sizes[1:] == (columns, rows)
    if sizes is None or not fits or one_of_many != bool(part):
        raise shape_error(a, b, matrix, base)
    if part and int(part) >= experts:
        why = f"is for expert {part}, this model has {experts}"
        raise other_model_error(a, why, base)
    rank = sizes[0]
    if experts and not part:
        check_expert_count(a, experts, tuple(names), settings, base)
    return StoredPair(
        a, b, order, experts, rank, settings.scale(tuple(names), rank), part
    )


def check_expert_count(
    a: StoredTensor,
    experts: int,
    names: tuple[str, ...],
    settings: PeftSettings,
    base: str | None,
) -> None:
    """Require that the rows of A are those of this many experts."""
    rank = find_pattern(settings.rank_pattern, names, settings.rank)
    count = a.shape[0] // int(rank)
    if a.shape[0] % rank == 0 and count != experts:
        why = f"is for {count} experts of rank {rank}, this model has {experts}"
        raise other_model_error(a, why, base)
