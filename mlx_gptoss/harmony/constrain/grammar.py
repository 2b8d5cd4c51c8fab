"""Grammars over a tokenizer: which tokens keep a text on the way to being valid.

JSON schemas, regular expressions, Lark and GBNF, by `llguidance`, in this very process:
what callers send goes through `worker`, which is used alike. Of a schema, what cannot
be kept is left free, and named; one that is `strict` is refused instead, before
anything is generated:

    grammars = Grammars(tokenizer)
    grammar = grammars.compile("arguments", schema, what="the arguments of `f`")
    grammar.freed                    # (("n", "pattern"),)
    matcher = grammars.matcher(grammar)
    matcher.allowed(vocab_size)      # bool for every id
    matcher.feed(token)
    matcher.complete                 # the text so far may end here

Knows text tokens only; what ends a text is not its business.
"""

import json
import threading
from collections.abc import Sequence
from typing import Any, Literal

import llguidance
import numpy as np

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import SchemaError
from mlx_gptoss.harmony.constrain.depth import MAX_DEPTH, is_too_deep
from mlx_gptoss.harmony.constrain.gbnf import to_lark
from mlx_gptoss.harmony.constrain.schema.compile import (
    MAX_NESTING,
    CompiledGrammar,
    compile_schema,
    limit_nesting,
    unsupported_reason,
)

GrammarKind = Literal["json_schema", "arguments", "regex", "lark", "grammar"]
QUIET = 0  # the log level at which the library prints nothing


class LocalGrammars:
    """Compiles grammars for one tokenizer, and matches texts against them.

    The library takes a second or two to read a large vocabulary, on first use.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._source = tokenizer
        self._reading = threading.Lock()
        self._read: llguidance.LLTokenizer | None = None

    def compile(
        self, kind: GrammarKind, source: Any, *, what: str, strict: bool = False
    ) -> CompiledGrammar:
        """Return the library's form of a grammar: see `compiled`."""
        return compile_grammar(kind, source, what=what, strict=strict)

    def matcher(self, compiled: CompiledGrammar) -> "LocalMatcher":
        """Start to match a text against what `compile` returned."""
        tokenizer = self.tokenizer()
        matcher = llguidance.LLMatcher(tokenizer, compiled.grammar, log_level=QUIET)
        return LocalMatcher(matcher, tokenizer.eos_token)

    def tokenizer(self) -> llguidance.LLTokenizer:
        """The vocabulary as the library has it; any thread may be the first to ask."""
        with self._reading:
            if self._read is None:
                source = _LibraryTokenizer(self._source)
                self._read = llguidance.LLTokenizer(
                    llguidance.TokenizerWrapper(source),
                    n_vocab=len(source.tokens),
                    eos_token=source.eos_token_id,
                )
            return self._read


class LocalMatcher:
    """One text on its way through a grammar."""

    def __init__(self, matcher: "llguidance.LLMatcher", end: int) -> None:
        self._matcher = matcher
        self._end = end  # the library's sign that the text may end

    def packed_mask(self) -> bytearray:
        """Return a bit for each token, the lowest first: whether it may come next.

        Raises SchemaError when the grammar asks too much of the library.
        """
        bits = bytearray(self._matcher.compute_bitmask())
        if self._matcher.is_error():
            raise SchemaError(f"a grammar failed: {self._matcher.get_error()}")
        bits[self._end // 8] &= ~(1 << self._end % 8)
        return bits

    def token_mask(self, size: int) -> np.ndarray:
        """Return the same as a bool (size,); none may be left."""
        return unpack_mask(self.packed_mask(), size)

    @property
    def is_accepting(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    def accept(self, token: int) -> None:
        """Take the token that was chosen; it must be one that was allowed."""
        if not self._matcher.consume_token(token):
            raise SchemaError(f"a grammar failed: {self._matcher.get_error()}")


class _LibraryTokenizer:
    """A tokenizer as the library wants to see it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.vocab_size)
        self.tokens: Sequence[bytes] = [tokenizer.token_bytes(token) for token in ids]
        self.special_token_ids = sorted(tokenizer.specials.values())
        self.eos_token_id = tokenizer.specials["<|return|>"]
        self._encode = tokenizer.encode

    def __call__(self, text: bytes | str) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._encode(text)


def unpack_mask(bits: bytes | bytearray, size: int) -> np.ndarray:
    """Write bits, the lowest of each byte first, as a bool (size,)."""
    found = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    allowed = np.zeros(size, bool)
    shared = min(size, len(found))
    allowed[:shared] = found[:shared]
    return allowed


def can_enforce(kind: Literal["regex", "lark"], source: str) -> bool:
    """Whether the library takes a grammar."""
    try:
        return unsupported_reason(_as_grammar(kind, source)) is None
    except ValueError:
        return False


def compile_grammar(
    kind: GrammarKind, source: Any, *, what: str, strict: bool = False
) -> CompiledGrammar:
    """Return the library's form of a grammar, and what it leaves free.

    "arguments" is a JSON schema whose objects take their fields in any order.
    Raises SchemaError, which names `what`, the feature that is not supported, and
    what to do: for a schema with `strict` only, for other grammars always.
    """
    if kind in ("regex", "lark", "grammar"):
        try:
            grammar = _as_grammar(kind, source)
            reason = unsupported_reason(grammar)
        except ValueError as error:
            raise SchemaError(
                f"{what} cannot be enforced ({error}): change it"
            ) from error
        if reason is not None:
            raise SchemaError(f"{what} cannot be enforced ({reason}): change it")
        return CompiledGrammar(grammar)
    try:
        return compile_schema(source, ordered=kind == "json_schema", strict=strict)
    except ValueError as error:
        advice = "leave that out, or do not ask for `strict`" if strict else "change it"
        raise SchemaError(f"{what} cannot be enforced ({error}): {advice}") from error


def _as_grammar(kind: GrammarKind, source: str) -> str:
    """The library's form. Raises ValueError for GBNF that is none, and what is deep."""
    if kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(source)
    lark = to_lark(source) if kind == "grammar" else source
    if is_too_deep(lark):
        raise ValueError(f"its rules lead more than {MAX_DEPTH:,} deep")
    return llguidance.LLMatcher.grammar_from_lark(lark)


def source_text(source: Any, what: str) -> str:
    """A source as text: JSON, but for a grammar. Raises SchemaError for what is none.

    What is nested so deeply that it will say nothing is cut, a little further down.
    """
    if isinstance(source, str):
        return source
    try:
        return json.dumps(limit_nesting(source, MAX_NESTING + 2))
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaError(f"{what} is no JSON ({error}): change it") from error
