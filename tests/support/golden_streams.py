"""Read and write the recorded streams of `tests/golden/malformed/`.

A file is text for a person: what happened, the stream with its special tokens by
name, its ids, and the expected output of the parser, one line per result.
"""

from dataclasses import dataclass
from pathlib import Path

from mlx_gptoss.harmony import events as e
from mlx_gptoss.harmony.parse import Parser, TokenSource
from tests.support.vocabulary import O200k

FOLDER = Path(__file__).parents[1] / "golden" / "malformed"
OFFERED = ["get_weather", "manage_cart", "Web Search", "write_file"]
BUILT_IN = ["python", "browser.search"]
TEXTS = {
    e.Reasoning: "reasoning",
    e.Preamble: "preamble",
    e.Answer: "answer",
    e.OtherText: "made-up",
}


@dataclass(frozen=True)
class Recorded:
    """A recorded stream; `ending` says whether it was cut off."""

    title: str
    stream: str
    ids: list[int]
    expected: list[str]


def read(path: Path) -> Recorded:
    title, stream, ids, expected = path.read_text().split("\n---\n")
    return Recorded(
        title.strip(), stream, [int(one) for one in ids.split()], expected.splitlines()
    )


def write(name: str, title: str, stream: str, ids: list[int]) -> None:
    """Record a stream with the parser's current output, for review."""
    parts = [title, stream, " ".join(map(str, ids)), "\n".join(outcome(ids)) + "\n"]
    (FOLDER / f"{name}.txt").write_text("\n---\n".join(parts))


def outcome(ids: list[int], tokenizer: TokenSource | None = None) -> list[str]:
    """Return the parser's output for `ids`, one line per result."""
    parser = Parser(tokenizer or O200k(), tools=OFFERED, built_in=BUILT_IN)
    events = [event for token in ids for event in parser.feed(token)]
    events += parser.finish()
    lines: list[str] = []
    open_text = ""
    for event in events:
        if (kind := TEXTS.get(type(event))) is not None:
            text = event.text  # type: ignore[union-attr]
            if open_text == kind:
                lines[-1] += escaped(text)
            else:
                lines.append(f"{kind}: {escaped(text)}")
            open_text = kind
            continue
        if isinstance(event, e.ToolCallStarted | e.ToolCallDelta):
            continue
        if isinstance(event, e.MessageEnded):
            open_text = ""
            if not event.complete:
                lines.append("(cut off)")
            continue
        lines.append(line(event))
        open_text = ""
    return lines


def line(event: e.ParserEvent) -> str:
    if isinstance(event, e.ToolCall):
        return f"call: {event.name} {escaped(event.arguments)}"
    if isinstance(event, e.ToolCallFailed):
        return f"failed call: {event.name}: {event.problem}"
    assert isinstance(event, e.Repaired)
    return f"repair: {event.repair.kind}: {escaped(event.repair.detail)}"


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
