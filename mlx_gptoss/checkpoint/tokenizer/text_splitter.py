"""Split a long text into pieces whose tokens add up to those of the whole.

A vocabulary like gpt-oss's encodes word by word: a regular expression splits the text
into words from left to right. It always splits between a letter or digit and a
character of another kind, and between punctuation and a space, whatever else the text
contains. So long texts need not be encoded at once. This holds for the expressions
below; texts of other vocabularies are not split.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

import tokenizers

from mlx_gptoss.checkpoint.tokenizer.settings import list_components, read_state

PIECE_CHARACTERS = 2**15  # encoded in some 10 ms
LONGEST_WORD = 2**20  # characters: the library's expressions fail on far longer ones
LOOK_BACK = (2**8, PIECE_CHARACTERS)  # characters to search for a split, backwards
SPACES = " \t\r\n"
APOSTROPHE = "'"  # continues the word before it, as in "don't"

HEAD = r"[^\r\n\p{L}\p{N}]?"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT_OSS = (
    rf"{HEAD}{UPPER}*{LOWER}+{ENDING}|{HEAD}{UPPER}+{LOWER}*{ENDING}|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PLAIN = r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # the demo model's
# Optionally before those: phrases that are words, and words with a leading space.
PHRASE = r"(?:\\[^0-9A-Za-z]|[^\\.^$*+?{}\[\]()|])+"
SPACED = r" \(\?:[A-Za-z|]+\)\(\?!\\p\{L\}\)"
BEFORE = re.compile(rf"((?:{PHRASE}\|)*)(?:{SPACED}\|)?", re.DOTALL)

CANDIDATE = re.compile(
    r"[^\W_](?=[^\w'])|[^\W\d_](?=[\d_])|\d(?=[^\W\d])|(?:[^\w\s]|_)(?=[ \t])"
)


class TextSplitter:
    """Splits texts, but never within one of the `phrases`."""

    def __init__(self, phrases: Sequence[str] = ()) -> None:
        self._phrases = phrases

    def split(self, text: str, size: int = PIECE_CHARACTERS) -> Iterator[str]:
        """Yield pieces of at most `size` characters, or more where no split is safe."""
        start = 0
        while len(text) - start > size:
            cut = self._last(text, start, start + size)
            if cut is None:
                cut = self._first(text, start + size, size)
            yield text[start:cut]
            start = cut
        if start < len(text):
            yield text[start:]

    def _last(self, text: str, start: int, end: int) -> int | None:
        """Return the last safe split after `start`, up to `end`."""
        for back in LOOK_BACK:
            cuts = list(self._cuts(text, max(start, end - back), end))
            if cuts:
                return cuts[-1]
        return None

    def _first(self, text: str, start: int, size: int) -> int:
        """Return the first safe split after `start`, or the limit of a word."""
        end = min(len(text), start + LONGEST_WORD)
        for at in range(start, end, size):
            for cut in self._cuts(text, at, at + size):
                return cut
        return end

    def _cuts(self, text: str, start: int, end: int) -> Iterator[int]:
        """Yield the safe splits after `start`, up to `end`."""
        for found in CANDIDATE.finditer(text, start, end + 1):
            at = found.end()
            if is_cut(text[at - 1], text[at]) and not self._in_phrase(text, at):
                yield at

    def _in_phrase(self, text: str, at: int) -> bool:
        return any(
            text.find(one, max(0, at - len(one) + 1), at + len(one) - 1) >= 0
            for one in self._phrases
        )


def is_cut(left: str, right: str) -> bool:
    """Whether a text is always split between two characters."""
    before, after = classify_character(left), classify_character(right)
    if before is None or before == "Z":
        return False
    if right in " \t":
        return True
    differ = after not in (None, before) and right != APOSTROPHE
    return differ and before in ("L", "N")


def classify_character(character: str) -> str | None:
    """Return Unicode's L, N, P or S, Z for common spaces, else None.

    Also None where old and current Unicode differ, as the library has its own version.
    """
    if character in SPACES:
        return "Z"
    found = unicodedata.category(character)[0]
    same = found == unicodedata.ucd_3_2_0.category(character)[0]
    return found if same and found in "LNPS" else None


def make_splitter(vocabulary: tokenizers.Tokenizer) -> TextSplitter | None:
    """Return the splitter for a vocabulary, or None if no split is known to be safe."""
    if vocabulary.normalizer is not None:
        return None
    added = vocabulary.get_added_tokens_decoder().values()
    parts = list(list_components(read_state(vocabulary.pre_tokenizer)))
    if [part["type"] for part in parts] != ["Split", "ByteLevel"]:
        return None
    split, byte_level = parts
    plain = split["behavior"] == "Isolated" and not split["invert"]
    as_it_is = not byte_level["use_regex"] and not byte_level["add_prefix_space"]
    if not (plain and as_it_is and all(token.special for token in added)):
        return None
    phrases = parse_phrases(split["pattern"].get("Regex", ""))
    if phrases is None:
        return None
    return TextSplitter([*phrases, *(token.content for token in added)])


def parse_phrases(expression: str) -> list[str] | None:
    """Return the phrases of a known expression, or None for any other."""
    for known in (GPT_OSS, PLAIN):
        before = expression.removesuffix(known)
        if before != expression and (found := BEFORE.fullmatch(before)):
            phrases = re.findall(PHRASE, found[1], re.DOTALL)
            return [re.sub(r"\\(.)", r"\1", one, flags=re.DOTALL) for one in phrases]
    return None
