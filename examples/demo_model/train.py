"""Train the demo model on CPU cores, one process of one thread each (torch).

    python -m examples.demo_model.train --out DIR --rank 0 --world 2 &
    python -m examples.demo_model.train --out DIR --rank 1 --world 2

Goes on from DIR/checkpoint.pt where there is one.
"""

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from examples.demo_model import rows, tokenizer
from examples.demo_model.data import Author
from examples.demo_model.optimizer import Optimizer
from examples.demo_model.recipe import PHASES, Plan, Stream, rate
from examples.demo_model.torch_model import MASKED, GptOss, Shape

SEED = 1
BLOCK = 200  # steps between checkpoints; streams are seeded anew for each block
LOG_EVERY = 25
BALANCE_WEIGHT = 0.01
COPY_LENGTH = 128


def masks(batch: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Masks (B, 1, L, L + 1) for full and sliding layers; the sink is never masked."""
    positions, documents, branches = batch[:, 1], batch[:, 2], batch[:, 3]
    q, k = positions[:, :, None], positions[:, None, :]
    seen = (documents[:, :, None] == documents[:, None, :]) & (k <= q)
    of_start = branches[:, None, :] == 0
    seen &= of_start | (branches[:, None, :] == branches[:, :, None])
    return _added(seen), _added(seen & (q - k < window))


def _added(seen: Tensor) -> Tensor:
    mask = torch.zeros(seen.shape).masked_fill_(~seen, MASKED)
    return F.pad(mask, (0, 1))[:, None]


def losses(model: GptOss, batch: Tensor) -> tuple[Tensor, int]:
    """The sum of the losses of a batch (B, 5, L) and how many targets it has."""
    ids, positions, documents, branches, targets = batch.unbind(1)
    hidden = model(ids, positions, *masks(batch, model.shape.sliding_window))
    # A branch lies in one piece, so its next token is the next of the row.
    learned = targets[:, 1:] == 1
    learned &= documents[:, 1:] == documents[:, :-1]
    learned &= branches[:, 1:] == branches[:, :-1]
    logits = model.logits(hidden[:, :-1][learned])
    total = F.cross_entropy(logits, ids[:, 1:][learned], reduction="sum")
    return total, int(learned.sum())


class Batches:
    """The batches of one process; the same for a seed, rank and block of steps."""

    def __init__(self, encoder: tokenizer.Encoder, rank: int, plan: Plan) -> None:
        self.encoder, self.rank, self.plan = encoder, rank, plan
        self.vocabulary = encoder.tokenizer.get_vocab_size()

    def start_block(self, step: int) -> None:
        base = (SEED * 1000 + step // BLOCK) * 1000 + self.rank * 100
        phase = PHASES[max(start for start in PHASES if start <= step)]
        copies = rows.Copies(base, self.encoder, self.vocabulary)
        self.warm = copies.plain(COPY_LENGTH)
        made = copies.worded if phase.worded else copies.plain
        self.copies = [made(stream.length) for stream in phase.streams]
        self.drills = rows.Drills(base + 40, self.encoder).rows(phase.streams[0].length)
        self.phase = phase
        self.documents = [
            rows.document_rows(
                Author(base + 20 + i, mix=phase.mixes[i]), self.encoder, stream.length
            )
            for i, stream in enumerate(self.phase.streams)
        ]

    def of(self, step: int) -> dict[str, Tensor]:
        """The micro-batches of a step by stream, each (B, 5, L)."""
        if step < self.plan.copy_steps:
            count = (
                sum(s.length * s.rows for s in self.phase.streams if not s.every)
                // COPY_LENGTH
            )
            return {"copy": _stacked(self.warm, count)}
        batches = {}
        for i, stream in enumerate(self.phase.streams):
            if self._turn(stream, step):
                batches[stream.name] = self._stream_batch(i, step)
        return batches

    def _stream_batch(self, number: int, step: int) -> Tensor:
        """A stream's rows of a step: copies and drills by their shares, documents."""
        stream = self.phase.streams[number]
        copied = _due(self.phase.copies * stream.rows, step)
        drilled = 0 if number else _due(self.phase.drills * stream.rows, step)
        rest = stream.rows - copied - drilled
        sources = (self.copies[number], self.drills, self.documents[number])
        counts = (copied, drilled, rest)
        parts = [
            _stacked(source, count)
            for source, count in zip(sources, counts, strict=True)
            if count > 0
        ]
        return torch.cat(parts)

    def _turn(self, stream: Stream, step: int) -> bool:
        """A stream with `every` takes the place of the one before it now and then."""
        streams = self.phase.streams
        now = [s.every and step % s.every == 0 for s in streams]
        if stream.every:
            return bool(step % stream.every == 0)
        replaced = streams.index(stream) + 1
        return not (replaced < len(streams) and now[replaced])


def _due(share: float, step: int) -> int:
    """How many whole rows a share of rows a step comes to at this step."""
    return int(share * (step + 1)) - int(share * step)


def _stacked(source: Iterator[np.ndarray], count: int) -> Tensor:
    return torch.from_numpy(np.stack([next(source) for _ in range(count)])).long()


@dataclass
class Trainer:
    out: Path
    rank: int
    world: int
    step: int = 0
    plan: Plan = field(default_factory=Plan)

    def prepare(self) -> None:
        torch.manual_seed(SEED)
        path = self.out / "tokenizer.json"
        if self.rank == 0 and not path.exists():
            tokenizer.train().save(str(path))
        self._meet()
        self.encoder = tokenizer.Encoder.open(path)
        self.model = GptOss(Shape(vocab_size=self.encoder.tokenizer.get_vocab_size()))
        self.optimizer = Optimizer(self.model, self.rank, self.world)
        saved = self.out / "checkpoint.pt"
        if saved.exists():
            state = torch.load(saved, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load(state["optimizer"])
            self.step = state["step"]

    def _meet(self) -> None:
        if self.world > 1:
            dist.barrier()

    def run(self) -> None:
        self.batches = Batches(self.encoder, self.rank, self.plan)
        self.model.train()
        log = Log(self.step)
        while self.step < self.plan.steps:
            if self.step % BLOCK == 0 or log.steps == 0:
                self._start_block()
            seen = self._one_step()
            self.step += 1
            log.add(seen)
            if self.rank == 0 and self.step % LOG_EVERY == 0:
                print(log.line(self.step, rate(self.step, self.plan)), flush=True)
            if self.step % BLOCK == 0 and self.rank == 0:
                self.save()
        if self.rank == 0:
            self.save()

    def _start_block(self) -> None:
        self._meet()
        self.batches.start_block(self.step)

    def _one_step(self) -> dict[str, tuple[float, int]]:
        self.model.rounding = self.step >= self.plan.rounding_from
        batches = self.batches.of(self.step)
        seen: dict[str, tuple[float, int]] = {}
        targets = sum(int(batch[:, rows.TARGET].sum()) for batch in batches.values())
        for name, batch in batches.items():
            total, count = losses(self.model, batch)
            layers = self.model.shape.num_hidden_layers
            balance = BALANCE_WEIGHT * self.model.balance / layers / len(batches)
            (total / targets + balance).backward()
            seen[name] = (total.item(), count)
        norm = self.optimizer.step(rate(self.step, self.plan))
        size = sum(batch[:, 0].numel() for batch in batches.values()) * self.world
        seen["tokens"] = (size, 1)
        seen["norm"] = (norm, 1)
        seen["balance"] = (float(self.model.balance.detach()) / layers, 1)
        return seen

    def save(self) -> None:
        path = self.out / "checkpoint.pt"
        beside = path.with_suffix(".new")
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state(),
            "shape": asdict(self.model.shape),
            "step": self.step,
        }
        torch.save(state, beside)
        os.replace(beside, path)


class Log:
    """Sums of losses between two lines of the log."""

    def __init__(self, step: int) -> None:
        self.first, self.steps, self.tokens = time.monotonic(), 0, 0
        self.since, self.since_tokens = self.first, 0
        self.sums: dict[str, list[float]] = {}

    def add(self, seen: dict[str, tuple[float, int]]) -> None:
        self.steps += 1
        size = int(seen.pop("tokens")[0])
        self.tokens += size
        self.since_tokens += size
        for name, (total, count) in seen.items():
            sums = self.sums.setdefault(name, [0.0, 0.0])
            sums[0] += total
            sums[1] += count

    def line(self, step: int, rate: float) -> str:
        now = time.monotonic()
        means = " ".join(f"{name} {a / b:.4f}" for name, (a, b) in self.sums.items())
        speed = self.since_tokens / (now - self.since)
        self.since, self.since_tokens, self.sums = now, 0, {}
        return (
            f"{time.strftime('%H:%M:%S')} step {step} Mtok {self.tokens / 1e6:.2f} "
            f"tok/s {speed:.0f} rate {rate:.3f} {means}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("--steps", type=int, default=Plan().steps)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if given.world > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://127.0.0.1:{given.port}",
            rank=given.rank,
            world_size=given.world,
            timeout=timedelta(minutes=10),
        )
    plan = replace(Plan(), steps=given.steps)
    trainer = Trainer(given.out, given.rank, given.world, plan=plan)
    trainer.prepare()
    trainer.run()


if __name__ == "__main__":
    main()
