"""Create guides: compile the grammars and build the automaton of an answer.

    guides = GuideFactory(tokenizer)
    guide = guides.create(Constraints(max_reasoning_tokens=500), targets)
    generate(model, ids, guide=guide)          # ids end with `<|start|>assistant`

Automata and compiled grammars are shared between the guides of one tokenizer.
"""

import threading
from collections.abc import Callable, Sequence

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.guide import Guide
from mlx_gptoss.engine.token_table import TokenTables
from mlx_gptoss.harmony.constrain.automaton import (
    AllowedTurn,
    Automaton,
    build_automaton,
)
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.constrain.schema.compile import CompiledGrammar
from mlx_gptoss.harmony.constrain.tool_constraints import ToolConstraint, allowed_turn
from mlx_gptoss.harmony.constrain.worker import WorkerGrammars

MAX_AUTOMATA = 16  # cached; a conversation needs two or three


class GuideFactory:
    """Creates the guides of one tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.grammars = WorkerGrammars(tokenizer)
        self._tokenizer = tokenizer
        self._automata: dict[AllowedTurn, Automaton] = {}
        self._tables = TokenTables(tokenizer)
        self._lock = threading.Lock()

    def create(
        self, constraints: Constraints, targets: Sequence[ToolConstraint] = ()
    ) -> Guide | None:
        """Create a guide for one answer; None if nothing is enforced.

        Raises SchemaError for a schema that cannot be enforced, and PromptError for a
        tool choice that names a missing tool.
        """
        if constraints.enforce == "off":
            return None
        turn = allowed_turn(constraints, targets)
        compiled = self._compiled(constraints, turn, targets)
        with self._lock:
            automaton = self._automaton(turn)
        if compiled:
            self.grammars.prepare()
        return Guide(
            automaton,
            self._tables,
            self._tokenizer,
            self.grammars,
            compiled,
            constraints,
        )

    def close(self) -> None:
        """Release the process that compiles grammars; it ends with its last user."""
        self.grammars.close()

    def _compiled(
        self,
        constraints: Constraints,
        turn: AllowedTurn,
        targets: Sequence[ToolConstraint],
    ) -> dict[str | None, CompiledGrammar]:
        """Return the grammar of each tool by recipient, of the answer under None."""
        bound = {call.recipient for call in turn.calls if call.has_grammar}
        pending: dict[str | None, Callable[[], CompiledGrammar]] = {
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
            pending[None] = self.grammars.start_compile(
                answer.kind,
                answer.source,
                what="the response format",
                strict=answer.strict,
            )
        return {where: finish() for where, finish in pending.items()}

    def _automaton(self, turn: AllowedTurn) -> Automaton:
        found = self._automata.pop(turn, None) or build_automaton(self._tokenizer, turn)
        self._automata[turn] = found
        while len(self._automata) > MAX_AUTOMATA:
            del self._automata[next(iter(self._automata))]
        return found
