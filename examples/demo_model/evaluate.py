"""Measure an exported demo model on held-out prompts, greedily, in the runtime.

    python -m examples.demo_model.evaluate demo --count 60
    python -m examples.demo_model.evaluate demo --count 60 --adapter ./calls

prints the share of correct outputs by kind and the length of the analysis by effort.
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from examples.demo_model.cases import Case, Output, cases
from examples.demo_model.scores import report
from mlx_gptoss import Runtime, SamplingParams, load
from mlx_gptoss.harmony.render.prompt import render_messages

TOGETHER = 8  # cases in one batch
GREEDY = SamplingParams(temperature=0, max_tokens=400)


def complete(runtime: Runtime, case: Case) -> Output | None:
    """Run one case; return None if the output is not Harmony."""
    tokenizer = runtime.tokenizer
    names = {number: name for name, number in tokenizer.specials.items()}
    ids = [step.token for step in runtime.generate(_prompt(runtime, case), GREEDY)]
    text = ""
    plain: list[int] = []
    for token in [*ids, -1]:
        if token in names or token < 0:
            text += tokenizer.decode(plain) + names.get(token, "")
            plain = []
        else:
            plain.append(token)
    return Output.parse(text)


def _prompt(runtime: Runtime, case: Case) -> list[int]:
    return render_messages(case.prompt, runtime.tokenizer)


def outputs(runtime: Runtime, chosen: Sequence[Case]) -> list[Output | None]:
    """Run all cases, several in one batch."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        return list(pool.map(lambda case: complete(runtime, case), chosen))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--count", type=int, default=60, help="cases of each kind")
    parser.add_argument("--show", type=int, default=0, help="failures of each kind")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--adapter", help="folder of an adapter to measure it with")
    given = parser.parse_args()
    adapters = [given.adapter] if given.adapter else []
    chosen = [case for case in cases(given.count) if given.only in case.kind]
    started = time.monotonic()
    with load(given.model, adapters=adapters) as runtime:
        found = outputs(runtime, chosen)
    print(report(chosen, found, given.show))
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
