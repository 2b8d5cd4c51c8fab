"""Measure the perplexity of a checkpoint on a text, in windows, in float32.

    python -m examples.real_language_model.perplexity smol
    python -m examples.real_language_model.perplexity --original SmolLM2.gguf

The text is split into windows of 512 tokens, each preceded by `bos_token_id`; every
token of a window is predicted. With `--later-half`, only the second half of a window
counts, as in llama.cpp's `llama-perplexity -c 512`, for comparison.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import mlx_gptoss
from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.errors import GptOssError

TEXT = Path(__file__).parent / "persuasion.txt"
WINDOW, TOKENS = 512, 4096
LATER_HALF = WINDOW // 2 + 1  # llama-perplexity counts from here

Logits = Callable[[list[int]], np.ndarray]  # (L,) -> (L, V) float32


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the perplexity of a model.")
    parser.add_argument("checkpoint", nargs="?", help="a folder")
    parser.add_argument("--original", type=Path, help="SmolLM2 as GGUF, as it is")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--later-half", action="store_true")
    given = parser.parse_args()
    if (given.checkpoint is None) == (given.original is None):
        parser.error("give a checkpoint or --original")
    text = given.text.read_text(encoding="utf-8")
    start = LATER_HALF if given.later_half else 0
    try:
        if given.original is None:
            found, count = of_checkpoint(given.checkpoint, text, given.tokens, start)
        else:
            found, count = of_original(given.original, text, given.tokens, start)
    except GptOssError as error:
        parser.exit(1, f"{error}\n")
    print(f"perplexity {found:.3f} over {count} tokens of {given.text.name}")


def of_checkpoint(
    folder: str | Path, text: str, tokens: int, start: int = 0
) -> tuple[float, int]:
    """Measure a gpt-oss checkpoint; return the perplexity and the tokens counted."""
    with mlx_gptoss.load(Path(folder), dtype="float32") as runtime:
        ids = runtime.tokenizer.encode(text)[:tokens]
        first = first_token(Path(folder))
        return perplexity(lambda window: logits_of(runtime, window), ids, first, start)


def logits_of(runtime: mlx_gptoss.Runtime, window: list[int]) -> np.ndarray:
    return np.array(runtime.logits(window))


def of_original(
    path: Path, text: str, tokens: int, start: int = 0
) -> tuple[float, int]:
    """Measure the published model, run as a Llama."""
    from examples.real_language_model.build import tokenizer  # noqa: PLC0415 - gguf
    from examples.real_language_model.original import (  # noqa: PLC0415
        read_original,
        run,
    )

    original = read_original(path)
    ids = tokenizer(original.metadata).encode(text).ids[:tokens]
    first = original.metadata["tokenizer.ggml.bos_token_id"]

    def logits(window: list[int]) -> np.ndarray:
        return np.array(run(original, window)[0])

    return perplexity(logits, ids, first, start)


def first_token(folder: Path) -> int:
    return int(open_checkpoint(folder).raw_config["bos_token_id"])


def perplexity(
    logits: Logits, ids: list[int], first: int, start: int = 0
) -> tuple[float, int]:
    """Return exp of the mean loss over whole windows, and how many tokens that is.

    In each window, the tokens from `start` on count.
    """
    losses = [
        loss(logits([first, *window[:-1]])[start:], window[start:])
        for window in windows(ids)
    ]
    return math.exp(float(np.mean(losses))), len(losses) * (WINDOW - start)


def windows(ids: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids) - WINDOW + 1, WINDOW):
        yield ids[start : start + WINDOW]


def loss(logits: np.ndarray, following: list[int]) -> float:
    """Return the mean of -log p of the tokens that follow."""
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float((total - logits[np.arange(len(following)), following]).mean())


if __name__ == "__main__":
    main()
