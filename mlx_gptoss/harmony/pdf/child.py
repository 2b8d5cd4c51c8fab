"""The process that reads one PDF: its bytes on stdin, JSON with its text on stdout.

Knows pypdf, and nothing of who asks. The answer is `{"text": …}`, or `{"error": …}`
with a reason that continues `it ...`.
"""

import io
import json
import sys
from collections.abc import Iterator

from pypdf import PageObject, PasswordType, PdfReader
from pypdf.errors import DependencyError

PAGE = "[page {} of {}]"
PAGE_BREAK = "\n\n"


class UnreadablePdf(Exception):
    """The reason why a PDF is not read."""


def main(most_pages: int, most_characters: int) -> None:
    """Answer for the PDF on stdin."""
    try:
        data = sys.stdin.buffer.read()
        answer = {"text": read(data, most_pages, most_characters)}
    except UnreadablePdf as reason:
        answer = {"error": str(reason)}
    except Exception:  # the library raises many, whatever is wrong with a file
        answer = {"error": "is damaged"}
    json.dump(answer, sys.stdout)


def read(data: bytes, most_pages: int, most_characters: int) -> str:
    """Return the text of a PDF, page by page. Raises UnreadablePdf."""
    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted:
        decrypt(reader)
    count = len(reader.pages)
    if count > most_pages:
        raise UnreadablePdf(f"has {count} pages: at most {most_pages} are read")
    texts: list[str] = []
    for text in page_texts(reader):
        texts.append(text)
        if sum(map(len, texts)) > most_characters:
            raise UnreadablePdf(f"has more than {most_characters} characters")
    if not any(texts):
        raise UnreadablePdf("has no text: its pages are pictures")
    titled = (f"{PAGE.format(n, count)}\n{text}" for n, text in enumerate(texts, 1))
    return PAGE_BREAK.join(titled)


def decrypt(reader: PdfReader) -> None:
    """Open a PDF that anybody may read. Raises UnreadablePdf for others."""
    try:
        opened = reader.decrypt("") is not PasswordType.NOT_DECRYPTED
    except DependencyError:  # encrypted with AES, for which pypdf needs another library
        opened = False
    if not opened:
        raise UnreadablePdf("is encrypted: remove its password")


def page_texts(reader: PdfReader) -> Iterator[str]:
    for page in reader.pages:
        yield page_text(page)


def page_text(page: PageObject) -> str:
    """Return the text of a page, which UTF-8 can encode."""
    text = page.extract_text().strip()
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
