"""Measure what an adapter teaches: valid Harmony on held-out prompts, and perplexity.

    python -m examples.real_language_model.evaluate ./smol ./harmony

Every prompt is answered without constraints, with and without the adapter. An answer is
valid if this package's parser has nothing to repair, and, where `openai_harmony` is
installed, OpenAI's strict parser agrees. The perplexity is that of `perplexity.py`.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.real_language_model.harmony_cases import (
    KINDS,
    Answer,
    Case,
    cases,
    judge,
)
from examples.real_language_model.perplexity import (
    TEXT,
    TOKENS,
    first_token,
    perplexity,
)
from mlx_gptoss import Runtime, SamplingParams, load
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.harmony.render.prompt import render_messages
from mlx_gptoss.workloads.tune.decoded import decode_model

NAME = "harmony"  # of the adapter
SIDES = {"before": None, "after": NAME}
COUNT, MAX_TOKENS = 12, 200
TOGETHER = 8  # answers in one batch
GREEDY = SamplingParams(temperature=0, max_tokens=MAX_TOKENS)


@dataclass(frozen=True)
class Measured:
    """Answers to the cases, and the perplexity of prose (None: not measured)."""

    answers: tuple[Answer, ...]
    perplexity: float | None


def measure_both(
    model: Path,
    adapter: Path,
    chosen: Sequence[Case],
    params: SamplingParams = GREEDY,
    *,
    tokens: int = TOKENS,
    sides: Sequence[str] = tuple(SIDES),
) -> dict[str, Measured]:
    """Measure a model without and with an adapter, by side."""
    first = first_token(model)
    with load(model, adapters=[f"{NAME}={adapter.absolute()}"]) as runtime:
        runtime.run(decode_model, runtime.model)  # the same function, faster on a CPU
        return {
            side: measure(
                runtime, chosen, SIDES[side], params, tokens=tokens, first=first
            )
            for side in sides
        }


def measure(
    runtime: Runtime,
    chosen: Sequence[Case],
    adapter: str | None,
    params: SamplingParams,
    *,
    tokens: int,
    first: int,
) -> Measured:
    """Answer every case, and read `tokens` tokens of prose."""

    def answer(case: Case) -> Answer:
        prompt = render_messages(case.messages, runtime.tokenizer)
        steps = runtime.generate(prompt, params, adapter=adapter)
        return judge([step.token for step in steps], case, runtime.tokenizer)

    def logits(window: list[int]) -> np.ndarray:
        return np.array(runtime.logits(window, adapter=adapter))

    with ThreadPoolExecutor(TOGETHER) as pool:
        answers = tuple(pool.map(answer, chosen))
    if not tokens:
        return Measured(answers, None)
    ids = runtime.tokenizer.encode(TEXT.read_text(encoding="utf-8"))[:tokens]
    return Measured(answers, perplexity(logits, ids, first)[0])


def table(chosen: Sequence[Case], found: dict[str, Measured]) -> str:
    """Return the figures as a Markdown table."""
    lines = [f"| | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]

    def row(name: str, cells: Sequence[str]) -> None:
        lines.append(f"| {name} | {' | '.join(cells)} |")

    for kind in KINDS:
        row(kind, [valid_count(chosen, one.answers, kind) for one in found.values()])
    row("valid Harmony", [share(chosen, one.answers) for one in found.values()])
    row("calls as expected", [expected(chosen, one.answers) for one in found.values()])
    if all(one.perplexity is not None for one in found.values()):
        row(f"perplexity, {TEXT.name}", [f"{x.perplexity:.2f}" for x in found.values()])
    return "\n".join(lines)


def valid_count(chosen: Sequence[Case], answers: Sequence[Answer], kind: str) -> str:
    """Count the valid answers of one kind."""
    marks = [
        answer.valid
        for case, answer in zip(chosen, answers, strict=True)
        if case.kind == kind
    ]
    return f"{sum(marks)} of {len(marks)}"


def share(chosen: Sequence[Case], answers: Sequence[Answer]) -> str:
    return f"{valid_share(answers):.1%} of {len(chosen)}"


def valid_share(answers: Sequence[Answer]) -> float:
    return sum(answer.valid for answer in answers) / len(answers)


def expected(chosen: Sequence[Case], answers: Sequence[Answer]) -> str:
    """Count the calls with the expected tool and arguments."""
    marks = [
        answer.call == case.call
        for case, answer in zip(chosen, answers, strict=True)
        if case.call
    ]
    return f"{sum(marks)} of {len(marks)}"


def as_json(chosen: Sequence[Case], found: dict[str, Measured]) -> dict[str, Any]:
    """Return everything, answers included, as JSON values."""
    return {
        side: {
            "valid_share": valid_share(one.answers),
            "perplexity": one.perplexity,
            "answers": [
                {"kind": case.kind, "text": answer.text, "faults": answer.faults}
                for case, answer in zip(chosen, one.answers, strict=True)
            ],
        }
        for side, one in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what an adapter teaches.")
    parser.add_argument("model", type=Path, help="made by `build`")
    parser.add_argument("adapter", type=Path, help="a folder")
    parser.add_argument("--count", type=int, default=COUNT, help="prompts of each kind")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument(
        "--tokens", type=int, default=TOKENS, help="of prose; 0 measures no perplexity"
    )
    parser.add_argument("--only", choices=SIDES, help="measure one side only")
    parser.add_argument("--show", type=int, default=0, help="invalid answers to print")
    parser.add_argument("--json", type=Path, help="save figures and answers here")
    given = parser.parse_args()
    chosen = cases(given.count)
    params = SamplingParams(
        temperature=given.temperature, max_tokens=given.max_tokens, seed=1
    )
    sides = [given.only] if given.only else list(SIDES)
    try:
        found = measure_both(
            given.model,
            given.adapter,
            chosen,
            params,
            tokens=given.tokens,
            sides=sides,
        )
    except GptOssError as error:
        parser.exit(1, f"{error}\n")
    wrong = [one for one in found[sides[-1]].answers if not one.valid]
    for answer in wrong[: given.show]:
        print(f"{answer.text}\n    {'; '.join(answer.faults)}\n")
    print(table(chosen, found))
    if given.json is not None:
        given.json.write_text(json.dumps(as_json(chosen, found), indent=1) + "\n")


if __name__ == "__main__":
    main()
