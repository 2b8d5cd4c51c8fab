"""Write validation conversations in the form of the demo model's evaluation.

    python -m examples.tune_demo.validation valid.jsonl

They are drawn as the evaluation's cases are, held-out words among them, from another
seed: other tools, values and requests. Nothing is learned from them: they choose the
step that is kept. The rows are in OpenAI's chat format.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from examples.demo_model.cases import KINDS
from examples.demo_model.data import Author
from examples.demo_model.tasks import EFFORTS
from examples.tune_demo.rows import chat_row

SEED = 8200
COUNTS = {
    "tool call": 90,
    "tool call, known tools": 15,
    "JSON": 15,
    "answer from result": 15,
    "reverse": 12,
    "recall": 12,
}


def rows() -> Iterator[dict[str, Any]]:
    """Yield the conversations, calls of unseen tools first."""
    for place, (kind, count) in enumerate(COUNTS.items()):
        author = Author(SEED + place, held_out=True)
        for number in range(count):
            start, branch = KINDS[kind](author, EFFORTS[number % len(EFFORTS)])
            yield chat_row(start + branch.messages)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    with parser.parse_args().file.open("w") as file:
        for row in rows():
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
