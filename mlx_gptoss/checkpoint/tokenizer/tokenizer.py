"""Text to token ids and back, from a checkpoint's `tokenizer.json`.

Knows the byte-level vocabulary and the names of its special tokens; knows nothing of
Harmony's grammar, and does not import MLX. Guarantees:

- `encode` takes plain text: `<|end|>` stays text and never becomes the control token.
  Control tokens come only from `special(name)`.
- A prompt is exactly its text, whatever the file says about truncation, padding and the
  like (see `settings`; `notices` names what was disabled).
- Decoding never fails: the embedding has more rows than the vocabulary has tokens
  (gpt-oss: 201,088 and 200,019), and a row without a token decodes to "".
"""

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import tokenizers

from mlx_gptoss.checkpoint.tokenizer.settings import disable_settings
from mlx_gptoss.checkpoint.tokenizer.text_splitter import (
    LONGEST_WORD,
    PIECE_CHARACTERS,
    make_splitter,
)
from mlx_gptoss.errors import CheckpointError, PromptError
from mlx_gptoss.format.file_names import TOKENIZER_FILE

HARMONY_TOKENS = (
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>",
    "<|call|>",
    "<|return|>",
)
# Normalizers and pre-tokenizers of other models would change this text.
PROBE = " a  B\u00e9\t1\n\n e\u0301 \uff21 \u6f22 \U0001f600 <x> "
FRAME_TOKENS = frozenset(HARMONY_TOKENS) - {
    "<|call|>",
    "<|return|>",
}  # these never end an answer
SHORT_TEXT = 2**12  # characters: encoded in a few milliseconds
ID_LIMIT = 2**32  # the library's ids are 32-bit
CONTROL_NAME = re.compile(r"<\|[^|]+\|>")  # special even without the flag


def _byte_of_character() -> dict[str, int]:
    """Invert GPT-2's map of bytes to printable characters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(rest)
    }


BYTE_OF_CHARACTER = _byte_of_character()


class Tokenizer:
    """A byte-level vocabulary with named special tokens. Thread-safe."""

    def __init__(self, vocabulary: tokenizers.Tokenizer, source: str) -> None:
        if "ByteLevel" not in repr(vocabulary.decoder):
            raise CheckpointError(
                f"tokenizer `{source}` is not byte-level: use the `tokenizer.json` "
                "that was published with the checkpoint"
            )
        self.source = source
        self._vocabulary = vocabulary
        self.notices = disable_settings(vocabulary, harmony=has_harmony(vocabulary))
        added = vocabulary.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        names = {
            token.content: token_id
            for token_id, token in sorted(added.items())
            if token.special or CONTROL_NAME.fullmatch(token.content)
        }
        self.specials: Mapping[str, int] = MappingProxyType(names)
        self._special_ids = frozenset(names.values())
        # A control token saved without its flag would be found in text.
        vocabulary.add_special_tokens(
            [
                tokenizers.AddedToken(token.content, special=True, normalized=False)
                for token in added.values()
                if token.content in names and not token.special
            ]
        )
        vocabulary.encode_special_tokens = True  # "<|end|>" in text is text
        self._splitter = make_splitter(vocabulary)
        self._check_text()

    @classmethod
    def open(cls, folder: Path | str) -> "Tokenizer":
        """Read `folder/tokenizer.json`; raises CheckpointError."""
        path = Path(folder) / TOKENIZER_FILE
        if not path.is_file():
            raise CheckpointError(
                f"`{folder}` has no `tokenizer.json`: copy the one published with the "
                "checkpoint into that folder; without it only token ids can be used"
            )
        return cls.from_bytes(path.read_bytes(), str(path))

    @classmethod
    def from_bytes(cls, raw: bytes, source: str) -> "Tokenizer":
        """Read the content of a `tokenizer.json`, which messages call `source`.

        Raises CheckpointError.
        """
        try:
            vocabulary = tokenizers.Tokenizer.from_buffer(raw)
        except Exception as error:  # the library raises bare Exception for any fault
            raise CheckpointError(
                f"`{source}` cannot be read as a tokenizer ({error}): copy the one "
                "that was published with the checkpoint"
            ) from error
        return cls(vocabulary, source)

    def serialized(self) -> str:
        """The vocabulary as `tokenizer.json` text, for another process."""
        return self._vocabulary.to_str()

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        return max(self._vocabulary.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def text_ids(self) -> Sequence[int]:
        """The sorted ids of text, without control tokens and empty rows."""
        known = self._vocabulary.get_vocab(with_added_tokens=True).values()
        return sorted(set(known) - self._special_ids)

    @cached_property
    def has_harmony(self) -> bool:
        """Whether the vocabulary has every control token of the Harmony format."""
        return all(name in self.specials for name in HARMONY_TOKENS)

    def require_harmony(self) -> None:
        """Raise PromptError unless the vocabulary has Harmony's control tokens."""
        if not self.has_harmony:
            raise PromptError(
                "the model's tokenizer has no Harmony tokens, so it cannot chat: "
                "continue text with `mlx-gptoss generate --raw`"
            )

    def may_end_answer(self, token_id: int) -> bool:
        """Whether a stop token of the checkpoint's files may end an answer.

        In a Harmony vocabulary it must not be text or part of a message's frame;
        otherwise an answer would end after its reasoning.
        """
        if not self.has_harmony:
            return True
        name = self._added.get(token_id)
        is_text = token_id not in self._special_ids and self.token_bytes(token_id)
        return name not in FRAME_TOKENS and not is_text

    def special(self, name: str) -> int:
        """Return the id of a control token by name, such as `<|start|>`."""
        try:
            return self.specials[name]
        except KeyError:
            raise PromptError(
                f"tokenizer `{self.source}` has no token `{name}`: this checkpoint "
                "does not speak Harmony; use plain text (`generate --raw`)"
            ) from None

    def encode(self, text: str) -> list[int]:
        """Encode plain text; never returns the id of a special token."""
        return [token for piece in self.split(text) for token in self._whole(piece)]

    def split(self, text: str) -> Iterator[str]:
        """Split a long text into pieces whose tokens add up to those of the whole.

        A piece is long where the text has no safe place to split.
        """
        if self._splitter is None or len(text) <= PIECE_CHARACTERS:
            return iter((text,))
        return self._splitter.split(text)

    def min_token_count(self, text: str, *, tight: bool = False) -> int:
        """Return a lower bound of the number of tokens, without encoding the text.

        Assumes that all are the longest token in the vocabulary; with `tight`, the
        longest made of the bytes of this text, which takes longer to find.
        """
        if not self._spellings:
            return 0
        data = text if text.isascii() else text.encode("utf-8", "surrogatepass")
        longest = len(self._spellings[0])
        if tight and data:
            raw = data.encode() if isinstance(data, str) else data
            found = "".join(c for c, byte in BYTE_OF_CHARACTER.items() if byte in raw)
            made = (len(one) for one in self._spellings if not one.strip(found))
            longest = next(made, longest)
        return -(-len(data) // longest)

    @cached_property
    def _spellings(self) -> Sequence[str]:
        """Text tokens, longest first, one character per byte.

        Empty if tokens of a text may have fewer bytes than the text.
        """
        known = self._vocabulary.get_vocab(with_added_tokens=False)
        exact = self._splitter is not None and known.keys() >= BYTE_OF_CHARACTER.keys()
        return sorted(known, key=len, reverse=True) if exact else ()

    def _whole(self, text: str) -> list[int]:
        ids = self._encode(text)
        if self._special_ids.isdisjoint(ids):
            return ids
        # The vocabulary itself spells a control token: split such names in two.
        names = "|".join(map(re.escape, self.specials))
        cuts = [match.start() + 1 for match in re.finditer(names, text)]
        bounds = pairwise([0, *cuts, len(text)])
        return [token for a, b in bounds for token in self._encode(text[a:b])]

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids to text; control tokens by name, invalid UTF-8 as U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token; b"" for an id that has no token."""
        if token_id in self._added:
            return self._added[token_id].encode()
        known = 0 <= token_id < ID_LIMIT
        token = self._vocabulary.id_to_token(token_id) if known else None
        if token is None:
            return b""
        try:
            return bytes(BYTE_OF_CHARACTER[character] for character in token)
        except KeyError:  # a word added to the vocabulary as plain text
            return token.encode()

    def detokenizer(self) -> "Detokenizer":
        """Return a fresh streaming decoder."""
        return Detokenizer(self)

    def _check_text(self) -> None:
        """Check that text survives encoding.

        Raises CheckpointError for a Harmony vocabulary; others get a notice.
        """
        if self.decode(self._encode(PROBE)) == PROBE:
            return
        if self.has_harmony:
            raise CheckpointError(
                f"tokenizer `{self.source}` changes or drops some text: "
                "use the `tokenizer.json` that was published with the checkpoint"
            )
        self.notices += (
            "`tokenizer.json` changes or drops some text; the vocabulary has no "
            "Harmony tokens, so this is kept",
        )

    def _encode(self, text: str) -> list[int]:
        if self._splitter is not None and len(text) > LONGEST_WORD:
            raise PromptError(
                f"the text has more than {LONGEST_WORD:,} characters in a row without "
                "the end of a word: shorten them"
            )
        try:
            if len(text) <= SHORT_TEXT:
                return self._vocabulary.encode(text, add_special_tokens=False).ids
            # Only this function releases the interpreter lock.
            batch = self._vocabulary.encode_batch_fast([text], add_special_tokens=False)
            return batch[0].ids
        except TypeError as error:
            raise PromptError(
                "the text holds half of a surrogate pair, which is not valid Unicode: "
                "decode the input as UTF-8 first"
            ) from error


def has_harmony(vocabulary: tokenizers.Tokenizer) -> bool:
    """Whether a vocabulary has every control token of the Harmony format."""
    added = vocabulary.get_added_tokens_decoder().values()
    return {token.content for token in added}.issuperset(HARMONY_TOKENS)


class Detokenizer:
    """Decode a stream of ids into complete UTF-8 characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """Return the text completed by this token, often "" or a word."""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """Return U+FFFD for an incomplete character, if any, and reset."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
