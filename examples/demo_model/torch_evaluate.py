"""Measure a training checkpoint on held-out prompts, greedily, in batches (torch).

    python -m examples.demo_model.torch_evaluate DIR --count 60 --rounded

`evaluate.py` measures an exported checkpoint in the runtime.
"""

# pyright: reportMissingImports=false

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from examples.demo_model.cases import Case, Output, cases
from examples.demo_model.scores import report
from examples.demo_model.tokenizer import Encoder
from examples.demo_model.torch_model import (
    MASKED,
    GptOss,
    Shape,
    affine8,
    bfloat16,
    mxfp4,
)
from mlx_gptoss.harmony.render.prompt import render_messages

BATCH = 64
LONGEST_OUTPUT = 400
NOWHERE = -(10**6)  # the position of padding, outside every window


@torch.no_grad()
def complete(
    model: GptOss, prompts: list[list[int]], stops: set[int], limit: int
) -> list[list[int]]:
    """Continue prompts greedily, padded on the left, until a stop token."""
    B, L = len(prompts), max(map(len, prompts))
    ids, keys = torch.zeros(B, L, dtype=torch.long), torch.full((B, L), NOWHERE)
    for row, prompt in enumerate(prompts):
        ids[row, L - len(prompt) :] = torch.tensor(prompt)
        keys[row, L - len(prompt) :] = torch.arange(len(prompt))
    cache: list[list] = [[] for _ in model.layers]
    queries, written = keys, [[] for _ in prompts]
    done = [False] * B
    for _ in range(limit):
        masks = _masks(queries, keys, model.shape.sliding_window)
        hidden = model(ids, queries.clamp(min=0), *masks, cache)[:, -1]
        ids = model.logits(hidden).argmax(-1, keepdim=True)
        for row, token in enumerate(ids[:, 0].tolist()):
            if not done[row]:
                written[row].append(token)
                done[row] = token in stops
        if all(done):
            break
        queries = queries[:, -1:] + 1
        keys = torch.cat((keys, queries), 1)
    return written


def _masks(queries: Tensor, keys: Tensor, window: int) -> tuple[Tensor, Tensor]:
    q, k = queries[:, :, None], keys[:, None, :]
    seen = (k <= q) & (k >= 0)
    near = seen & (q - k < window)
    return tuple(
        torch.zeros(x.shape).masked_fill_(~x, MASKED)[:, None] for x in (seen, near)
    )


def load(folder: Path, *, rounded: bool) -> tuple[GptOss, Encoder, int]:
    """Load a checkpoint; `rounded` rounds the weights as a q8 conversion does."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    model = GptOss(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    model.eval()
    if rounded:
        round_weights(model)
    return model, Encoder.open(folder / "tokenizer.json"), state["step"]


@torch.no_grad()
def round_weights(model: GptOss) -> None:
    """Round experts to MXFP4, other matrices to 8-bit affine, the rest to bfloat16."""
    for name, weight in model.named_parameters():
        if name.endswith(("gate_up_weight", "down_weight")):
            weight.copy_(mxfp4(weight))
        elif weight.ndim == 2 and "router" not in name and "bias" not in name:
            weight.copy_(affine8(bfloat16(weight)))
        else:
            weight.copy_(bfloat16(weight))


def outputs(model: GptOss, encoder: Encoder, chosen: list[Case]) -> list[Output | None]:
    """Run the cases in batches of similar length; return outputs in order."""
    prompts = [render_messages(case.prompt, encoder) for case in chosen]
    stops = {encoder.special("<|return|>"), encoder.special("<|call|>")}
    found: list[Output | None] = [None] * len(chosen)
    order = sorted(range(len(chosen)), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), BATCH):
        batch = order[first : first + BATCH]
        written = complete(model, [prompts[i] for i in batch], stops, LONGEST_OUTPUT)
        for i, ids in zip(batch, written, strict=True):
            text = encoder.tokenizer.decode(ids, skip_special_tokens=False)
            found[i] = Output.parse(text)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--rounded", action="store_true")
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, encoder, step = load(given.folder, rounded=given.rounded)
    chosen = [case for case in cases(given.count) if given.only in case.kind]
    started = time.monotonic()
    found = outputs(model, encoder, chosen)
    print(report(chosen, found, given.show))
    print(f"step {step}, {time.monotonic() - started:.0f} s, rounded {given.rounded}")


if __name__ == "__main__":
    main()
