"""A corpus: files read row by row, every mistake named, a split, nothing kept."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import ExamplesError, PromptError
from mlx_gptoss.workloads.tune.corpus import MOST_MISTAKES, TuneCorpus, read_corpus
from mlx_gptoss.workloads.tune.settings import CorpusSettings
from mlx_gptoss.workloads.tune.sources import LONGEST_ROW, Sources

DEMO = Path(__file__).parents[2] / "mlx_gptoss" / "demo"
IN_A_FOLDER = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.open(DEMO)


def talk(number: int, **more: Any) -> dict[str, Any]:
    asked = {"role": "user", "content": f"question {number}"}
    answered = {"role": "assistant", "content": f"answer {number}", **more}
    return {"messages": [asked, answered]}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(corpus: TuneCorpus, tokenizer: Tokenizer, side: str = "train") -> list[str]:
    return [tokenizer.decode(one.ids) for one in getattr(corpus, side)]


def test_documents_are_counted_once_and_rendered_again(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = write(
        tmp_path / "a.jsonl", [talk(n, thinking="hm" * n) for n in range(1, 9)]
    )
    corpus = read_corpus(path, tokenizer, CorpusSettings(valid_share=0))
    train = corpus.train

    assert [len(one) for one in train] == train.tokens.tolist()
    assert [int(one.learned.sum()) for one in train] == train.learned.tolist()
    assert [one.where for one in train] == [f"{path}:{n}" for n in range(1, 9)]
    assert corpus.summary() == {
        "train": {
            "documents": 8,
            "learned_tokens": int(train.learned.sum()),
            "tokens": int(train.tokens.sum()),
            "longest": len(train[7]),
            "longest_at": f"{path}:8",
        },
        "valid": {
            "documents": 0,
            "learned_tokens": 0,
            "tokens": 0,
            "longest": 0,
            "longest_at": None,
        },
    }


def test_all_mistakes_are_named_with_file_and_line(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps(talk(1))
    path.write_bytes(
        b"\n".join(
            [good.encode(), b"", b"{", b'{"text": 3}', b"\xff", good.encode(), b"[]"]
        )
    )
    with pytest.raises(ExamplesError) as caught:
        read_corpus(path, tokenizer, CorpusSettings())

    assert [one.split(" ")[0] for one in caught.value.mistakes] == [
        f"{path}:{line}" for line in (3, 4, 5, 7)
    ]
    assert str(caught.value).startswith("4 mistakes in the examples:\n")


def test_reading_stops_at_the_limit_of_mistakes(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": 3}] * (MOST_MISTAKES + 5))
    with pytest.raises(ExamplesError, match="and reading stopped there") as caught:
        read_corpus(path, tokenizer, CorpusSettings())

    assert len(caught.value.mistakes) == MOST_MISTAKES


def test_a_single_mistake_is_one_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [talk(1), {"txt": "a"}])
    with pytest.raises(ExamplesError) as caught:
        read_corpus(path, tokenizer, CorpusSettings())

    assert str(caught.value) == (
        f"{path}:2 has neither `messages`, nor `prompt` and `completion`, nor `text` "
        "(its keys are `txt`): rename its keys"
    )


def test_a_row_longer_than_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(LONGEST_ROW + 2)
    [(row, data)] = Sources.of(path, portion=64).rows()

    assert (row.line, "one example a line" in str(data)) == (1, True)


@IN_A_FOLDER
@given(numbers=st.lists(st.integers(0, 40), min_size=2, max_size=30), data=st.data())
def test_the_split_depends_on_the_content_of_rows_alone(
    tmp_path: Path, tokenizer: Tokenizer, numbers: list[int], data: st.DataObject
) -> None:
    sides = []
    for order in (numbers, data.draw(st.permutations(numbers))):
        path = write(tmp_path / "a.jsonl", [talk(n) for n in order])
        corpus = read_corpus(path, tokenizer, CorpusSettings(valid_share=0.2))
        sides.append(
            [set(texts(corpus, tokenizer, side)) for side in ("train", "valid")]
        )
    train, valid = sides[0]

    assert sides[0] == sides[1]
    assert train.isdisjoint(valid)
    assert len(train | valid) == len(set(numbers))
    assert bool(valid) == (len(set(numbers)) > 1)


def test_a_conversation_is_on_one_side_with_all_its_documents(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    rows = [
        {
            "messages": [
                *talk(n, thinking="a")["messages"],
                *talk(n, thinking="b")["messages"],
            ]
        }
        for n in range(10)
    ]
    path = write(tmp_path / "a.jsonl", rows)
    corpus = read_corpus(path, tokenizer, CorpusSettings(valid_share=0.3))
    sides = [{one.where for one in side} for side in (corpus.train, corpus.valid)]

    assert sides[0].isdisjoint(sides[1])
    assert (len(corpus.train), len(corpus.valid)) == (14, 6)


def test_a_validation_file_leaves_all_rows_for_training(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    train = write(tmp_path / "train.jsonl", [talk(n) for n in range(5)])
    valid = write(tmp_path / "valid.jsonl", [talk(9)])
    for path, given_file in ((train, valid), (tmp_path, None)):
        corpus = read_corpus(path, tokenizer, CorpusSettings(), valid=given_file)

        assert (len(corpus.train), len(corpus.valid)) == (5, 1)
        assert corpus.valid[0].where == f"{valid}:1"


def test_mistakes_of_the_validation_file_are_named_too(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    train = write(tmp_path / "a.jsonl", [talk(1), {"text": 1}])
    valid = write(tmp_path / "b.jsonl", [{"text": 2}])
    with pytest.raises(ExamplesError) as caught:
        read_corpus(train, tokenizer, CorpusSettings(), valid=valid)

    assert len(caught.value.mistakes) == 2


@IN_A_FOLDER
@given(
    content=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    times=st.integers(1, 8),
)
def test_every_character_of_a_text_file_is_read_once(
    tmp_path: Path, content: str, times: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(content * times, newline="")
    sources = Sources.of(path, portion=16)
    rows = list(sources.rows())
    parts = [data.decode() for _, data in rows if isinstance(data, bytes)]

    assert "".join(parts) == content * times
    assert [sources.read(row) for row, _ in rows] == [data for _, data in rows]
    assert all(
        row.line == 1 + "".join(parts[:n]).count("\n")
        for n, (row, _) in enumerate(rows)
    )


def test_a_folder_of_texts_is_read_in_order_without_hidden_files(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.md", "deep/c.txt", ".hidden"):
        (tmp_path / name).write_text(f"text of {name}\n")
    corpus = read_corpus(tmp_path, tokenizer, CorpusSettings(valid_share=0))

    assert texts(corpus, tokenizer) == [
        f"text of {name}\n<|endoftext|>" for name in ("a.md", "b.txt", "deep/c.txt")
    ]
    assert all(one.learned[1:].all() for one in corpus.train)


def test_files_that_are_no_text_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.bin").write_bytes(b"a\0b")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ExamplesError) as caught:
        read_corpus(tmp_path, tokenizer, CorpusSettings())

    assert [one.split(":")[0] for one in caught.value.mistakes] == [
        str(tmp_path / name) for name in ("a.bin", "b.txt")
    ]


def missing(folder: Path) -> Path:
    return folder / "none.jsonl"


def empty(folder: Path) -> Path:
    return folder


def table(folder: Path) -> Path:
    path = folder / "a.parquet"
    path.write_bytes(b"PAR1")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "does not exist"),
        (empty, "has no files"),
        (table, "write it as JSONL"),
    ],
)
def test_what_is_no_corpus_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, make: Any, message: str
) -> None:
    with pytest.raises(ExamplesError, match=message):
        read_corpus(make(tmp_path), tokenizer, CorpusSettings())


def test_a_row_that_changes_after_it_was_counted_is_an_error(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = write(tmp_path / "a.jsonl", [talk(1), talk(2)])
    corpus = read_corpus(path, tokenizer, CorpusSettings(valid_share=0))
    write(path, [talk(1), talk(3)])

    assert len(corpus.train[0])
    with pytest.raises(ExamplesError, match=r"a\.jsonl:2 has changed"):
        corpus.train[1]


def test_the_digest_names_the_content_and_the_settings(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    def digest(rows: list[Any], **options: Any) -> str:
        path = write(tmp_path / "a.jsonl", rows)
        return read_corpus(path, tokenizer, CorpusSettings(**options)).digest

    once = digest([talk(1), talk(2)])

    assert digest([talk(1), talk(2)]) == once
    assert digest([talk(1), talk(3)]) != once
    assert digest([talk(1), talk(2)], train_on=("final",)) != once


def test_the_user_is_told_what_was_cut_left_out_and_not_offered(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    call = {"function": {"name": "get_weather", "arguments": {}}}
    asked = talk(1)["messages"][0]
    rows = [
        talk(1, content="long " * 400),
        {"messages": [asked, {"role": "assistant", "tool_calls": [call]}]},
        {"prompt": "a", "completion": "b"},
    ]
    using = CorpusSettings(
        length=300, too_long="cut", valid_share=0, train_on=("final", "analysis")
    )
    path = write(tmp_path / "a.jsonl", rows)
    cut, left_out, not_offered, pairs = read_corpus(path, tokenizer, using).notices

    assert cut.startswith("1 documents were cut to 300 tokens; the longest had ")
    assert left_out.startswith(
        "1 examples have nothing to learn with `--train-on final,"
    )
    assert f"(first {path}:2: `get_weather`)" in not_offered
    assert "--pairs chat" in pairs


class Letters:
    """A vocabulary of characters, without Harmony's tokens."""

    def __init__(self) -> None:
        self.specials: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def special(self, name: str) -> int:
        raise AssertionError(name)


def test_a_model_without_harmony_learns_text_and_no_conversations(
    tmp_path: Path,
) -> None:
    plain = write(tmp_path / "a.jsonl", [{"text": "ab"}])
    chats = write(tmp_path / "b.jsonl", [talk(1), talk(2)])
    train = read_corpus(plain, Letters(), CorpusSettings()).train

    assert train[0].ids.tolist() == [ord("a"), ord("b")]
    with pytest.raises(ExamplesError, match="no Harmony tokens") as caught:
        read_corpus(chats, Letters(), CorpusSettings())
    assert len(caught.value.mistakes) == 1


def test_a_corpus_without_anything_to_learn_is_refused(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = write(tmp_path / "a.jsonl", [talk(1)])
    with pytest.raises(ExamplesError, match="nothing to learn"):
        read_corpus(path, tokenizer, CorpusSettings(train_on=("calls",)))


def test_reading_does_not_keep_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a line of some words\n" * 150_000)  # 3 MB
    sources = Sources.of(path, portion=8192)
    tracemalloc.start()
    count = sum(1 for _ in sources.rows())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count > 380
    assert peak < 200_000


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"train_on": ()},
        {"train_on": ("x",)},
        {"length": 1},
        {"valid_share": 1},
    ):
        with pytest.raises(PromptError):
            CorpusSettings(**wrong)  # type: ignore[arg-type]


def test_progress_ends_with_all_bytes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "a.jsonl", [talk(n) for n in range(4)])
    seen: list[tuple[int, int]] = []
    read_corpus(
        path, tokenizer, CorpusSettings(), progress=lambda *done: seen.append(done)
    )

    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    assert seen == sorted(seen)
