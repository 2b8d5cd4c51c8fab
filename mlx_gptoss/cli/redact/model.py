"""The token classifier that commands mask private text with."""

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlx_gptoss.cli.options import folder_or_name
from mlx_gptoss.cli.progress import ByteProgress
from mlx_gptoss.cli.services import Services

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.workloads.batch import Template
    from mlx_gptoss.workloads.redact import Redactor

MODEL_VARIABLE = "MLX_GPTOSS_REDACT_MODEL"


def load_redactor(
    services: Services, model: str | None, options: "LoadOptions", **settings: Any
) -> "Redactor":
    """Load a classifier, by default the variable's or openai/privacy-filter.

    It is downloaded if necessary. `settings` are those of Redactor.
    """
    from mlx_gptoss.workloads.redact import DEFAULT_MODEL, Redactor
    from mlx_gptoss.workloads.redact.labeler import classifier_check

    name = folder_or_name(model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL)
    check = classifier_check(name)
    folder = services.fetch(name, offline=options.offline, check=check)
    with ByteProgress(f"Loading {name}") as progress:
        return Redactor(folder, options=options, progress=progress, **settings)


def masking(
    template: "Template", services: Services, *, patterns_only: bool
) -> "Template":
    """Return a template that masks what is private in each row first."""
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.workloads.redact import Redactor
    from mlx_gptoss.workloads.redact.rows import mask_row

    if patterns_only:
        redactor, name = Redactor(None), "patterns"
    else:
        redactor = load_redactor(services, None, LoadOptions())
        name = os.environ.get(MODEL_VARIABLE) or "the default model"
    return replace(template, mask=partial(mask_row, redactor), masked_by=name)
