"""The legal headers of an assistant's turn, as a state machine over token ids.

    <|channel|>analysis<|message|>                       three channels
    <|channel|>commentary to=NAME[ json| <|constrain|>json]<|message|>
     to=NAME<|channel|>commentary[...]<|message|>        the recipient in the role part

Token ids in, states out. Between headers is content: any text, or what a grammar
allows, and of the control tokens only those that may end it. Knows nothing of sampling.

    turn = AllowedTurn(calls=(AllowedCall("functions.f"),))
    automaton = build_automaton(tokenizer, turn)
    state = automaton.start                            # behind `<|start|>assistant`
    state = automaton.step(state, token, text=True)    # None: not legal here
    automaton.states[state]                            # header, text, grammar or done

A name is spelled with the tokens that rendering gives its segment, so tool names form a
trie; only names on offer can be completed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

from mlx_gptoss.harmony.messages import CHANNELS
from mlx_gptoss.harmony.render.encode import Vocabulary
from mlx_gptoss.harmony.special_tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    MESSAGE,
    RETURN,
    START,
)

ROLE = "assistant"
STOP, TOOL_CALLS = "stop", "tool_calls"  # finish reasons
JSON_CONTENT_TYPES: tuple[tuple[str, ...], ...] = (
    (" json",),
    (" ", CONSTRAIN, "json"),
    (CONSTRAIN, "json"),
)
CODE_CONTENT_TYPES = ((" code",),)

StateKind = Literal["header", "text", "grammar", "done"]


@dataclass(frozen=True)
class AllowedCall:
    """A recipient that may be called; with `has_grammar` its text is constrained."""

    recipient: str
    channels: tuple[str, ...] = ("commentary",)
    content_types: tuple[tuple[str, ...], ...] = JSON_CONTENT_TYPES
    has_grammar: bool = True


@dataclass(frozen=True)
class AllowedTurn:
    """What a turn may contain: messages on `channels`, and `calls`.

    With `parallel`, `<|end|>` behind a call leads to another call. With `forced`, one
    message is followed by a call and nothing else. `final_has_grammar` if a grammar
    constrains the answer.
    """

    channels: tuple[str, ...] = CHANNELS
    calls: tuple[AllowedCall, ...] = ()
    parallel: bool = True
    forced: bool = False
    final_has_grammar: bool = False


@dataclass(frozen=True)
class State:
    """A state: within a header, within content, or at the end of the turn."""

    kind: StateKind
    channel: str = ""
    recipient: str | None = None
    finish_reason: str | None = None  # if the turn is done


@dataclass(eq=False)
class Automaton:
    """States by number, and the transitions of each by token.

    In content every text token without a transition leads back to the same state.
    `cut_states` maps states of reasoning and preambles to the one that cuts them short.
    `answer_state` is behind an `<|end|>` after which only an answer or calls follow.
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
        """Return the state behind `token`; `text` if it is not a control token."""
        if (target := self.edges[state].get(token)) is not None:
            return target
        free = self.states[state].kind in ("text", "grammar")
        return state if free and text else None


HEADER = State("header")


def build_automaton(vocabulary: Vocabulary, turn: AllowedTurn) -> Automaton:
    """Build the automaton of `turn`, which starts behind `<|start|>assistant`."""
    return _Builder(vocabulary, turn).build()


class _Builder:
    def __init__(self, vocabulary: Vocabulary, turn: AllowedTurn) -> None:
        self.vocabulary = vocabulary
        self.turn = turn
        self.out = Automaton()
        self.stopped = self._done(STOP)
        self.waiting = self._done(TOOL_CALLS)
        # A call may be followed by calls; cut reasoning by no more reasoning.
        self.more_calls = self.out.add_state(HEADER)
        self.after_cut = self.out.answer_state = self.out.add_state(HEADER)

    def build(self) -> Automaton:
        turn, out = self.turn, self.out
        out.start = self._phase(out.add_state(HEADER), turn.channels)
        if turn.parallel:
            self._phase(self.more_calls, ())
        final = tuple(channel for channel in turn.channels if channel == "final")
        self._phase(self.after_cut, final)
        self._add_cut_states()
        return out

    def _done(self, reason: str) -> int:
        return self.out.add_state(State("done", finish_reason=reason))

    def _phase(self, before: int, channels: Sequence[str]) -> int:
        """Let messages on `channels` and calls follow `before`, repeatedly.

        Returns the state behind `<|start|>assistant`.
        """
        root = self.out.add_state(HEADER)
        role = self.vocabulary.encode(ROLE)
        self._insert(before, [self._id(START), *role], root)
        self._headers(root, channels, behind=before)
        return root

    def _headers(self, root: int, channels: Sequence[str], *, behind: int) -> None:
        """Add every legal header from `root` on; `<|end|>` leads to `behind`."""
        for channel in channels:
            content = self._message(channel, behind)
            self._spell(root, [CHANNEL, (channel,), MESSAGE], content)
        for call in self.turn.calls:
            for channel in call.channels:
                content = self._call(call, channel)
                for path in call_headers(call, channel):
                    self._spell(root, path, content)

    def _message(self, channel: str, behind: int) -> int:
        has_grammar = channel == "final" and self.turn.final_has_grammar
        kind = "grammar" if has_grammar else "text"
        content = self.out.add_state(State(kind, channel))
        if channel == "final":
            ends = {RETURN: self.stopped, END: self.stopped}
        else:
            ends = {END: self.after_cut if self.turn.forced else behind}
        return self._ended(content, ends)

    def _call(self, call: AllowedCall, channel: str) -> int:
        kind = "grammar" if call.has_grammar else "text"
        content = self.out.add_state(State(kind, channel, call.recipient))
        more = self.more_calls if self.turn.parallel else self.waiting
        return self._ended(content, {CALL: self.waiting, END: more})

    def _ended(self, content: int, ends: dict[str, int]) -> int:
        for name, target in ends.items():
            self.out.edges[content][self._id(name)] = target
        return content

    def _add_cut_states(self) -> None:
        """Add the state that cuts reasoning and preambles short."""
        end_message = self._ended(self.out.add_state(HEADER), {END: self.after_cut})
        for state, place in enumerate(self.out.states):
            if place.recipient is None and place.channel in ("analysis", "commentary"):
                self.out.cut_states[state] = end_message

    def _spell(
        self, root: int, path: Iterable[str | tuple[str, ...]], target: int
    ) -> None:
        """Add a path of control tokens and texts, in each tokenization of rendering."""
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
    """Return the headers that make `call` on `channel`, cut at control tokens."""
    to = f" to={call.recipient}"
    paths: list[list[str | tuple[str, ...]]] = []
    for kind in ((), *call.content_types):
        paths.append([*_segments([CHANNEL, channel, to, *kind]), MESSAGE])
        paths.append([*_segments([to, CHANNEL, channel, *kind]), MESSAGE])
    return paths


def _segments(parts: Sequence[str]) -> list[str | tuple[str, ...]]:
    """Join adjacent texts: the vocabulary encodes them as one string."""
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
