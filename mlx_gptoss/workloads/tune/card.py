"""The card of an adapter: what it was trained on and how, as Markdown."""

from mlx_gptoss.workloads.tune.run_record import RunRecord
from mlx_gptoss.workloads.tune.saved_state import RunState

CARD = """\
---
base_model: {model}
library_name: peft
tags: [gpt-oss, lora, mlx-gptoss]
---

# Adapter for `{model}`

Made by `{made_with}`: LoRA of rank {rank}, scaled by {scale:g}, on {targets}.

| | |
|---|---|
| trained on | `{data}`: {documents:,} documents, {learned:,} learned tokens so far |
| prompts | {prompts} |
| step | {step} of {steps}{start} |
| validation loss | {loss} |
| learning rate | {rate:g}, warm-up and cosine |
| batch | {batch:,} tokens x {accumulate}, AdamW, clipped at {clip:g} |
| dropout | {dropout:g} |
| seed | {seed} |

    mlx-gptoss chat -m {model} -a FOLDER
"""


def adapter_card(record: RunRecord, state: RunState) -> str:
    """Return the card of an adapter after the steps of `state`."""
    options = record.options
    alpha, rank = options["alpha"], options["rank"]
    loss = "not measured"
    if state.best_loss is not None:
        loss = f"{state.best_loss:.4f}, of {record.validation_documents:,} documents"
    return CARD.format(
        model=record.model,
        made_with=record.made_with,
        rank=rank,
        scale=2.0 if alpha is None else alpha / rank,
        targets=", ".join(options["target"]),
        data=record.data.rsplit("/", 1)[-1],  # no path of the machine
        documents=record.documents,
        learned=state.learned_tokens,
        prompts="Harmony" if record.conversations else "plain text",
        step=state.step,
        steps=record.steps,
        start=", of an adapter trained before" if record.start else "",
        loss=loss,
        rate=options["learning_rate"],
        batch=options["batch_tokens"],
        accumulate=options["accumulate"],
        clip=options["clip"],
        dropout=options["dropout"],
        seed=options["seed"],
    )
