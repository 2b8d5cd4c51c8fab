"""Documents packed one after another into one sequence, each attending only to itself.

Training computes many short documents at once this way, without padding. There is no
cache: every document starts at position 0.
"""

from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx

Attend = Callable[[mx.array, mx.array, mx.array], mx.array]


class Documents:
    """The lengths of packed documents; N tokens in total."""

    def __init__(self, lengths: Sequence[int]) -> None:
        assert lengths and min(lengths) > 0, f"{lengths=}"
        self.lengths = tuple(lengths)

    @property
    def positions(self) -> list[int]:
        """The position of every token in its own document."""
        return [position for length in self.lengths for position in range(length)]

    def attend(self, q: mx.array, k: mx.array, v: mx.array, attend: Attend) -> mx.array:
        """Attend document by document.

        q (N, H, 1, D), k and v (N, Hk, 1, D) -> (1, N, H, D).
        """
        q, k, v = (x.swapaxes(0, 2) for x in (q, k, v))  # (1, H or Hk, N, D)
        outputs = [
            attend(q[:, :, own], k[:, :, own], v[:, :, own]) for own in self._slices()
        ]
        y = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)
        return y.swapaxes(1, 2)

    def _slices(self) -> Iterator[slice]:
        start = 0
        for length in self.lengths:
            yield slice(start, start + length)
            start += length
