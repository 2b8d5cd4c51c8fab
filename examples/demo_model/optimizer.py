"""Muon for matrices and Adam for other parameters, shared by processes (torch)."""

# pyright: reportMissingImports=false

import torch
import torch.distributed as dist
from torch import Tensor

MATRICES = ("qkv_weight", "o_weight", "gate_up_weight", "down_weight")
MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MATRIX_RATE, OTHER_RATE = 0.012, 2e-3
DECAY = 0.01
CLIP = 1.0


def orthogonal(x: Tensor) -> Tensor:
    """Push the singular values of matrices (N, rows, columns) towards 1."""
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(
            x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a
        )
    return x.transpose(1, 2) if tall else x


class Optimizer:
    """Steps with the mean gradient of all processes, identically in each of them."""

    def __init__(self, model: torch.nn.Module, rank: int, world: int) -> None:
        named = list(model.named_parameters())
        self.rank, self.world = rank, world
        self.matrices = [p for name, p in named if name.split(".")[-1] in MATRICES]
        self.others = [p for name, p in named if name.split(".")[-1] not in MATRICES]
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.adam = torch.optim.Adam(
            self.others, lr=OTHER_RATE, betas=(0.9, 0.98), fused=True
        )

    @torch.no_grad()
    def step(self, factor: float) -> float:
        """Update with both rates times `factor`; return Adam's gradient norm."""
        self._mean_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.others, CLIP)
        for group in self.adam.param_groups:
            group["lr"] = OTHER_RATE * factor
        self.adam.step()
        updates = [self._own_update(i) for i in range(len(self.matrices))]
        self._share(updates)
        for matrix, update in zip(self.matrices, updates, strict=True):
            rows, columns = matrix.shape[-2:]
            scale = MATRIX_RATE * factor * max(1, rows / columns) ** 0.5
            matrix.mul_(1 - MATRIX_RATE * factor * DECAY).add_(update, alpha=-scale)
        for parameter in (*self.matrices, *self.others):
            parameter.grad = None
        return float(norm)

    def _own_update(self, index: int) -> Tensor:
        """Compute this process's share of the layers, with zeros for the others."""
        matrix, momentum = self.matrices[index], self.momentum[index]
        momentum.mul_(MOMENTUM).add_(matrix.grad, alpha=1 - MOMENTUM)
        if index // 4 % self.world != self.rank:  # four tensors to a layer
            return torch.zeros_like(matrix)
        ahead = matrix.grad * (1 - MOMENTUM) + momentum * MOMENTUM
        return orthogonal(ahead.reshape(-1, *matrix.shape[-2:])).view_as(matrix)

    def _mean_gradients(self) -> None:
        if self.world == 1:
            return
        parameters = (*self.matrices, *self.others)
        flat = torch.cat([p.grad.reshape(-1) for p in parameters])
        dist.all_reduce(flat)
        parts = (flat / self.world).split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def _share(self, updates: list[Tensor]) -> None:
        if self.world == 1:
            return
        flat = torch.cat([update.reshape(-1) for update in updates])
        dist.all_reduce(flat)
        parts = flat.split([update.numel() for update in updates])
        updates[:] = [part.view_as(u) for part, u in zip(parts, updates, strict=True)]

    def state(self) -> dict:
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load(self, state: dict) -> None:
        self.momentum = state["momentum"]
        self.adam.load_state_dict(state["adam"])
