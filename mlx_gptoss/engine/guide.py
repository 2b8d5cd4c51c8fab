"""Guide: enforce the constraints of one answer while it is sampled.

Sampling runs one token ahead: each token is sampled before the previous one is known on
the host. In free text it is sampled as if the text continued, under one constant mask;
in a header the sampler follows the automaton of legal headers on the device. Some
things are known only after a token arrives: a message has ended, the arguments of a
call continue, the reasoning budget is used up. Then `accept_token` asks for the next
token to be sampled again.

Token ids only; one Guide serves one generation.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import CALL_LOOP, FINAL_LOOP, LENGTH, UNENFORCED
from mlx_gptoss.engine.rows import Row
from mlx_gptoss.engine.token_table import (
    AutomatonMask,
    AutomatonTable,
    TokenMask,
    TokenTables,
)
from mlx_gptoss.errors import PromptError, SchemaError
from mlx_gptoss.harmony.constrain.automaton import Automaton, State
from mlx_gptoss.harmony.constrain.constraints import Constraints
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

CALL = "call"  # key of the loop detector for calls, on any channel

# Text before calls, per turn: normally a sentence or two, unless the model rambles.
MAX_PREAMBLES = 4
MAX_PREAMBLE_TOKENS = 4096

# Finish details a guide may report.
REASONING_BUDGET, PREAMBLE_BUDGET = "reasoning_budget", "preamble_budget"


class Guide:
    """Constraints of one answer, for use in the engine thread: see `TokenGuide`."""

    def __init__(
        self,
        automaton: Automaton,
        tables: TokenTables,
        tokenizer: Tokenizer,
        grammars: WorkerGrammars,
        compiled: dict[str | None, CompiledGrammar],
        constraints: Constraints,
    ) -> None:
        self._automaton = automaton
        self._tables = tables
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._compiled = compiled
        self._budget = constraints.max_reasoning_tokens
        bound = constraints.response_format is not None
        self._loop_detectors = (
            loop_detectors(bound_final=bound) if constraints.loop_guard else {}
        )
        self._cut_finish_reason: str | None = None  # if the answer was cut short
        self._state = automaton.start  # after the accepted tokens
        self._lookahead: Row | None = None  # after the sampled tokens, if they differ
        self._follows = False  # whether the last mask asked to follow the automaton
        self._matcher: WorkerMatcher | None = None
        self._gave_up: set[str | None] = set()  # recipients with too costly grammars
        self._table: AutomatonTable | None = None
        self.reasoning_tokens = 0
        self._preamble_count = self._preamble_tokens = 0
        self.call_count = 0  # started so far
        self.finish_details: tuple[str, ...] = ()

    @property
    def unenforced(self) -> Unenforced:
        """The schema parts that are not enforced, by recipient; None is the answer."""
        found = {
            where: (WHOLE_SCHEMA,) if where in self._gave_up else one.unenforced
            for where, one in self._compiled.items()
        }
        return {where: parts for where, parts in found.items() if parts}

    @property
    def state(self) -> State:
        """The state of the automaton after the accepted tokens."""
        return self._automaton.states[self._state]

    @property
    def needs_last_token(self) -> bool:
        """Whether the next token can be sampled only after this one is accepted."""
        return self._matcher is not None

    @property
    def pending_mask(self) -> "Future[object] | None":
        """The mask that another process is computing; None if none is needed."""
        if self._matcher is None or self.state.recipient in self._gave_up:
            return None
        return self._matcher.start_mask()

    @property
    def finish_reason(self) -> str | None:
        """The finish reason once the answer has ended, else None."""
        return self._cut_finish_reason or self.state.finish_reason

    def resume_turn(self, ids: Sequence[int]) -> None:
        """Start after `ids`, the part of the turn that the prompt already contains.

        Raises PromptError if no legal turn starts with them, or if they end inside the
        arguments of a call.
        """
        marks = set(self._tokenizer.specials.values())
        for token in ids:
            before = self._state
            state = self._automaton.step(before, token, text=token not in marks)
            here = None if state is None else self._automaton.states[state]
            in_call = here and here.kind == "grammar" and here.recipient is not None
            if state is None or in_call:
                text = self._tokenizer.decode(ids)
                raise PromptError(f"a turn cannot continue after `{text}`")
            self._state = state
            self._update_matcher(before, token)
        if self._matcher is None:
            return
        try:
            _ = self._matcher.is_accepting
        except GrammarLostError:
            return  # reported or tolerated with the first mask
        except SchemaError as error:
            raise PromptError(
                "the given start of the answer does not match the response format: "
                "leave out one of them"
            ) from error

    # While sampling, for tokens that may not be computed yet

    def mask(self, size: int) -> TokenMask:
        """Return which tokens are legal next, in a vocabulary of `size`."""
        if self._table is None:
            self._table = self._tables.table(self._automaton, size)
        self._follows = self._matcher is None and self.state.kind != "text"
        if self._matcher is not None:
            return self._grammar_mask(self._matcher, self._table.text.mask)
        state = self._table.start(self._state)
        if self._follows and self._lookahead is not None:
            return AutomatonMask(self._table, self._lookahead, follow=True)
        return AutomatonMask(self._table, state, follow=self._follows)

    def advance(self, state: Row | None) -> None:
        """Move past a sampled token, to the state that the sampler found for it."""
        if self._follows:
            self._lookahead = state

    # On the host, for tokens that have arrived

    def accept_token(self, token: int) -> bool:
        """Accept a sampled token; True if the token after it must be sampled again."""
        before = self._state
        assert self._table is not None
        is_text = bool(self._table.text.mask[token])
        state = self._automaton.step(before, token, text=is_text)
        assert state is not None, f"{token=} is not legal in {self.state}"
        self._state = state
        here = self.state
        self._update_matcher(before, token)
        if self._matcher is not None:
            self._matcher.start_mask()  # while the model computes
        cut = self._cut_reason(token) if before == state and is_text else None
        if cut is not None:
            self._cut_short(cut)
        self.call_count += here.recipient is not None and before != state
        left = self._automaton.states[before]
        ended = left.kind == "text" and before != state
        if ended and left.channel == "commentary" and left.recipient is None:
            self._preamble_count += 1
            if self._preamble_count >= MAX_PREAMBLES:
                self._state = self._automaton.answer_state
        again = cut is not None or self.needs_last_token or ended
        if again:
            self._lookahead = None
        return again

    def _update_matcher(self, before: int, token: int) -> None:
        """Advance the grammar of the content, start one, or end it."""
        here = self.state
        if here.kind != "grammar":
            if self._matcher is not None:  # the lookahead did not follow the grammar
                self._lookahead = None
            self._matcher = None
        elif here.recipient in self._gave_up:
            pass
        elif before == self._state and self._matcher is not None:
            self._matcher.accept(token)
        else:
            grammar = self._compiled[here.recipient]
            self._matcher = self._grammars.matcher(grammar)

    def _grammar_mask(self, matcher: WorkerMatcher, text: np.ndarray) -> np.ndarray:
        """Return the mask (V,) of the grammar, plus end tokens where it may end."""
        recipient, complete = self.state.recipient, True
        legal = text.copy()
        if recipient not in self._gave_up:
            try:
                legal &= matcher.token_mask(len(legal))
                complete = matcher.is_accepting
            except GrammarLostError as error:
                if not self._compiled[recipient].best_effort:
                    raise
                log.warning(
                    "%s is no longer constrained: %s", recipient or "the answer", error
                )
                self._gave_up.add(recipient)
                self.finish_details += (UNENFORCED,)
        if complete:
            legal[list(self._automaton.edges[self._state])] = True
        if not legal.any():
            raise SchemaError("a grammar allows no next token: change it")
        return legal

    def _cut_short(self, reason: str) -> None:
        """End reasoning or a preamble and go on; end an answer or a call for good."""
        self.finish_details += (reason,)
        if reason in (FINAL_LOOP, CALL_LOOP):
            self._cut_finish_reason = LENGTH
        else:
            self._state = self._automaton.cut_states[self._state]

    def _cut_reason(self, token: int) -> str | None:
        """Return the finish detail if the text must be cut at `token`, else None."""
        here = self.state
        if here.recipient is not None:
            return CALL_LOOP if self._is_looping(CALL, token) else None
        if here.channel == "analysis":
            self.reasoning_tokens += 1
            if self._budget is not None and self.reasoning_tokens >= self._budget:
                return REASONING_BUDGET
        if here.channel == "commentary":
            self._preamble_tokens += 1
            if self._preamble_tokens >= MAX_PREAMBLE_TOKENS:
                return PREAMBLE_BUDGET
        return f"{here.channel}_loop" if self._is_looping(here.channel, token) else None

    def _is_looping(self, key: str, token: int) -> bool:
        detector = self._loop_detectors.get(key)
        return detector is not None and detector.feed(token)


def loop_detectors(*, bound_final: bool) -> dict[str, Detector]:
    """Return the loop detector of each channel, and of the calls under CALL.

    Reasoning loses little when it is cut, so near repetition is enough. An answer of
    many similar records must stay whole, so only exact repetition counts. Text that a
    program parses is cut only if it is nothing but a cycle.
    """
    return {
        "analysis": LoopDetector(share=NEARLY),
        "commentary": LoopDetector(share=NEARLY),
        "final": CycleDetector() if bound_final else LoopDetector(share=EXACTLY),
        CALL: CycleDetector(),
    }
