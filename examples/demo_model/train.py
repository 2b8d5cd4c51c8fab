"""Train the demo model on CPU cores, one process of one thread each (torch).

    python -m examples.demo_model.train --out DIR --rank 0 --world 2 &
    python -m examples.demo_model.train --out DIR --rank 1 --world 2

Resumes from DIR/checkpoint.pt if present.
"""

import argparse
import os
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from examples.demo_model import rows, tokenizer
from examples.demo_model.batches import BLOCK, SEED, Batches
from examples.demo_model.optimizer import Optimizer
from examples.demo_model.recipe import TrainingPlan, rate
from examples.demo_model.torch_model import MASKED, GptOss, Shape

LOG_EVERY = 25
BALANCE_WEIGHT = 0.01


def masks(batch: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Masks (B, 1, L, L) for full and sliding layers."""
    positions, documents, branches = batch[:, 1], batch[:, 2], batch[:, 3]
    q, k = positions[:, :, None], positions[:, None, :]
    seen = (documents[:, :, None] == documents[:, None, :]) & (k <= q)
    of_start = branches[:, None, :] == 0
    seen &= of_start | (branches[:, None, :] == branches[:, :, None])
    return _added(seen), _added(seen & (q - k < window))


def _added(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape).masked_fill_(~seen, MASKED)[:, None]


@dataclass(frozen=True)
class Losses:
    """The losses of a batch's targets, in the order of its rows."""

    values: Tensor
    rows: Tensor
    right: Tensor
    kinds: Tensor  # WORD_START and WORD_INSIDE in copied words

    def right_words(self) -> tuple[float, int]:
        """Count the copied words that are completely correct, and all copied words."""
        starts = self.kinds == rows.WORD_START
        wrong = ~self.right & (self.kinds >= rows.WORD_START)
        count = int(starts.sum())
        return float(count - len(starts.cumsum(0)[wrong].unique())), count


def losses(model: GptOss, batch: Tensor) -> Losses:
    ids, positions, documents, branches, targets = batch.unbind(1)
    hidden = model(ids, positions, *masks(batch, model.shape.sliding_window))
    # A branch is contiguous, so its next token is the next of the row.
    learned = targets[:, 1:] > 0
    learned &= documents[:, 1:] == documents[:, :-1]
    learned &= branches[:, 1:] == branches[:, :-1]
    logits, wanted = model.logits(hidden[:, :-1][learned]), ids[:, 1:][learned]
    values = F.cross_entropy(logits, wanted, reduction="none")
    right = logits.detach().argmax(-1) == wanted
    return Losses(values, learned.nonzero()[:, 0], right, targets[:, 1:][learned])


@dataclass
class Trainer:
    out: Path
    rank: int
    world: int
    step: int = 0
    plan: TrainingPlan = field(default_factory=TrainingPlan)

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
        self.batches = Batches(self.encoder, self.rank)
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
        layers = self.model.shape.num_hidden_layers
        targets = sum(int((batch[:, rows.TARGET] > 0).sum()) for _, batch in batches)
        for names, batch in batches:
            found = losses(self.model, batch)
            balance = BALANCE_WEIGHT * self.model.balance / layers / len(batches)
            (found.values.sum() / targets + balance).backward()
            for name in dict.fromkeys(names):
                own = torch.tensor([other == name for other in names])[found.rows]
                seen[name] = (float(found.values.detach()[own].sum()), int(own.sum()))
                if name == "copy":
                    seen["right"] = (float(found.right[own].sum()), int(own.sum()))
                    seen["words"] = found.right_words()
        norm = self.optimizer.step(rate(self.step, self.plan))
        size = sum(batch[:, 0].numel() for _, batch in batches) * self.world
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
    """Accumulates losses between two lines of the log."""

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
        means = " ".join(
            f"{name} {a / max(b, 1):.4f}" for name, (a, b) in self.sums.items()
        )
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
    parser.add_argument("--steps", type=int, default=TrainingPlan().steps)
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
            timeout=timedelta(hours=1),
        )
    plan = replace(TrainingPlan(), steps=given.steps)
    trainer = Trainer(given.out, given.rank, given.world, plan=plan)
    trainer.prepare()
    trainer.run()


if __name__ == "__main__":
    main()
