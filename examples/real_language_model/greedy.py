"""Compare greedy tokens with llama.cpp's: equal, or different after a near tie.

    python -m examples.real_language_model.greedy --prompts > prompts.json
    node llama_greedy.mjs model.gguf prompts.json > said
    python -m examples.real_language_model.greedy smol said

llama.cpp rounds the inputs of MXFP4 matrices to 8 bits and keeps keys in float16; of
two nearly equally likely tokens, either may be the greedy one. A second file instead of
a model is compared with the first: llama.cpp with itself under other settings.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from examples.real_language_model.perplexity import TEXT
from mlx_gptoss import SamplingParams, load

PROMPTS, WORDS = 24, 9


def prompts() -> list[str]:
    """Return the first words of sentences spread over the text."""
    sentences = re.split(r"(?<=[.;])\s+", TEXT.read_text(encoding="utf-8"))
    long = [one.split() for one in sentences if len(one.split()) > 2 * WORDS]
    return [" ".join(long[n * len(long) // PROMPTS][:WORDS]) for n in range(PROMPTS)]


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Return the first position where two answers differ, or None."""
    pairs = enumerate(zip(ours, theirs, strict=True))
    return next((n for n, (a, b) in pairs if a != b), None)


def gaps(folder: str, said: Sequence[Any]) -> list[float | None]:
    """Return the gap of the top two tokens (nats) at each first difference."""
    found: list[float | None] = []
    with load(Path(folder), dtype="float32") as runtime:
        for one in said:
            greedy = SamplingParams(
                temperature=0, top_logprobs=2, max_tokens=len(one["out"])
            )
            steps = list(runtime.generate(one["ids"], greedy, stop_tokens={}))
            at = first_difference([step.token for step in steps], one["out"])
            if at is None:
                found.append(None)
                continue
            (_, best), (_, second) = steps[at].top_logprobs
            found.append(best - second)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare greedy tokens.")
    parser.add_argument("--prompts", action="store_true", help="print the prompts")
    parser.add_argument("ours", nargs="?", help="a checkpoint, or another file")
    parser.add_argument("theirs", nargs="?", type=Path, help="of llama_greedy.mjs")
    given = parser.parse_args()
    if given.prompts:
        print(json.dumps(prompts()))
    elif given.theirs is None:
        parser.error("give a checkpoint and what llama.cpp said")
    elif Path(given.ours).is_file():
        pairs = zip(lines(Path(given.ours)), lines(given.theirs), strict=True)
        alike = [first_difference(a["out"], b["out"]) is None for a, b in pairs]
        print(f"{sum(alike)} of {len(alike)} answers are equal")
    else:
        print(summary(gaps(given.ours, lines(given.theirs))))


def summary(found: Sequence[float | None]) -> str:
    parted = [gap for gap in found if gap is not None]
    equal = f"{len(found) - len(parted)} of {len(found)} answers are equal"
    if not parted:
        return equal
    return (
        f"{equal}; the others part where the two best tokens are "
        f"{mean(parted):.3f} nats apart on average, {max(parted):.3f} at most"
    )


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
