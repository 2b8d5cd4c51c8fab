"""A policy: its text, the labels a verdict has, and the rules it can name.

    policy = read_policy(Path("spam.md"))
    policy.labels, policy.flagged, policy.rules

A policy is text, organized as OpenAI's guide to gpt-oss-safeguard advises. What the
text does not say of its labels may stand in front of it, between lines of `---`, in
YAML:

    ---
    labels: [VALID, INVALID]
    flagged: [INVALID]
    rules: [SP2.a, SP2.b]
    ---

Without that, labels are read from headings such as `## VIOLATES (1)` and
`## SAFE (0)`, the form of that guide, and are 0 and 1 where there are none; rules are
the identifiers that lines begin with, such as `SP2.a` or `**H2.f**`.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_gptoss.errors import PolicyError

LARGEST = 2**20  # bytes of a policy; 10,000 tokens are called long by the guide
NAME = re.compile(r"[\w.-]{1,64}")
LABEL = re.compile(r"[^\W_](?:[\w .+/-]{0,62}[\w.+])?")
FRONT = re.compile(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
HEADING = re.compile(
    r"^\W*#+\s+(?P<title>.*?)\((?:label:?\s*)?(?P<label>[^()\s]{1,64})\)\W*$",
    re.IGNORECASE | re.MULTILINE,
)
HARMLESS = re.compile(r"\b(?:not|no|safe|allowed|non)\b|n't", re.IGNORECASE)
RULE = re.compile(
    r"^[^\w\n]{0,12}(?P<rule>[A-Z][A-Za-z]{0,7}-?\d{1,4}(?:\.[0-9A-Za-z]{1,4})*)\b",
    re.MULTILINE,
)
KNOWN = ("labels", "flagged", "rules", "name")
BINARY, VIOLATES = ("0", "1"), "1"
MOST_LABELS, MOST_RULES = 64, 256


@dataclass(frozen=True)
class Policy:
    """What texts are judged by.

    name: a short name, of letters, digits, `_`, `-` and `.`.
    text: the policy itself, as the model reads it.
    labels: the labels a verdict can have, at least two.
    flagged: those that say that a text violates the policy.
    rules: identifiers of rules, one of which a verdict names; may be empty.

    Raises PolicyError for parts that do not fit.
    """

    name: str
    text: str
    labels: tuple[str, ...] = BINARY
    flagged: frozenset[str] = frozenset({VIOLATES})
    rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise PolicyError(
                f"`{self.name}` is no name of a policy: use letters, digits, `-`, `_` "
                "and `.`"
            )
        where = f"the policy `{self.name}`"
        if not self.text.strip():
            raise PolicyError(f"{where} is empty: write what is judged, and how")
        if not 2 <= len(self.labels) <= MOST_LABELS:
            raise PolicyError(
                f"{where} has {len(self.labels)} labels: give 2 to {MOST_LABELS}"
            )
        for label in self.labels:
            if not LABEL.fullmatch(label) or self.labels.count(label) > 1:
                raise PolicyError(
                    f"{where} has the label `{label}`: labels are different words of "
                    "letters, digits, spaces and `_.+/-`"
                )
        unknown = sorted(self.flagged.difference(self.labels))
        if unknown:
            raise PolicyError(
                f"{where} flags `{unknown[0]}`, which is none of its labels: "
                + ", ".join(self.labels)
            )
        if len(self.rules) > MOST_RULES or len(set(self.rules)) < len(self.rules):
            raise PolicyError(
                f"{where} must have at most {MOST_RULES} different `rules`"
            )

    def digest(self) -> str:
        """Return a digest (hex) of everything a verdict depends on."""
        parts = [self.text, self.labels, sorted(self.flagged), self.rules]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_policy(
    path: Path, *, name: str | None = None, flagged: Sequence[str] | None = None
) -> Policy:
    """Read a policy from a file; its name is the file's unless one is given.

    `flagged` replaces the labels that the file flags. Raises PolicyError.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise PolicyError(
            f"the policy `{path}` cannot be read: {error.strerror or error}"
        ) from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"the policy `{path}` is not UTF-8: convert it") from error
    if len(data) > LARGEST:
        raise PolicyError(f"the policy `{path}` is longer than {LARGEST:,} bytes")
    given = re.sub(r"[^\w.-]", "-", path.stem) if name is None else name
    return parse_policy(text, given, flagged=flagged, renamed=name is not None)


def parse_policy(
    text: str,
    name: str,
    *,
    flagged: Sequence[str] | None = None,
    renamed: bool = True,
) -> Policy:
    """Parse a policy; unless it is `renamed` it may name itself. Raises PolicyError."""
    fields: Mapping[str, Any] = {}
    front = FRONT.match(text)
    if front is not None:
        fields = _front_matter(front[1], name)
        text = text[front.end() :]
    text = text.strip()
    titles = {m["label"]: m["title"] for m in HEADING.finditer(text)}
    labels = _words(fields, "labels", name) or (
        tuple(sorted(titles)) if len(titles) > 1 else BINARY
    )
    bad = _words(fields, "flagged", name)
    if bad is None:
        bad = [one for one, title in titles.items() if not HARMLESS.search(title)]
        if "labels" in fields or len(titles) < 2:
            bad = [VIOLATES] if VIOLATES in labels else list(labels[1:])
    rules = _words(fields, "rules", name)
    if rules is None:
        found = dict.fromkeys(m["rule"] for m in RULE.finditer(text))
        rules = tuple(found)[:MOST_RULES]
    own = fields.get("name")
    return Policy(
        name if renamed or not isinstance(own, str) else own,
        text,
        tuple(labels),
        frozenset(bad if flagged is None else flagged),
        tuple(rules),
    )


def _front_matter(text: str, name: str) -> Mapping[str, Any]:
    from ruamel.yaml import YAML, YAMLError  # noqa: PLC0415  (takes 60 ms to import)

    try:
        fields = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        first = str(error).splitlines()[0]
        raise PolicyError(
            f"the lines between `---` of the policy `{name}` are no YAML: {first}"
        ) from error
    if not isinstance(fields, dict) or set(fields) - set(KNOWN):
        raise PolicyError(
            f"the lines between `---` of the policy `{name}` may only have "
            + ", ".join(f"`{one}:`" for one in KNOWN)
        )
    return fields


def _words(
    fields: Mapping[str, Any], key: str, name: str
) -> tuple[str, ...] | list[str] | None:
    """Return a list of the front matter as texts; None if it has none."""
    if key not in fields:
        return None
    found = fields[key]
    if not isinstance(found, list) or not all(
        isinstance(one, str | int) and not isinstance(one, bool) for one in found
    ):
        raise PolicyError(
            f"`{key}` of the policy `{name}` must be a list of words; put words such "
            "as yes and no in quotes"
        )
    return tuple(map(str, found))
