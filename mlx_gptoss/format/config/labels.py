"""The labels of a token classifier, such as openai/privacy-filter.

`id2label` of `config.json` names them, by their places in the head. A config without it
means the published labels, as in transformers' `openai_privacy_filter`.
"""

from collections.abc import Mapping
from typing import Any, cast

from mlx_gptoss.errors import ConfigError

CLASSIFIER = "openai_privacy_filter"  # `model_type`
CATEGORIES = (
    "account_number",
    "private_address",
    "private_date",
    "private_email",
    "private_person",
    "private_phone",
    "private_url",
    "secret",
)
OUTSIDE = "O"
PUBLISHED = (OUTSIDE, *(f"{tag}-{name}" for name in CATEGORIES for tag in "BIES"))
MOST_LABELS = 4096


def read_labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels of a classifier by number; () for a language model.

    Raises ConfigError for numbers with a gap, and for names given twice.
    """
    if raw.get("model_type") != CLASSIFIER:
        return ()
    said = raw.get("id2label")
    if said is None:
        return PUBLISHED
    named: Mapping[str, object] = {}
    if isinstance(said, Mapping):
        named = cast("Mapping[str, object]", said)
    places = [named.get(str(place)) for place in range(min(len(named), MOST_LABELS))]
    labels = tuple(name for name in places if isinstance(name, str) and name)
    if not labels or len(labels) != len(named) or len(set(labels)) != len(labels):
        raise ConfigError(
            f"`config.json` has `id2label` = {said!r:.80}, expected a name for each "
            f"number from 0 on, all different, at most {MOST_LABELS:,}"
        )
    return labels
