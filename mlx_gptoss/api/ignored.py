"""Name what a request asked for without effect, in a header of the reply.

Only names from fixed lists are written. Other names that a client sent are counted but
never repeated, so that nothing can be injected into a header or a log.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from mlx_gptoss.api.ignored_names import (
    NAMEABLE_FIELDS,
    PROVIDER_ITEMS,
    PROVIDER_TOOLS,
)

IGNORED_HEADER = "x-mlx-gptoss-ignored"
MAX_KEYWORDS = 16  # of schemas that are named
TOOL_VERSION = re.compile(r"_(\d{8}|\d{4}_\d\d_\d\d)$")  # of a provider's tool


def ignored_header(
    fields: Iterable[str] = (), tools: Iterable[str] = (), items: Iterable[str] = ()
) -> dict[str, str]:
    """Return the header that names what was ignored; {} if nothing was.

    x-mlx-gptoss-ignored: fields=store,user; tools=web_search; unknown=1
    """
    parts, unknown = [], 0
    for label, names, nameable in (
        ("fields", fields, NAMEABLE_FIELDS),
        ("tools", [TOOL_VERSION.sub("", tool) for tool in tools], PROVIDER_TOOLS),
        ("items", items, PROVIDER_ITEMS),
    ):
        given = list(names)
        unknown += sum(name not in nameable for name in given)
        if named := sorted(nameable & set(given)):
            parts.append(f"{label}={','.join(named)}")
    if unknown:
        parts.append(f"unknown={unknown}")
    return {IGNORED_HEADER: "; ".join(parts)} if parts else {}


def add_unenforced_keywords(
    headers: Mapping[str, str] | None, unenforced: Sequence[str]
) -> dict[str, str]:
    """Return the headers, with the schema keywords that do not constrain sampling.

    x-mlx-gptoss-ignored: schemas=functions[1].pattern,response_format.not
    """
    result = dict(headers or {})
    if unenforced:
        more = len(unenforced) - MAX_KEYWORDS
        suffix = [f"{more} more"] if more > 0 else []
        names = ",".join([*unenforced[:MAX_KEYWORDS], *suffix])
        parts = [result[IGNORED_HEADER]] if IGNORED_HEADER in result else []
        result[IGNORED_HEADER] = "; ".join([*parts, f"schemas={names}"])
    return result
