"""Write an adapter alone, in another layout, with a card."""

from pathlib import Path

from mlx_gptoss import __version__
from mlx_gptoss.checkpoint.adapters import StoredAdapter, write_adapter
from mlx_gptoss.checkpoint.adapters.layouts import LAYOUTS
from mlx_gptoss_convert.plan.merging import training_facts
from mlx_gptoss_convert.write.model_card import CARD

ADAPTER_LAYOUTS = tuple(LAYOUTS)
LIBRARIES = {"peft": "peft", "mlx-lm": "mlx"}
MOST_CARD_BYTES = 64 * 1024
FENCE = "---\n"  # around the front matter of a card
CARD_TEXT = """---
library_name: {library}
{base_line}tags:
- lora
- gpt_oss
---

# An adapter for {base}

Written by mlx_gptoss {version} in the layout of {layout}. It updates {matrices}
matrices with ranks up to {rank}; the scale {scale:g} it was given is part of the
weights. Digest of its updates and of its model's config: `{digest}`.

    mlx-gptoss chat -m {model} -a ./THIS_FOLDER
"""


def write_alone(
    adapter: StoredAdapter, dst: Path, *, layout: str, base: str | None = None
) -> None:
    """Write an adapter into the new folder `dst`, as "peft" or "mlx-lm".

    `base` names its model if the adapter does not. Peak memory: twice its updates.
    """
    base = adapter.base or base
    write_adapter(
        dict(adapter.updates()),
        dst,
        adapter.config,
        layout=layout,
        base=base,
        metadata=training_facts(adapter),
        texts={CARD: alone_card(adapter, layout, base) + adapter_card(adapter)},
    )


def alone_card(adapter: StoredAdapter, layout: str, base: str | None) -> str:
    """Return the README.md of an adapter: its model, its size and its digest."""
    return CARD_TEXT.format(
        library=LIBRARIES[layout],
        base_line=f"base_model: {base}\n" if base and "/" in base else "",
        base=f"`{base}`" if base else "gpt-oss",
        version=__version__,
        layout=layout,
        matrices=len(adapter.paths),
        rank=adapter.rank,
        scale=adapter.scale,
        digest=adapter.digest,
        model=base or "MODEL",
    )


def adapter_card(adapter: StoredAdapter) -> str:
    """Return what the adapter's own card says, as a section; "" if it has none."""
    path = adapter.folder / CARD
    if not path.is_file() or path.stat().st_size > MOST_CARD_BYTES:
        return ""
    text = path.read_text("utf-8", "replace")
    if text.startswith(FENCE):
        text = text[len(FENCE) :].partition(f"\n{FENCE}")[2]
    return f"\n## The adapter's card\n\n{demote_headings(text).strip()}\n"


def demote_headings(text: str) -> str:
    """Move Markdown headings two levels down; lines of code stay as they are."""
    lines, in_code = [], False
    for line in text.splitlines():
        in_code ^= line.lstrip().startswith("```")
        is_heading = line.startswith("#") and not in_code
        lines.append(f"##{line}" if is_heading else line)
    return "\n".join(lines)
