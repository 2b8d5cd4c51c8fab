"""The legal headers of an assistant's turn, as an automaton over token ids.

    <|channel|>analysis<|message|>                       three channels
    <|channel|>commentary to=NAME[ json| <|constrain|>json]<|message|>
     to=NAME<|channel|>commentary[...]<|message|>        the recipient in the role part

Token ids in, states out. Between headers lies content: any text, or what a grammar
allows; of the control tokens only those that may end it. Knows nothing of sampling.

    automaton = build(tokenizer, Turn(calls=(Call("functions.f"),)))
    state = automaton.start                     # behind `<|start|>assistant`
    state = automaton.step(state, token)        # None: not legal here
    automaton.places[state]                     # what stands there

A name is spelled with the tokens its segment is rendered with, so a tool's name is a
path in a trie; only names on offer can be completed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, Protocol

from mlx_gptoss.harmony.messages import CHANNELS

START, END, MESSAGE, CHANNEL = "<|start|>", "<|end|>", "<|message|>", "<|channel|>"
CONSTRAIN, RETURN, CALL = "<|constrain|>", "<|return|>", "<|call|>"
ROLE = "assistant"
STOP, TOOL_CALLS = "stop", "tool_calls"  # how a turn may end
JSON_CONTENT_TYPES: tuple[tuple[str, ...], ...] = (
    (" json",),
    (" ", CONSTRAIN, "json"),
    (CONSTRAIN, "json"),
)
CODE_CONTENT_TYPES = ((" code",),)

StateKind = Literal["header", "text", "grammar", "done"]


class Vocabulary(Protocol):
    """What the automaton needs of a tokenizer."""

    def encode(self, text: str, /) -> list[int]: ...
    def special(self, name: str, /) -> int: ...


@dataclass(frozen=True)
class AllowedCall:
    """A recipient that may be called; `grammar` tells that its text is bound."""

    recipient: str
    channels: tuple[str, ...] = ("commentary",)
    content_types: tuple[tuple[str, ...], ...] = JSON_CONTENT_TYPES
    has_grammar: bool = True


@dataclass(frozen=True)
class AllowedTurn:
    """What a turn may consist of: messages on `channels`, and `calls`.

    With `parallel`, `<|end|>` behind a call leads to another call. With `forced`, one
    message is followed by a call and by nothing else. `bound_final` tells that a
    grammar binds the answer.
    """

    channels: tuple[str, ...] = CHANNELS
    calls: tuple[AllowedCall, ...] = ()
    parallel: bool = True
    forced: bool = False
    final_has_grammar: bool = False


@dataclass(frozen=True)
class State:
    """What stands at a state: a part of a header, content, or the end of the turn."""

    kind: StateKind
    channel: str = ""
    recipient: str | None = None
    finish_reason: str | None = None  # of `done`


@dataclass
class Automaton:
    """States by number: what each is, and where its named tokens lead.

    In content every text token that is not named leads back to the same state.
    `closings` give, for reasoning and preambles, the state that cuts them short.
    Behind `settled`, which stands for `<|end|>`, come only an answer or calls.
    """

    start: int = 0
    states: list[State] = field(default_factory=list)
    edges: list[dict[int, int]] = field(default_factory=list)
    cut_states: dict[int, int] = field(default_factory=dict)
    answer_state: int = 0

    def add_state(self, place: State) -> int:
        self.states.append(place)
        self.edges.append({})
        return len(self.states) - 1

    def step(self, state: int, token: int, *, text: bool) -> int | None:
        """The state behind `token`; `text` says that it is no control token."""
        if (target := self.edges[state].get(token)) is not None:
            return target
        free = self.states[state].kind in ("text", "grammar")
        return state if free and text else None


HEADER = State("header")


def build_automaton(vocabulary: Vocabulary, turn: AllowedTurn) -> Automaton:
    """Build the automaton of `turn`, which begins behind `<|start|>assistant`."""
    return _Builder(vocabulary, turn).build()


class _Builder:
    def __init__(self, vocabulary: Vocabulary, turn: AllowedTurn) -> None:
        self.vocabulary = vocabulary
        self.turn = turn
        self.out = Automaton()
        self.stopped = self._done(STOP)
        self.called = self._done(TOOL_CALLS)
        # Behind a call stand more calls, behind cut reasoning no more reasoning.
        self.more_calls = self.out.add_state(HEADER)
        self.settled = self.out.answer_state = self.out.add_state(HEADER)

    def build(self) -> Automaton:
        turn, out = self.turn, self.out
        out.start = self._phase(out.add_state(HEADER), turn.channels)
        if turn.parallel:
            self._phase(self.more_calls, ())
        final = tuple(channel for channel in turn.channels if channel == "final")
        self._phase(self.settled, final)
        self._add_closings()
        return out

    def _done(self, reason: str) -> int:
        return self.out.add_state(State("done", finish_reason=reason))

    def _phase(self, opening: int, channels: Sequence[str]) -> int:
        """Let headers follow `opening`, and again behind what they announce.

        Returns the state behind `<|start|>assistant`.
        """
        root = self.out.add_state(HEADER)
        role = self.vocabulary.encode(ROLE)
        self._insert(opening, [self._id(START), *role], root)
        self._headers(root, channels, behind=opening)
        return root

    def _headers(self, root: int, channels: Sequence[str], *, behind: int) -> None:
        """Add every header that may stand at `root`; `behind` follows `<|end|>`."""
        for channel in channels:
            content = self._message(channel, behind)
            self._spell(root, [CHANNEL, (channel,), MESSAGE], content)
        for call in self.turn.calls:
            for channel in call.channels:
                content = self._call(call, channel)
                for path in call_headers(call, channel):
                    self._spell(root, path, content)

    def _message(self, channel: str, behind: int) -> int:
        bound = channel == "final" and self.turn.final_has_grammar
        content = self.out.add_state(State("grammar" if bound else "text", channel))
        if channel == "final":
            ends = {RETURN: self.stopped, END: self.stopped}
        else:
            ends = {END: self.settled if self.turn.forced else behind}
        return self._ended(content, ends)

    def _call(self, call: AllowedCall, channel: str) -> int:
        kind = "grammar" if call.has_grammar else "text"
        content = self.out.add_state(State(kind, channel, call.recipient))
        more = self.more_calls if self.turn.parallel else self.called
        return self._ended(content, {CALL: self.called, END: more})

    def _ended(self, content: int, ends: dict[str, int]) -> int:
        for name, target in ends.items():
            self.out.edges[content][self._id(name)] = target
        return content

    def _add_closings(self) -> None:
        """Give reasoning and preambles a way to be cut short."""
        end_message = self._ended(self.out.add_state(HEADER), {END: self.settled})
        for state, place in enumerate(self.out.states):
            if place.recipient is None and place.channel in ("analysis", "commentary"):
                self.out.cut_states[state] = end_message

    def _spell(
        self, root: int, path: Iterable[str | tuple[str, ...]], target: int
    ) -> None:
        """Add a path of control tokens and texts, in every way it is rendered."""
        ways = [self._spellings(part) for part in path]
        for way in product(*ways):
            self._insert(root, [token for part in way for token in part], target)

    def _spellings(self, part: str | tuple[str, ...]) -> list[list[int]]:
        if isinstance(part, str):
            return [[self._id(part)]]
        whole = self.vocabulary.encode("".join(part))
        pieces = [token for piece in part for token in self.vocabulary.encode(piece)]
        return [whole] if whole == pieces else [whole, pieces]

    def _insert(self, root: int, tokens: Sequence[int], target: int) -> None:
        state = root
        for token in tokens[:-1]:
            edges = self.out.edges[state]
            if token not in edges:
                edges[token] = self.out.add_state(HEADER)
            state = edges[token]
        self.out.edges[state][tokens[-1]] = target

    def _id(self, name: str) -> int:
        return self.vocabulary.special(name)


def call_headers(call: AllowedCall, channel: str) -> list[list[str | tuple[str, ...]]]:
    """The headers that call `call` on `channel`, cut at control tokens."""
    to = f" to={call.recipient}"
    paths: list[list[str | tuple[str, ...]]] = []
    for kind in ((), *call.content_types):
        paths.append([*_segments([CHANNEL, channel, to, *kind]), MESSAGE])
        paths.append([*_segments([to, CHANNEL, channel, *kind]), MESSAGE])
    return paths


def _segments(parts: Sequence[str]) -> list[str | tuple[str, ...]]:
    """Join neighbouring texts: the vocabulary encodes them as one stretch."""
    out: list[str | tuple[str, ...]] = []
    for part in parts:
        last = out[-1] if out else None
        if part.startswith("<|"):
            out.append(part)
        elif isinstance(last, tuple):
            out[-1] = (*last, part)
        else:
            out.append((part,))
    return out
