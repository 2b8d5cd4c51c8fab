"""Measure the cost of a guide: decoding free text with one and without.

One process, one model, one prompt. A round runs both, in alternating order. Other work
on the machine only slows runs down, so the fastest tenth of each is compared: the
undisturbed runs. The prompt ends inside a message, and the token that ends the message
is excluded in both, so every token is free text. A model without a tokenizer uses the
demo's: the cost depends on the size of the vocabulary, not on its words.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.diagnostics.bench.measured_engine import random_prompt
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.guide import Guide
from mlx_gptoss.engine.guide_factory import GuideFactory
from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.harmony.constrain.constraints import Constraints

DEFAULT_DEPTH, DEFAULT_TOKENS, DEFAULT_ROUNDS = 128, 16, 100
LEAST_TOKENS = 2
FASTEST_SHARE = 10  # the fastest tenth of the rounds
EXCLUDED_BIAS = -1e9  # added to the logit of an excluded token
SEED = 7


@dataclass(frozen=True)
class ConstrainBench:
    """Undisturbed tokens per second, and the share of time that a guide adds.

    `paired` is the median of that share within a round, for comparison.
    """

    model: str
    machine: str
    load_average: float
    vocabulary: int
    depth: int
    tokens: int
    rounds: int
    free: float
    guided: float
    paired: float

    @property
    def cost(self) -> float:
        return self.free / self.guided - 1

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"cost": self.cost}


def bench_constrain(
    model: Path,
    options: LoadOptions,
    *,
    depth: int = DEFAULT_DEPTH,
    tokens: int = DEFAULT_TOKENS,
    rounds: int = DEFAULT_ROUNDS,
    temperature: float = 1.0,
    progress: ReportProgress = ignore_progress,
) -> ConstrainBench:
    """Decode `tokens` behind a prompt of `depth` tokens, `rounds` times each way.

    Raises GptOssError for numbers too small to measure anything.
    """
    if tokens < LEAST_TOKENS or rounds < 1:
        raise GptOssError(
            f"{tokens} tokens and {rounds} rounds measure nothing: decode at least "
            f"{LEAST_TOKENS} tokens in at least one round"
        )
    load_average = os.getloadavg()[0]
    with load(model, options=options) as runtime:
        text = FreeTextDecoder(runtime, depth, tokens, temperature)
        free, guided = [], []
        text.seconds_per_token(text.guide())  # the first run is not timed
        for turn in range(rounds):
            progress(f"round {turn + 1} of {rounds}")
            runs = [(free, None), (guided, text.guide())]
            for found, guide in runs if turn % 2 == 0 else reversed(runs):
                found.append(text.seconds_per_token(guide))
        pairs = zip(free, guided, strict=True)
        return ConstrainBench(
            model=str(model),
            machine=describe_machine(),
            load_average=load_average,
            vocabulary=runtime.config.vocab_size,
            depth=depth,
            tokens=tokens,
            rounds=rounds,
            free=1 / fastest_tenth(free),
            guided=1 / fastest_tenth(guided),
            paired=median(with_it / without - 1 for without, with_it in pairs),
        )


def fastest_tenth(seconds: Sequence[float]) -> float:
    """Return the slowest run of the fastest tenth."""
    return sorted(seconds)[len(seconds) // FASTEST_SHARE]


class FreeText:
    """The header of a message and the guide behind it, in a vocabulary of Harmony.

    A model without a tokenizer uses the demo's. Raises GptOssError if the model has
    fewer tokens.
    """

    def __init__(self, runtime: Runtime) -> None:
        own = runtime.has_tokenizer and runtime.tokenizer.has_harmony
        self.words = runtime.tokenizer if own else Tokenizer.open(resolve("demo"))
        if runtime.config.vocab_size < self.words.vocab_size:
            raise GptOssError(
                f"the model has {runtime.config.vocab_size} tokens, fewer than the "
                "vocabulary: nothing to measure"
            )
        self._guides = GuideFactory(self.words)
        self.header = [
            self.words.special("<|channel|>"),
            *self.words.encode("analysis"),
            self.words.special("<|message|>"),
        ]

    def guide(self) -> Guide:
        """Return a guide that has consumed the header."""
        guide = self._guides.create(Constraints())
        assert guide is not None
        guide.resume_turn(self.header)
        return guide


class FreeTextDecoder:
    """Decodes text inside a message that cannot end."""

    def __init__(
        self, runtime: Runtime, depth: int, tokens: int, temperature: float
    ) -> None:
        self._runtime = runtime
        text = FreeText(runtime)
        self.guide = text.guide
        self._prompt = random_prompt(depth, runtime.config.vocab_size) + text.header
        self._params = SamplingParams(
            max_tokens=tokens,
            temperature=temperature,
            seed=SEED,
            logit_bias={text.words.special("<|end|>"): EXCLUDED_BIAS},
        )

    def seconds_per_token(self, guide: Guide | None) -> float:
        """Decode once; return the mean seconds per token after the first."""
        stream = self._runtime.generate(
            self._prompt, self._params, stop_tokens={}, guide=guide
        )
        with stream:
            next(stream)
            start = time.perf_counter()
            count = sum(1 for _ in stream)
            return (time.perf_counter() - start) / count
