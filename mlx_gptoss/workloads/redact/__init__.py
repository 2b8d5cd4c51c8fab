"""Mask what is private in texts, files and requests.

redactor.py      find and mask: the model and patterns, united
labeler.py       the model's spans of texts, long ones in chunks; memory.py: what fits
labels.py        tags, categories, which may follow which; viterbi.py: the best path
spans.py         spans that cut no character and no number; their union
patterns.py      what checksums and patterns find
placeholders.py  `[PERSON_1]`: who is the same; vault.py: the map that is kept
documents/       text, JSON, JSONL, CSV: what is masked in a file
folders.py       files and folders in, masked files out; work.py: one document
rows.py          rows of a batch
"""

from mlx_gptoss.workloads.redact.redactor import (
    DEFAULT_MODEL,
    Field,
    MaskedSpan,
    Redaction,
    Redactor,
)
from mlx_gptoss.workloads.redact.spans import PrivateSpan
from mlx_gptoss.workloads.redact.vault import Vault

__all__ = [
    "DEFAULT_MODEL",
    "Field",
    "MaskedSpan",
    "PrivateSpan",
    "Redaction",
    "Redactor",
    "Vault",
]
