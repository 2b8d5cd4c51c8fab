"""The inputs of a batch: requests, lines of JSON, tables, lines of text, folders."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.errors import BatchError
from mlx_gptoss.workloads.batch.inputs import LONGEST_ROW, open_input
from mlx_gptoss.workloads.batch.requests import read_items, require_form
from mlx_gptoss.workloads.batch.template import MissingFieldError, Template

URLS = ("/v1/chat/completions",)
CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


def request(custom_id: Any = "a", **changed: Any) -> dict[str, Any]:
    fields = {"custom_id": custom_id, "method": "POST", "url": URLS[0], "body": CHAT}
    return fields | changed


def jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lines_of_json_with_a_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "\xc3\xa9"}\n\n  \n{"text": 2}')
    rows = list(open_input(path).rows())
    assert [(row.index, row.where, dict(row.fields)) for row in rows] == [
        (0, "line 1", {"text": "é"}),
        (1, "line 4", {"text": 2}),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "is not JSON"),
        (b"[1]", "is not a JSON object but list"),
        (b'{"a": "\xff"}', "is not UTF-8 (byte 7)"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'"' + b"x" * (LONGEST_ROW + 1) + b'"', "is longer than 33,554,432 bytes"),
    ],
    ids=["torn", "list", "latin", "deep", "digits", "long"],
)
def test_a_bad_line_is_a_problem_of_its_own(
    tmp_path: Path, line: bytes, problem: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": 1}\n' + line + b'\n{"text": 2}\n')
    first, bad, last = open_input(path).rows()
    assert bad.where == "line 2" and (bad.problem or "").startswith(problem)
    assert (first.fields, last.fields, last.index) == ({"text": 1}, {"text": 2}, 2)


def test_a_table_has_quoted_cells_with_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\r\n1,"a\r\n""b"""\r\n\r\n2\r\n3,c\r\n')
    source = open_input(path)
    first, short, last = source.rows()
    assert source.columns == ["id", "text"]
    assert first.fields == {"id": "1", "text": 'a\r\n"b"'}
    assert (short.where, short.problem) == (
        "line 5",
        "has 1 cells, and the table 2 columns",
    )
    assert (last.where, last.fields) == ("line 6", {"id": "3", "text": "c"})


@pytest.mark.parametrize("heading", ["", "a,a", "a,,b"])
def test_a_table_must_name_its_columns(tmp_path: Path, heading: str) -> None:
    (tmp_path / "in.csv").write_text(f"{heading}\n1,2\n")
    with pytest.raises(BatchError, match="first row must name the columns"):
        open_input(tmp_path / "in.csv")


def test_a_folder_has_its_files_in_order_without_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.md").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe")
    first, second, third = open_input(tmp_path).rows()
    assert first.fields == {"file": "a.txt", "text": "one"}
    assert second.fields == {"file": "b/2.md", "text": "two"}
    assert third.where == "`c.bin`" and "not UTF-8" in (third.problem or "")


def test_lines_of_text(tmp_path: Path) -> None:
    (tmp_path / "in.log").write_bytes(b"one \r\n\r\ntwo")
    rows = list(open_input(tmp_path / "in.log").rows())
    assert [row.fields["text"] for row in rows] == ["one ", "two"]


def test_what_is_no_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.pdf").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, why in (
        ("in.pdf", "is of an unknown kind"),
        ("missing.csv", "No such file"),
        ("missing.jsonl", "No such file"),
        ("empty", "has no files"),
    ):
        with pytest.raises(BatchError, match=why):
            open_input(tmp_path / name)


def test_the_digest_covers_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    first = open_input(tmp_path).digest()
    assert open_input(tmp_path).digest() == first
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert open_input(tmp_path).digest() != first


def test_requests_are_checked_line_by_line(tmp_path: Path) -> None:
    rows = [
        request("a"),
        request("b", method="GET"),
        request("c", url="/v1/embeddings"),
        request("d", body="text"),
        request(None),
        request("a"),
        request("a"),
    ]
    source = open_input(jsonl(tmp_path / "in.jsonl", rows))
    require_form(source, None)
    items = list(read_items(source, None, urls=URLS))
    assert items[0].problem is None and items[0].body == CHAT
    assert [(item.problem or "")[:24] for item in items[1:]] == [
        "has the `method` 'GET': ",
        "has the `url` '/v1/embed",
        "has no `body`, an object",
        "has no `custom_id`, a te",
        "has the `custom_id` `a` ",
        "has the `custom_id` `a` ",
    ]


def test_a_prompt_and_the_input_must_fit(tmp_path: Path) -> None:
    requests = open_input(jsonl(tmp_path / "requests.jsonl", [request()]))
    rows = open_input(jsonl(tmp_path / "rows.jsonl", [{"text": "x"}]))
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BatchError, match="a prompt would do nothing"):
        require_form(requests, Template("{text}"))
    with pytest.raises(BatchError, match="give --prompt"):
        require_form(rows, None)
    with pytest.raises(BatchError, match=r"names `\{c\}`, and the table has `a`, `b`"):
        require_form(open_input(tmp_path / "t.csv"), Template("{a} {c}"))


def test_a_template_fills_fields_and_keeps_braces() -> None:
    template = Template("{{x}} {a}: {b}", system="Be brief.", fields={"seed": 1})
    body = template.body({"a": "{b}", "b": [1, "é"]})
    assert body == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": '{x} {b}: [1, "é"]'},
        ],
        "seed": 1,
    }
    with pytest.raises(MissingFieldError, match="has no field `b` "):
        template.body({"a": ""})


@pytest.mark.parametrize("prompt", ["{", "}", "{}", "{a!r}", "{a:>3}", "{a"])
def test_what_is_no_template_is_refused(prompt: str) -> None:
    with pytest.raises(BatchError, match="brace"):
        Template(prompt)


def test_a_schema_names_the_columns() -> None:
    schema = {"type": "object", "properties": {"name": {}, "sum": {}}}
    assert Template("", schema=schema).columns == ["name", "sum"]
    assert Template("", schema={"type": "array"}).columns == ["answer"]
    assert Template("").columns == ["answer"]
