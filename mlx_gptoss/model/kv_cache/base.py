"""A base: the keys and values of the first tokens of several rows, stored once."""

from mlx_gptoss.model.kv_cache.slabs import Move, Slabs
from mlx_gptoss.model.kv_cache.snapshot import KeysValues


class Base:
    """A slot of the full layers that rows read and nobody writes.

    It is freed when the last of its `users` has left.
    """

    def __init__(self, slabs: Slabs, length: int) -> None:
        self.slabs = slabs
        self.slot = 0
        self.length = length  # tokens
        self.users = 0

    @property
    def capacity(self) -> int:
        """Tokens that its slot has room for."""
        return self.slabs.capacity

    def leave(self) -> None:
        """Count one user less."""
        self.users -= 1
        if not self.users:
            self.slabs.free(self.slot, self.slabs.capacity)

    def view(self, layer: int, length: int) -> KeysValues:
        """Return the first `length` tokens (1, Hk, length, D), not copied."""
        return self.slabs.view(layer, self.slot, self.slot + 1, length)

    def compact(self, slabs: Slabs) -> None:
        """Move to the first free slot of the same slabs."""
        to = slabs.take(self)
        slabs.hand_over([Move(self.slot, to, 0, self.length)], slabs)
        self.slot = to
