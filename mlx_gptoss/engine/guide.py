"""Keeps one answer to its constraints while it is sampled.

    guides = Guides(tokenizer)
    guide = guides.guide(Constraints(max_reasoning_tokens=500), targets)
    generate(model, ids, guide=guide)          # ids end with `<|start|>assistant`

Decoding stays a step ahead: a token is drawn before the one behind it has been read.
In free text it is drawn as if the text went on, under one mask that stays the same; in
a header the automaton of legal headers follows, as a table on the device. What only
the reader can know (that a message has ended, where the arguments of a call go on,
that the reasoning has used up its budget) makes it draw the next token again: `read`
says so. Knows token ids; one Guide serves one generation.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import CALL_LOOP, FINAL_LOOP, LENGTH, UNENFORCED
from mlx_gptoss.errors import PromptError, SchemaError
from mlx_gptoss.harmony.constrain.automaton import (
    AllowedTurn,
    Automaton,
    State,
    build_automaton,
)
from mlx_gptoss.harmony.constrain.constraints import (
    Constraints,
    ToolConstraint,
    allowed_turn,
)
from mlx_gptoss.harmony.constrain.loops import (
    EXACTLY,
    NEARLY,
    CycleDetector,
    Detector,
    LoopDetector,
)
from mlx_gptoss.harmony.constrain.schema.compile import (
    WHOLE_SCHEMA,
    CompiledGrammar,
    Unenforced,
)
from mlx_gptoss.harmony.constrain.worker import (
    GrammarLostError,
    WorkerGrammars,
    WorkerMatcher,
)

log = logging.getLogger(__name__)

CALL = "call"  # what the loop guard calls the text of calls, on whatever channel
ILLEGAL, UNNAMED, TEXT = -1, 0, 1  # a target; classes of tokens without own edges
LEGAL_FLOOR = -1e30  # a legal token is drawn before any other, however unlikely it is
MAX_AUTOMATA = 16  # automata: a conversation needs two or three

# Text before calls, in one turn: a sentence or two, unless the model finds no end.
MAX_PREAMBLES = 4
MAX_PREAMBLE_TOKENS = 4096

# What a guide may report in `details`.
REASONING_BUDGET, PREAMBLE_BUDGET = "reasoning_budget", "preamble_budget"


@dataclass(frozen=True)
class AutomatonTable:
    """An automaton as arrays: `targets` (S, C) and `classes` (V,) of the tokens."""

    targets: np.ndarray
    classes: np.ndarray


class GuideFactory:
    """Makes guides for one tokenizer, and keeps what they share. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.grammars = WorkerGrammars(tokenizer)
        self._tokenizer = tokenizer
        self._automata: dict[AllowedTurn, Automaton] = {}
        self._lock = threading.Lock()

    def create(
        self, constraints: Constraints, targets: Sequence[ToolConstraint] = ()
    ) -> "Guide | None":
        """Start a guide, or None where nothing is to be enforced.

        Raises SchemaError for a schema that cannot be kept, and PromptError for a
        tool choice without such a tool.
        """
        if constraints.enforce == "off":
            return None
        turn = allowed_turn(constraints, targets)
        compiled = self._compiled(constraints, turn, targets)
        with self._lock:
            automaton = self._automaton(turn)
        if compiled:
            self.grammars.prepare()
        return Guide(automaton, self._tokenizer, self.grammars, compiled, constraints)

    def close(self) -> None:
        """Let go of the process that compiles grammars, if no one else needs it."""
        self.grammars.close()

    def _compiled(
        self,
        constraints: Constraints,
        turn: AllowedTurn,
        targets: Sequence[ToolConstraint],
    ) -> dict[str | None, CompiledGrammar]:
        """The grammar of each recipient; of the answer under None."""
        bound = {call.recipient for call in turn.calls if call.has_grammar}
        begun: dict[str | None, Callable[[], CompiledGrammar]] = {
            target.call.recipient: self.grammars.start_compile(
                target.kind,
                target.source,
                what=f"the schema of `{target.call.recipient}`",
                strict=target.strict,
            )
            for target in targets
            if target.call.recipient in bound
        }
        answer = constraints.response_format
        if answer is not None:
            begun[None] = self.grammars.start_compile(
                answer.kind,
                answer.source,
                what="the response format",
                strict=answer.strict,
            )
        return {where: finish() for where, finish in begun.items()}

    def _automaton(self, turn: AllowedTurn) -> Automaton:
        found = self._automata.pop(turn, None) or build_automaton(self._tokenizer, turn)
        self._automata[turn] = found
        while len(self._automata) > MAX_AUTOMATA:
            del self._automata[next(iter(self._automata))]
        return found


class Guide:
    """Follows one answer; see the module. Use it in the thread that runs the model."""

    def __init__(
        self,
        automaton: Automaton,
        tokenizer: Tokenizer,
        grammars: WorkerGrammars,
        compiled: dict[str | None, CompiledGrammar],
        constraints: Constraints,
    ) -> None:
        self._automaton = automaton
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._compiled = compiled
        self._budget = constraints.max_reasoning_tokens
        bound = constraints.response_format is not None
        self._loop_detectors = (
            loop_detectors(bound_final=bound) if constraints.loop_guard else {}
        )
        self._cut_finish_reason: str | None = (
            None  # why the answer ends here, if it must
        )
        self._state = automaton.start  # behind the tokens that were read
        self._lookahead_row: mx.array | None = (
            None  # the row behind the tokens that were drawn
        )
        self._next_rows: mx.array | None = (
            None  # (V,) the row behind each token drawn next
        )
        self._matcher: WorkerMatcher | None = None
        self._unenforced: set[str | None] = (
            set()
        )  # whose grammars turned out too costly
        self._table: DeviceTable | None = None
        self._text = np.zeros(0, bool)
        self.reasoning_tokens = 0
        self._preamble_count = self._preamble_tokens = 0
        self.call_count = 0  # that were begun
        self.finish_details: tuple[str, ...] = ()

    @property
    def freed(self) -> Unenforced:
        """What is left free of schemas, by recipient; of the answer's under None."""
        found = {
            where: (WHOLE_SCHEMA,) if where in self._unenforced else one.unenforced
            for where, one in self._compiled.items()
        }
        return {where: freed for where, freed in found.items() if freed}

    @property
    def place(self) -> State:
        """Where the tokens that were read end."""
        return self._automaton.states[self._state]

    @property
    def needs_last_token(self) -> bool:
        """Whether the next token can be drawn only when this one has been read."""
        return self._matcher is not None

    @property
    def pending_mask(self) -> "Future[object] | None":
        """What is awaited of another process before `masked` can answer at once."""
        if self._matcher is None or self.place.recipient in self._unenforced:
            return None
        return self._matcher.start_mask()

    @property
    def finish_reason(self) -> str | None:
        """Why the answer is over, once it is."""
        return self._cut_finish_reason or self.place.finish_reason

    def resume_turn(self, ids: Sequence[int]) -> None:
        """Start behind `ids` of the turn, which the prompt holds already.

        The arguments of a call begin with their first token. Raises PromptError if the
        turn cannot begin so.
        """
        marks = set(self._tokenizer.specials.values())
        for token in ids:
            before = self._state
            state = self._automaton.step(before, token, text=token not in marks)
            place = None if state is None else self._automaton.states[state]
            in_call = place and place.kind == "grammar" and place.recipient is not None
            if state is None or in_call:
                said = self._tokenizer.decode(ids)
                raise PromptError(f"a turn cannot go on behind `{said}`")
            self._state = state
            self._update_matcher(before, token)
        if self._matcher is None:
            return
        try:
            _ = self._matcher.is_accepting
        except GrammarLostError:
            return  # the first token is drawn without it, or not at all
        except SchemaError as error:
            raise PromptError(
                "the answer that was begun does not fit the response format: leave "
                "out one of them"
            ) from error

    # On the device

    def mask_logits(self, logits: mx.array) -> mx.array:
        """Return the logits (V,) of the next token, -inf where it is not legal."""
        table = self._table or self._upload(logits.shape[-1])
        self._next_rows = None
        if self._matcher is not None:
            legal = mx.array(self._grammar_mask(self._matcher))
        elif self.place.kind == "text":
            legal = table.text_mask(self._state)
        else:
            assert self._lookahead_row is not None
            self._next_rows = mx.take(table.rows, self._lookahead_row + table.classes)
            legal = self._next_rows >= table.first
        return mx.where(legal, mx.maximum(logits, table.least), table.never)

    def advance(self, token: mx.array) -> None:
        """Go on behind a token (), which nobody needs to have read."""
        if self._next_rows is not None:
            self._lookahead_row = mx.take(self._next_rows, token)

    def _upload(self, size: int) -> "DeviceTable":
        text = np.array(self._tokenizer.text_ids)
        self._text = np.zeros(size, bool)
        self._text[text[text < size]] = True
        self._table = DeviceTable(build_table(self._automaton, self._text))
        self._lookahead_row = self._table.row(self._state)
        return self._table

    # Where tokens are read

    def accept_token(self, token: int) -> bool:
        """Take the next token that was drawn; True if the one after it was not rightly.

        Then what was drawn behind `token` is to be drawn again.
        """
        before = self._state
        is_text = bool(self._text[token])
        state = self._automaton.step(before, token, text=is_text)
        assert state is not None, f"{token=} is not legal in {self.place}"
        self._state = state
        place = self.place
        self._update_matcher(before, token)
        if self._matcher is not None:
            self._matcher.start_mask()  # while the model computes
        why = self._cut_reason(token) if before == state and is_text else None
        if why is not None:
            self._cut_short(why)
        self.call_count += place.recipient is not None and before != state
        left = self._automaton.states[before]
        ended = left.kind == "text" and before != state
        if ended and left.channel == "commentary" and left.recipient is None:
            self._preamble_count += 1
            if self._preamble_count >= MAX_PREAMBLES:
                self._state = self._automaton.answer_state
        again = why is not None or self.needs_last_token or ended
        if again:
            self._reset_lookahead()
        return again

    def _reset_lookahead(self) -> None:
        """Let what is drawn next be drawn behind the tokens that were read."""
        assert self._table is not None
        self._lookahead_row = self._table.row(self._state)

    def _update_matcher(self, before: int, token: int) -> None:
        """Feed the grammar of the content, begin that of a new one, or end it."""
        place = self.place
        if place.kind != "grammar":
            if self._matcher is not None:  # what was drawn ahead knew nothing of it
                self._reset_lookahead()
            self._matcher = None
        elif place.recipient in self._unenforced:
            pass
        elif before == self._state and self._matcher is not None:
            self._matcher.accept(token)
        else:
            grammar = self._compiled[place.recipient]
            self._matcher = self._grammars.matcher(grammar)

    def _grammar_mask(self, matcher: WorkerMatcher) -> np.ndarray:
        """What the grammar allows (V,), and what may end the text once it is whole."""
        recipient, complete = self.place.recipient, True
        legal = self._text.copy()
        if recipient not in self._unenforced:
            try:
                legal &= matcher.token_mask(len(legal))
                complete = matcher.is_accepting
            except GrammarLostError as error:
                if not self._compiled[recipient].best_effort:
                    raise
                log.warning("%s goes on free: %s", recipient or "the answer", error)
                self._unenforced.add(recipient)
                self.finish_details += (UNENFORCED,)
        if complete:
            legal[list(self._automaton.edges[self._state])] = True
        if not legal.any():
            raise SchemaError("a grammar leaves no token to go on with: change it")
        return legal

    def _cut_short(self, reason: str) -> None:
        """Leave reasoning and preambles for the answer; end all else as it stands."""
        self.finish_details += (reason,)
        if reason in (FINAL_LOOP, CALL_LOOP):
            self._cut_finish_reason = LENGTH
        else:
            self._state = self._automaton.cut_states[self._state]

    def _cut_reason(self, token: int) -> str | None:
        """Say what is wrong with text that goes on with `token`, if anything."""
        place = self.place
        if place.recipient is not None:
            return CALL_LOOP if self._is_looping(CALL, token) else None
        if place.channel == "analysis":
            self.reasoning_tokens += 1
            if self._budget is not None and self.reasoning_tokens >= self._budget:
                return REASONING_BUDGET
        if place.channel == "commentary":
            self._preamble_tokens += 1
            if self._preamble_tokens >= MAX_PREAMBLE_TOKENS:
                return PREAMBLE_BUDGET
        return (
            f"{place.channel}_loop" if self._is_looping(place.channel, token) else None
        )

    def _is_looping(self, key: str, token: int) -> bool:
        guard = self._loop_detectors.get(key)
        return guard is not None and guard.feed(token)


def loop_detectors(*, bound_final: bool) -> dict[str, Detector]:
    """What watches the text of each channel, and that of all calls.

    Reasoning loses little when it is cut short; an answer of many like records must
    come out whole; what a program reads is cut only where it is nothing but a cycle.
    """
    return {
        "analysis": LoopDetector(share=NEARLY),
        "commentary": LoopDetector(share=NEARLY),
        "final": CycleDetector() if bound_final else LoopDetector(share=EXACTLY),
        CALL: CycleDetector(),
    }


class DeviceTable:
    """A table as generation uses it, so that a step takes few operations.

    A state is where its row begins in the flat table, whose entries are such rows.
    """

    def __init__(self, table: AutomatonTable) -> None:
        self._width = table.targets.shape[1]
        self._table = table
        self._texts: dict[int, mx.array] = {}
        targets = table.targets.astype(np.int32)
        rows = np.where(targets < 0, ILLEGAL, targets * self._width)
        self.rows = mx.array(rows.reshape(-1))
        self.classes = mx.array(table.classes)  # (V,)
        self.first = mx.array(0, mx.int32)
        self.least = mx.array(LEGAL_FLOOR, mx.float32)
        self.never = mx.array(-mx.inf, mx.float32)

    def text_mask(self, state: int) -> mx.array:
        """Return the mask (V,) of what is legal at a state of text."""
        if state not in self._texts:
            legal = self._table.targets[state] >= 0
            self._texts[state] = mx.array(legal[self._table.classes])
        return self._texts[state]

    def row(self, state: int) -> mx.array:
        """Return where the row of a state begins."""
        return mx.array(state * self._width, mx.int32)


def build_table(automaton: Automaton, text: np.ndarray) -> AutomatonTable:
    """Write an automaton as arrays, for a vocabulary whose text tokens are `text`.

    `targets[state, classes[token]]` is the next state, or -1. Tokens that lead
    somewhere of their own have a class of their own.
    """
    named = sorted({token for edges in automaton.edges for token in edges})
    classes = np.where(text, TEXT, UNNAMED).astype(np.int32)
    class_of = {token: number for number, token in enumerate(named, TEXT + 1)}
    classes[named] = list(class_of.values())
    shape = len(automaton.states), TEXT + 1 + len(named)
    small = shape[0] <= np.iinfo(np.int16).max
    targets = np.full(shape, ILLEGAL, np.int16 if small else np.int32)
    columns = np.flatnonzero(np.r_[False, True, text[named]])  # those of text tokens
    for state, place in enumerate(automaton.states):
        if place.kind in ("text", "grammar"):
            targets[state, columns] = state
        elif place.kind == "done":  # what is drawn ahead of the end is thrown away
            targets[state] = state
        for token, target in automaton.edges[state].items():
            targets[state, class_of[token]] = target
    return AutomatonTable(targets, classes)
