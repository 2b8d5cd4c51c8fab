"""Compile grammars and compute token masks with `llguidance`, in this process.

JSON schemas, regular expressions, Lark and GBNF. Grammars from clients go through
`worker`, which has the same interface. Keywords of a schema that no grammar expresses
are left unenforced and named; a `strict` schema is refused instead, before generation:

    grammars = LocalGrammars(tokenizer)
    grammar = grammars.compile("arguments", schema, what="the arguments of `f`")
    grammar.unenforced               # (("n", "pattern"),)
    matcher = grammars.matcher(grammar)
    matcher.token_mask(vocab_size)   # bool for every id
    matcher.accept(token)
    matcher.is_accepting             # whether the text may end here

Knows text tokens only, not the control tokens that end a text.
"""

import json
import threading
from collections.abc import Sequence
from typing import Any, Literal

import llguidance
import numpy as np

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import SchemaError
from mlx_gptoss.harmony.constrain.answer_format import GrammarKind
from mlx_gptoss.harmony.constrain.depth import MAX_DEPTH, is_too_deep
from mlx_gptoss.harmony.constrain.gbnf import to_lark
from mlx_gptoss.harmony.constrain.schema.compile import (
    MAX_NESTING,
    CompiledGrammar,
    compile_schema,
    limit_nesting,
    unsupported_reason,
)
from mlx_gptoss.harmony.special_tokens import RETURN

QUIET = 0  # log level at which the library prints nothing


class LocalGrammars:
    """Compiles grammars for one tokenizer, and matches texts against them.

    On first use the library takes a second or two to load a large vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._loading = threading.Lock()
        self._loaded: llguidance.LLTokenizer | None = None

    def compile(
        self, kind: GrammarKind, source: Any, *, what: str, strict: bool = False
    ) -> CompiledGrammar:
        """Compile a grammar: see `compile_grammar`."""
        return compile_grammar(kind, source, what=what, strict=strict)

    def matcher(self, compiled: CompiledGrammar) -> "LocalMatcher":
        """Start to match a text against a compiled grammar."""
        tokenizer = self.tokenizer()
        matcher = llguidance.LLMatcher(tokenizer, compiled.grammar, log_level=QUIET)
        return LocalMatcher(matcher, tokenizer.eos_token)

    def tokenizer(self) -> llguidance.LLTokenizer:
        """Return the library's tokenizer, loaded on first use. Thread-safe."""
        with self._loading:
            if self._loaded is None:
                source = _LibraryTokenizer(self._tokenizer)
                self._loaded = llguidance.LLTokenizer(
                    llguidance.TokenizerWrapper(source),
                    n_vocab=len(source.tokens),
                    eos_token=source.eos_token_id,
                )
            return self._loaded


class LocalMatcher:
    """The state of one text within a grammar."""

    def __init__(self, matcher: "llguidance.LLMatcher", end: int) -> None:
        self._matcher = matcher
        self._end = end  # the library's token for the end of a text

    def packed_mask(self) -> bytearray:
        """Return a bit for each token, the lowest first: whether it may come next.

        Raises SchemaError when the library's limits are exceeded.
        """
        bits = bytearray(self._matcher.compute_bitmask())
        if self._matcher.is_error():
            raise SchemaError(f"a grammar failed: {self._matcher.get_error()}")
        bits[self._end // 8] &= ~(1 << self._end % 8)
        return bits

    def token_mask(self, size: int) -> np.ndarray:
        """Return the tokens that may come next, as bool (size,); possibly none."""
        return unpack_mask(self.packed_mask(), size)

    @property
    def is_accepting(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    def accept(self, token: int) -> None:
        """Advance by a token, which must be allowed."""
        if not self._matcher.consume_token(token):
            raise SchemaError(f"a grammar failed: {self._matcher.get_error()}")


class _LibraryTokenizer:
    """Adapts a tokenizer to the interface that the library expects."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.vocab_size)
        self.tokens: Sequence[bytes] = [tokenizer.token_bytes(token) for token in ids]
        self.special_token_ids = sorted(tokenizer.specials.values())
        self.eos_token_id = tokenizer.specials[RETURN]
        self._encode = tokenizer.encode

    def __call__(self, text: bytes | str) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._encode(text)


def unpack_mask(bits: bytes | bytearray, size: int) -> np.ndarray:
    """Unpack bits, the lowest of each byte first, to bool (size,)."""
    found = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    allowed = np.zeros(size, bool)
    shared = min(size, len(found))
    allowed[:shared] = found[:shared]
    return allowed


def can_enforce(kind: Literal["regex", "lark"], source: str) -> bool:
    """Whether the library accepts a grammar."""
    try:
        return unsupported_reason(_as_grammar(kind, source)) is None
    except ValueError:
        return False


def compile_grammar(
    kind: GrammarKind, source: Any, *, what: str, strict: bool = False
) -> CompiledGrammar:
    """Compile a grammar to the library's form, and list what it does not enforce.

    "arguments" is a JSON schema whose objects take their fields in any order.
    Raises SchemaError, which names `what`, the unsupported feature, and what to do: for
    a schema only if `strict`, for other grammars always.
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
    """Return the library's form. Raises ValueError for invalid GBNF and for depth."""
    if kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(source)
    lark = to_lark(source) if kind == "grammar" else source
    if is_too_deep(lark):
        raise ValueError(f"its rules lead more than {MAX_DEPTH:,} deep")
    return llguidance.LLMatcher.grammar_from_lark(lark)


def source_text(source: Any, what: str) -> str:
    """Return a source as text; a schema as JSON. Raises SchemaError if it is not JSON.

    Parts nested so deeply that they will not be enforced are cut off.
    """
    if isinstance(source, str):
        return source
    try:
        return json.dumps(limit_nesting(source, MAX_NESTING + 2))
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaError(f"{what} is no JSON ({error}): change it") from error
