"""Rows that teach the demo model calls: unseen names only, read as they were meant."""

from itertools import islice
from pathlib import Path

import pytest

from examples.tune_demo.rows import Skill, chat_row, evaluated_names, name_parts, rows
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.harmony.messages import Message, function_tools
from mlx_gptoss.workloads.tune.documents import Renderer
from mlx_gptoss.workloads.tune.examples import TrainingExample
from mlx_gptoss.workloads.tune.row_forms import read_example
from mlx_gptoss.workloads.tune.settings import CorpusSettings

DEMO = Path(__file__).parents[2] / "mlx_gptoss" / "demo"
COUNT = 60


@pytest.fixture(scope="module")
def left_out() -> set[str]:
    return evaluated_names()


def drawn(left_out: set[str]) -> list[list[Message]]:
    skill = Skill(3, left_out)
    return [skill.call() for _ in range(COUNT)] + [skill.other() for _ in range(COUNT)]


def test_no_part_of_a_name_is_in_the_evaluation(left_out: set[str]) -> None:
    tools = [tool for one in drawn(left_out) for tool in function_tools(one)]
    parts = {part for tool in tools for part in name_parts(tool)}

    assert len(tools) > COUNT
    assert len(left_out) > 500
    assert parts.isdisjoint(left_out)


def test_a_row_reads_as_the_conversation_it_was_written_from(
    left_out: set[str],
) -> None:
    for messages in drawn(left_out):
        example = read_example(chat_row(messages), CorpusSettings())

        assert isinstance(example, TrainingExample)
        assert list(example.messages) == messages


def test_every_row_is_short_and_has_something_to_learn() -> None:
    renderer = Renderer(Tokenizer.open(DEMO), CorpusSettings())
    for row in rows(COUNT, seed=5, others=0.35):
        documents = renderer.documents(read_example(row, renderer.settings))

        assert documents and all(document.learned.any() for document in documents)


def test_the_same_seed_writes_the_same_rows() -> None:
    once, again = (list(islice(rows(9, seed=7, others=0.5), 9)) for _ in range(2))

    assert once == again
