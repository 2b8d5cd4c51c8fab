"""PDFs that clients send become text, or a reason why not. All files are harmless."""

import base64
import io
from dataclasses import replace
from typing import Any

import pypdf
import pytest

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import pdf
from mlx_gptoss.harmony.content_parts import read_part
from mlx_gptoss.harmony.pdf import PdfError, PdfLimits, child, reader
from tests.support import pdf_files

LETTER = pdf_files.pdf("Dear (Sir),", "Yours, Ada")
TEXT = "[page 1 of 2]\nDear (Sir),\n\n[page 2 of 2]\nYours, Ada"
BASE64 = base64.b64encode(LETTER).decode()
URL = f"data:application/pdf;base64,{BASE64}"
LIMITS = PdfLimits()


def locked(password: str) -> bytes:
    writer = pypdf.PdfWriter(io.BytesIO(LETTER))
    writer.encrypt(password, owner_password="x", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"type": "input_file", "filename": "a.pdf", "file_data": URL}, "a.pdf\n\n"),
        ({"type": "input_file", "file_data": BASE64}, ""),
        (
            {"type": "file", "file": {"filename": "a.pdf", "file_data": URL}},
            "a.pdf\n\n",
        ),
        (
            {
                "type": "document",
                "title": "A letter",
                "source": {
                    "type": "base64",
                    "media_type": "application/pdf",
                    "data": BASE64,
                },
            },
            "A letter\n\n",
        ),
    ],
    ids=["responses", "base64 alone", "chat", "messages"],
)
def test_every_api_reads_a_pdf(given: dict[str, Any], title: str) -> None:
    found = read_part(given, "it", must_be_text=True)

    assert (found.text, found.hidden) == (title + TEXT, "")


def test_a_pdf_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pdf.read_pdf(LETTER)
    monkeypatch.setattr(reader, "START", "raise SystemExit")

    assert pdf.read_pdf(LETTER) == TEXT
    with pytest.raises(PdfError, match="is damaged"):
        pdf.read_pdf(LETTER, LIMITS)  # other limits may give another answer


def test_texts_are_forgotten_when_there_are_too_many() -> None:
    texts = reader.Texts(most_characters=10)
    for name in (b"a", b"b", b"a", b"c"):
        if texts.get(name) is None:
            texts.put(name, "12345")

    assert [texts.get(name) for name in (b"a", b"b", b"c")] == ["12345", None, "12345"]


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (replace(LIMITS, memory=1), "takes more than 0 MiB"),
        (replace(LIMITS, cpu_seconds=0.0), "takes longer than 0 s"),
        (replace(LIMITS, seconds=-1.0), "takes longer than -1 s"),
    ],
    ids=["memory", "computing", "waiting"],
)
def test_a_process_that_takes_too_much_is_ended(limits: PdfLimits, why: str) -> None:
    with pytest.raises(PdfError, match=why):
        pdf.read_pdf(LETTER, limits)


@pytest.mark.parametrize(
    ("data", "pages", "characters", "why"),
    [
        (pdf_files.pdf("", ""), 9, 99, "has no text: its pages are pictures"),
        (LETTER, 1, 99, "has 2 pages: at most 1 are read"),
        (LETTER, 9, 5, "has more than 5 characters"),
        (locked("secret"), 9, 99, "is encrypted: remove its password"),
    ],
    ids=["pictures", "pages", "characters", "password"],
)
def test_what_cannot_be_read_says_why(
    data: bytes, pages: int, characters: int, why: str
) -> None:
    with pytest.raises(child.UnreadablePdf, match=f"^{why}$"):
        child.read(data, pages, characters)


def test_a_pdf_that_anybody_may_open_is_read() -> None:
    assert child.read(locked(""), 9, 99) == TEXT


def test_a_damaged_pdf_is_named_where_it_stands() -> None:
    damaged = base64.b64encode(LETTER[:60]).decode()
    given = {"type": "input_file", "file_data": damaged}

    assert read_part(given, "it").text == "[PDF, not shown: it is damaged]"
    assert read_part(given, "it").hidden == "input_file"
    with pytest.raises(PromptError, match=r"^it has a PDF that is damaged$"):
        read_part(given, "it", must_be_text=True)
