"""Open a checkpoint: read and check its headers, decide the structure in memory.

After `open_checkpoint` names, shapes, dtypes and file sizes are known to be right; the
values are not checked (see `value_checks`).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint.folder import (
    describe_index_fault,
    find_files,
    read_headers,
)
from mlx_gptoss.checkpoint.json_files import read_json
from mlx_gptoss.checkpoint.matching import match_tensors
from mlx_gptoss.checkpoint.mismatch import explain_mismatch
from mlx_gptoss.checkpoint.parameters import (
    KINDS,
    Parameter,
    list_parameters,
    part_of,
)
from mlx_gptoss.checkpoint.renaming import NamedTensors, name_tensors
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.errors import CheckpointError, ConfigError
from mlx_gptoss.format.config import (
    ModelConfig,
    Quantization,
    parse_quantization,
    read_token_ids,
)
from mlx_gptoss.format.file_names import CONFIG, GENERATION_CONFIG
from mlx_gptoss.format.foreign_forms import (
    PackedForm,
    describe_other_model,
    find_packed_form,
)
from mlx_gptoss.format.layout import (
    FLOATS,
    LM_HEAD,
    PARTS,
    Layout,
    Structure,
    detect_layout,
)
from mlx_gptoss.memory.sizes import recipe_bytes
from mlx_gptoss.memory.units import format_bytes

Stored = Mapping[str, StoredTensor]
Decode = Callable[[PackedForm, Stored], Stored]
DEFAULT_RECIPE = "q8"  # of `mlx-gptoss convert`
HEAD, EMBEDDING = "lm_head", "model.embed_tokens"
STALE_INDEX = (
    "that file and the index are of different saves, take both from one, or remove the "
    "index if it is another model's"
)
ROUTER_BIAS = "model.layers.{n}.mlp.router.bias"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with valid headers.

    `tensors` maps canonical names (see `format/layout.py`) to byte ranges: file, offset
    from its start, length, stored dtype and shape. q, k and v of a fused file are three
    ranges of one stored tensor; experts stored one by one are the parts of one. A head
    that is tied has the embedding's tensors. `notes` say what was read otherwise than
    the files have it.
    """

    folder: Path
    files: tuple[Path, ...]
    raw_config: Mapping[str, Any] = field(repr=False)
    config: ModelConfig
    layout: Layout
    structure: Structure = field(repr=False)
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    notes: tuple[str, ...] = ()
    decoded_from: PackedForm | None = None

    @property
    def is_tied(self) -> bool:
        """Whether the output head is the embedding."""
        head = self.tensors.get(f"{HEAD}.weight")
        return head is not None and head == self.tensors.get(f"{EMBEDDING}.weight")

    @property
    def stored_parts(self) -> list[StoredTensor]:
        """All tensors as they lie in the files, those of a tied head once."""
        found = (part for tensor in self.tensors.values() for part in tensor.parts)
        return list(dict.fromkeys(found))

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters of the model in memory, each with its stored tensors."""
        return tuple(
            list_parameters(self.config, self.structure, self.layout, self.tensors)
        )

    @cached_property
    def bytes_by_part(self) -> dict[str, int]:
        """Stored bytes of embedding, attention, router, experts, norms and lm_head.

        A tied head has none.
        """
        total: dict[str, int] = defaultdict(int)
        for name, tensor in self.tensors.items():
            total[part_of(name)] += tensor.nbytes
        return self._without_tied_head(total)

    def loaded_bytes_by_part(self, float_bytes: int) -> dict[str, int]:
        """Bytes of each part in memory with `float_bytes` per float."""
        total: dict[str, int] = defaultdict(int)
        for parameter in self.parameters:
            total[parameter.part] += parameter.nbytes(float_bytes)
        return self._without_tied_head(total)

    def _without_tied_head(self, total: Mapping[str, int]) -> dict[str, int]:
        found = {part: total[part] for part in PARTS}
        return found | {LM_HEAD: 0} if self.is_tied else found


def open_checkpoint(
    folder: str | Path,
    *,
    strict: bool = False,
    decode: Decode | None = None,
    classifier: bool | None = False,
) -> Checkpoint:
    """Open a folder (or its only weight file), reading headers only.

    `classifier` says what it must be: False is a language model, True a token
    classifier, None either.
    `decode` presents the tensors of a form that must be converted (see
    `format/foreign_forms.py`) as floats; without it such a form is refused, with the
    command that converts it.

    Raises ConfigError or CheckpointError for the first fault, naming the tensor, the
    file, and the value found and expected. With `strict`, unknown keys of `config.json`
    are errors.
    """
    files = find_files(Path(folder).expanduser())
    raw = read_json(files.folder / CONFIG)
    other = describe_other_model(raw)
    if other is not None:
        raise ConfigError(f"`{files.folder}` is {other}")
    config = ModelConfig.from_dict(raw, strict=strict)
    require_kind(config, classifier, str(files.folder))
    config = replace(config, eos_token_ids=read_stop_tokens(config, files.folder))
    stored = read_headers(files)
    index_fault = describe_index_fault(files, stored)
    form = find_packed_form(stored)
    if form is not None and decode is None:
        raise conversion_needed_error(files.folder, form, config)
    named = NamedTensors(stored, single_experts=False, notes=())
    layout = None
    if form is not None and decode is not None:
        stored = decode(form, stored)
    try:
        named = name_tensors(stored)
        layout = find_layout(named, raw, classifier=config.is_classifier)
        if layout is None:
            raise no_weights_error(files.folder, stored)
        tensors = named.tensors
        if not config.is_classifier:
            tensors = with_tied_head(tensors, raw, layout)
        config = with_stored_experts(config, layout, tensors)
        match = match_tensors(tensors, config, layout, read_modules(raw, tensors))
    except (CheckpointError, ConfigError) as error:
        said = raw if form is None else {}  # its `quant_method` is right
        reason = explain_mismatch(said, config, layout, named.tensors) or (
            index_fault and f"{index_fault}: {STALE_INDEX}"
        )
        if reason is None:
            raise
        raise CheckpointError(reason) from error
    notes = [*files.notes, *named.notes]
    if form is not None:
        notes.append(f"the weights are {form.title}: decoded")
    if index_fault is not None:
        notes.append(f"{index_fault}: the files themselves are read")
    return Checkpoint(
        folder=files.folder,
        files=files.weights,
        raw_config=raw,
        config=config,
        layout=layout,
        structure=match.structure,
        tensors=match.tensors,
        notes=tuple(notes),
        decoded_from=form,
    )


def conversion_needed_error(
    folder: Path, form: PackedForm, config: ModelConfig
) -> CheckpointError:
    """Make the error for a form that only the converter reads, with its disk need."""
    size = format_bytes(recipe_bytes(config, DEFAULT_RECIPE))
    return CheckpointError(
        f"the weights in `{folder}` are {form.title}, which MLX does not compute: "
        f"convert them with `mlx-gptoss convert {folder} DST`, which takes about "
        f"{size} of disk, then give DST"
    )


def require_kind(config: ModelConfig, classifier: bool | None, name: str) -> None:
    """Raise ConfigError for a model of the other kind than the one that is needed."""
    if classifier is None or config.is_classifier == classifier:
        return
    if config.is_classifier:
        raise ConfigError(
            f"`{name}` is a token classifier, which labels text and writes none: mask "
            f"what is private with `mlx-gptoss redact -m {name}`"
        )
    raise ConfigError(
        f"`{name}` is a language model, which gives no labels: use "
        "`openai/privacy-filter`, or a model tuned from it"
    )


def find_layout(
    named: NamedTensors, raw: Mapping[str, Any], *, classifier: bool
) -> Layout | None:
    return detect_layout(
        {name: (tensor.dtype, tensor.shape) for name, tensor in named.tensors.items()},
        mlx="quantization" in raw,
        single_experts=named.single_experts,
        classifier=classifier,
    )


def with_stored_experts(
    config: ModelConfig, layout: Layout, tensors: Stored
) -> ModelConfig:
    """Take the numbers of experts from the routers if they differ from layer to layer.

    One number in `config.json` is then that of the model before it was pruned.
    """
    names = (
        layout.stored_name(ROUTER_BIAS.format(n=n))
        for n in range(config.num_hidden_layers)
    )
    found = [tensors[name].shape for name in names if name in tensors]
    counts = [shape[0] for shape in found if len(shape) == 1]
    whole = len(counts) == config.num_hidden_layers
    differ = whole and len(set(counts)) > 1
    if not differ or config.experts_by_layer or max(counts) > config.num_local_experts:
        return config
    return config.with_experts(counts)


def read_modules(
    raw: Mapping[str, Any], tensors: Stored
) -> dict[str, Quantization | None]:
    """Read the settings of quantized modules; there are none if all tensors are floats.

    The tensors themselves give the default.
    """
    if all(tensor.dtype in FLOATS for tensor in tensors.values()):
        return {}
    return parse_quantization(raw)[1]


def with_tied_head(tensors: Stored, raw: Mapping[str, Any], layout: Layout) -> Stored:
    """Let the embedding be the head of a tied model that has none of its own.

    A stored head is used, tied or not, as transformers does.
    """
    names = {
        layout.stored_name(f"{HEAD}.{kind}"): layout.stored_name(f"{EMBEDDING}.{kind}")
        for kind in KINDS
    }
    if raw.get("tie_word_embeddings") is not True or names.keys() & tensors.keys():
        return tensors
    found = {head: tensors[own] for head, own in names.items() if own in tensors}
    return {**tensors, **found}


def no_weights_error(folder: Path, stored: Stored) -> CheckpointError:
    """Make the error for tensors that are not gpt-oss's."""
    first = f": the first of its tensors is `{min(stored)}`" if stored else ""
    return CheckpointError(
        f"`{folder}` has no gpt-oss weights{first}; give a gpt-oss checkpoint"
    )


def read_stop_tokens(config: ModelConfig, folder: Path) -> tuple[int, ...]:
    """Join the stop tokens of `config.json` and `generation_config.json`."""
    path = folder / GENERATION_CONFIG
    ids = config.eos_token_ids
    if path.is_file():
        ids += read_token_ids(read_json(path), "eos_token_id", file=path.name)
    return tuple(token for token in dict.fromkeys(ids) if token < config.vocab_size)
