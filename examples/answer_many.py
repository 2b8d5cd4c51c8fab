"""Answer questions one by one and together, and compare the speed.

python -m examples.answer_many             # the demo model, 16 questions, 5 rounds
python -m examples.answer_many MODEL COUNT ROUNDS
"""

import sys
from statistics import median
from time import perf_counter

from mlx_gptoss import Chat, Reply, Runtime, SamplingParams, answer_all, load

GREEDY = SamplingParams(temperature=0, max_tokens=200)


def main(model: str = "demo", count: str = "16", rounds: str = "5") -> None:
    """Print the completion tokens per second of both ways, round by round."""
    ratios: list[float] = []
    with load(model) as runtime:
        Chat(runtime, params=GREEDY).ask("What is 1 + 1?")  # warm up
        for number in range(int(rounds)):
            first = 100 + number * int(count)
            asked = range(first, first + int(count))
            questions = [f"What is {n} + {2 * n}?" for n in asked]
            before = perf_counter()
            alone = one_by_one(runtime, questions)
            between = perf_counter()
            together = list(answer_all(runtime, questions, params=GREEDY))
            after = perf_counter()
            slow = tokens(alone) / (between - before)
            fast = tokens(together) / (after - between)
            ratios.append(fast / slow)
            print(f"{slow:.0f} tok/s one by one, {fast:.0f} together: ", end="")
            print(f"{ratios[-1]:.2f} times", flush=True)
    print(f"median {median(ratios):.2f} times")


def one_by_one(runtime: Runtime, questions: list[str]) -> list[Reply]:
    """Ask each question in a chat of its own, after the answer to the one before."""
    return [Chat(runtime, params=GREEDY).ask(text) for text in questions]


def tokens(replies: list[Reply]) -> int:
    """Count the completion tokens of all replies."""
    return sum(reply.stats.completion_tokens for reply in replies if reply.stats)


if __name__ == "__main__":
    main(*sys.argv[1:])
