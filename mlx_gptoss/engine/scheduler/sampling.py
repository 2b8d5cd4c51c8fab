"""Sampling the next tokens of several sequences together."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from mlx_gptoss.engine.sampler import Sampler, SamplerInput
from mlx_gptoss.engine.scheduler.forward_pass import as_model_error
from mlx_gptoss.engine.sequence import Sequence

ErrorScope = Callable[[Sequence], AbstractContextManager[None]]


def sample(sampler: Sampler, sequences: list[Sequence], isolate: ErrorScope) -> None:
    """Sample the next token of each sequence that can, in one pass; do not wait.

    Work of a single sequence runs within `isolate(sequence)`. If sampling itself fails,
    all these sequences end, and no others.
    """
    inputs: list[SamplerInput] = []
    ready: list[Sequence] = []
    for sequence in sequences:
        with isolate(sequence):
            found = sequence.sampler_input()
            if found is not None:
                inputs.append(found)
                ready.append(sequence)
    if not inputs:
        return
    try:
        tokens = sampler.sample(inputs)
    except Exception as error:
        named = as_model_error(error, "sampled")
        for sequence in ready:
            with isolate(sequence):
                raise named from error
        return
    for sequence, sampled in zip(ready, tokens, strict=True):
        with isolate(sequence):
            sequence.accept_sample(sampled)
