"""Files masked by a small classifier that knows some words; and back."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss import Redactor
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import ConfigError, RedactionError
from mlx_gptoss.workloads.batch import Template
from mlx_gptoss.workloads.redact import Vault
from mlx_gptoss.workloads.redact.folders import list_work
from mlx_gptoss.workloads.redact.labeler import Labeler, pack, read_biases
from mlx_gptoss.workloads.redact.rows import mask_row
from mlx_gptoss.workloads.redact.work import redact_document, restore_document
from tests.support.privacy_filters import write_filter, write_word_filter

WORDS = {"Ada": "private_person", "Bo": "private_person", "Rome": "private_address"}


@pytest.fixture(scope="module")
def redactor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redactor]:
    folder = write_word_filter(tmp_path_factory.mktemp("words"), WORDS)
    with Redactor(folder) as made:
        yield made


def masked(text: str, kind: str, redactor: Redactor, vault: Vault | None = None) -> str:
    pieces: list[str] = []
    redact_document(text, kind, "x", redactor, vault, write=pieces.append)
    return "".join(pieces)


def restored(text: str, kind: str, vault: Vault) -> str:
    pieces: list[str] = []
    restore_document(text, kind, "x", vault, write=pieces.append)
    return "".join(pieces)


def test_a_text_is_masked_and_every_span_is_reported(redactor: Redactor) -> None:
    text = "é: Ada and Bo met Ada (ada@example.org) in Rome"
    found = redactor.redact(text)
    assert found.text == (
        "é: [PERSON_1] and [PERSON_2] met [PERSON_1] ([EMAIL_1]) in [ADDRESS_1]"
    )
    raw = text.encode()
    for fact in found.facts():
        inside = text[fact["start"] : fact["end"]]
        assert raw[fact["byte_start"] : fact["byte_end"]].decode() == inside
    assert [fact["found_by"] for fact in found.facts()] == [
        ["model"],
        ["model"],
        ["model"],
        ["email"],
        ["model"],
    ]
    assert all(0 < fact["confidence"] <= 1 for fact in found.facts())


def test_settings_of_one_loaded_model(redactor: Redactor) -> None:
    text = "Ada in Rome"
    assert redactor.with_settings(keep=["address"]).redact(text).text == (
        "[PERSON_1] in Rome"
    )
    sure = redactor.redact(text).spans[0].span.confidence
    less = redactor.with_settings(min_confidence=min(1.0, sure + 1e-4))
    assert less.redact(text).text.startswith("Ada")
    assert redactor.with_settings(favour="precision").redact(text).text
    with pytest.raises(ConfigError, match="nothing is labelled `color`"):
        redactor.with_settings(keep=["color"])
    assert redactor.redact(text).text == "[PERSON_1] in [ADDRESS_1]"  # still open


def test_of_json_the_values_are_masked(redactor: Redactor) -> None:
    text = (
        '{"Ada": 1,\t"who" : "Ada",  "at": ["Rome", "x\\u00e9", 4111111111111111],\n'
        ' "n": 12345678, "k": {"Bo": "Bo \\"q\\""}, "c": "4111111111111111"}\n'
    )
    assert masked(text, "json", redactor) == (
        '{"Ada": 1,\t"who" : "[PERSON_1]",  "at": ["[ADDRESS_1]", "x\\u00e9", '
        '"[ACCOUNT_NUMBER_1]"],\n "n": 12345678, "k": {"Bo": "[PERSON_2] \\"q\\""}, '
        '"c": "[ACCOUNT_NUMBER_1]"}\n'
    )


def test_lines_of_json_and_rows_of_tables(redactor: Redactor) -> None:
    lines = '{"a": "Ada"}\r\n\n{"a": "no"}\n["Bo"]'
    assert masked(lines, "jsonl", redactor) == (
        '{"a": "[PERSON_1]"}\r\n\n{"a": "no"}\n["[PERSON_2]"]'
    )
    table = 'name;note\r\n"Ada";"x"\r\nnobody;"a\n""b"""\r\nBo;in Rome'
    assert masked(table, "csv", redactor) == (
        'name;note\r\n[PERSON_1];x\r\nnobody;"a\n""b"""\r\n[PERSON_2];in [ADDRESS_1]'
    )


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [("json", '{"a": \n1', "`x` is no JSON in line 2"), ("jsonl", "1\n{\n", "line 2")],
)
def test_what_is_no_json_is_refused_with_its_line(
    kind: str, text: str, said: str, redactor: Redactor
) -> None:
    with pytest.raises(RedactionError, match=said):
        masked(text, kind, redactor)


PARTS = st.sampled_from(
    [
        "Ada",
        "Ada Bo",
        " Bo",
        " Rome",
        "[PERSON_1]",
        "[LITERAL_2]",
        "é",
        '"',
        "\n",
        ",",
        "a@b.org",
        " 4111111111111111 ",
        "x",
        "\\",
        "�",
    ]
)
SOME_TEXT = st.lists(PARTS, max_size=6).map("".join)
VALUES = st.recursive(
    SOME_TEXT | st.integers(-(10**16), 10**16) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(SOME_TEXT, inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=12, deadline=None)
@given(texts=st.lists(SOME_TEXT, min_size=1, max_size=3), value=VALUES)
def test_a_vault_brings_back_every_document(
    redactor: Redactor, texts: list[str], value: object
) -> None:
    vault = Vault()
    table = io.StringIO()
    csv.writer(table).writerows([["a", "b"], *([text, "Ada"] for text in texts)])
    documents = [("text", text) for text in texts]
    documents += [("json", json.dumps(value)), ("csv", table.getvalue())]
    hidden = [(kind, masked(text, kind, redactor, vault)) for kind, text in documents]
    for (kind, before), (_, after) in zip(documents, hidden, strict=True):
        back = restored(after, kind, vault)
        if kind == "text":
            assert back == before
            assert "a@b.org" not in after
        elif kind == "json":
            assert json.loads(back) == json.loads(before)
        else:
            rows = [list(csv.reader(io.StringIO(x, ""))) for x in (back, before)]
            assert rows[0] == rows[1]


def test_a_vault_is_private_and_goes_on(tmp_path: Path, redactor: Redactor) -> None:
    path = tmp_path / "kept.vault"
    with Vault.opened(path) as vault:
        one = masked("Ada and ADA wrote Bo", "text", redactor, vault)
        with pytest.raises(RedactionError, match="in use"), Vault.opened(path):
            pass
    assert path.stat().st_mode & 0o777 == 0o600
    with Vault.opened(path) as vault:
        two = masked("Bo met Ada: [PERSON_1]", "text", redactor, vault)
    assert two == "[PERSON_2] met [PERSON_1]: [LITERAL_1]"
    kept = Vault.read(path)
    assert kept.restore(one + two) == "Ada and ADA wrote BoBo met Ada: [PERSON_1]"
    assert kept.restore("[PERSON_9] said so") == "[PERSON_9] said so"
    for damage in ("{", "[]", '{"format": 9, "entries": []}', '{"format": 1}'):
        path.write_text(damage)
        with pytest.raises(RedactionError, match="no vault"):
            Vault.read(path)


def test_files_of_folders_keep_their_places(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    (inside / "deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.json", ".hidden", "c.png"):
        (inside / name).write_bytes(b"\0\xff" if name == "c.png" else b"x")
    found = list_work([inside], tmp_path / "out")
    assert [work.target for work in found.works] == [
        tmp_path / "out/in/a.txt",
        tmp_path / "out/in/deep/b.json",
    ]
    assert found.left_out == (inside / "c.png",)
    kept = list_work([inside], tmp_path / "out", inside / "a.txt")  # the vault
    assert [work.source.name for work in kept.works] == ["b.json"]
    with pytest.raises(RedactionError, match="--output"):
        list_work([inside], None)
    with pytest.raises(RedactionError, match="would replace"):
        list_work([inside / "a.txt"], inside / "a.txt")


@pytest.fixture(scope="module")
def labeler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labeler]:
    folder = write_filter(tmp_path_factory.mktemp("filter"), seed=5, tokenizer=True)
    made = Labeler.open(folder)
    yield made
    made.close()


@settings(max_examples=6, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 130), min_size=1, max_size=4),
    chunk=st.integers(1, 90),
    seed=st.integers(0, 99),
)
def test_chunks_are_one_pass(
    labeler: Labeler, lengths: list[int], chunk: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    texts = [draw.integers(0, 300, length).tolist() for length in lengths]
    cut = Labeler(
        labeler._model, labeler._tokenizer, thread=labeler._thread, chunk=chunk
    )
    for once, parts in zip(labeler.logits(texts), cut.logits(texts), strict=True):
        np.testing.assert_allclose(parts, once, atol=5e-5)


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(0, 300), max_size=8),
    chunk=st.integers(1, 100),
    reach=st.integers(0, 40),
)
def test_every_token_is_labelled_once_in_bounded_passes(
    lengths: list[int], chunk: int, reach: int
) -> None:
    texts = [range(length) for length in lengths]
    seen: list[tuple[int, int]] = []
    for pieces in pack(texts, chunk, reach):
        assert sum(one.last - one.first for one in pieces) <= chunk + 2 * reach
        for one in pieces:
            length = lengths[one.text]
            assert one.first == max(0, one.start - reach)
            assert one.last == min(length, one.end + reach)
            seen += [(one.text, token) for token in range(one.start, one.end)]
    assert seen == [(n, token) for n, ids in enumerate(texts) for token in ids]


def test_a_long_text_is_the_same_in_chunks(labeler: Labeler) -> None:
    text = "".join(f"Ada met Bo at {n}, é😀, and left. " for n in range(15))
    cut = Labeler(labeler._model, labeler._tokenizer, thread=labeler._thread, chunk=64)
    found = [
        [(one.start, one.end, one.category) for one in each.find([text])[0]]
        for each in (labeler, cut)
    ]
    assert found[0] == found[1] and len(found[0]) > 5


def test_biases_beside_the_model_are_read(tmp_path: Path) -> None:
    assert read_biases(tmp_path).end_to_start == 0
    path = tmp_path / "viterbi_calibration.json"
    biases = {"transition_bias_end_to_start": -0.5}
    path.write_text(json.dumps({"operating_points": {"default": {"biases": biases}}}))
    assert read_biases(tmp_path).end_to_start == -0.5
    path.write_text('{"operating_points": {}}')
    with pytest.raises(ConfigError, match="viterbi_calibration"):
        read_biases(tmp_path)


def test_a_vocabulary_gives_the_places_of_all_characters(labeler: Labeler) -> None:
    text = "Ä👩‍👩‍👧 naïve 漢字\u200d.\ud800!"
    ids, characters = labeler._tokens(text)
    assert characters[0, 0] == 0 and characters[-1, 1] == len(text)
    assert (characters[1:, 0] <= characters[:-1, 1]).all()
    assert ids == Tokenizer.encode(labeler._tokenizer, text.replace("\ud800", "\ufffd"))


def test_rows_of_a_batch_are_masked_before_they_are_asked_about(
    redactor: Redactor,
) -> None:
    plain = Template("Who wrote {text}?")
    hidden = replace(plain, mask=partial(mask_row, redactor), masked_by="words")
    row = {"text": "Ada to Bo", "n": 4111111111111111, "deep": {"who": ["Ada"]}}
    (message,) = hidden.body(row)["messages"]
    assert message["content"] == "Who wrote [PERSON_1] to [PERSON_2]?"
    assert mask_row(redactor, row)["deep"] == {"who": ["[PERSON_1]"]}
    assert mask_row(redactor, row)["n"] == "[ACCOUNT_NUMBER_1]"
    assert hidden.digest() != plain.digest()  # another batch is no continuation
