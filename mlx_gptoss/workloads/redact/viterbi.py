"""The best path of labels under constraints: Viterbi's algorithm.

The score of a path is the sum of its logits and of its transitions. A path that is not
allowed, such as an I behind O, has no score, so that spans are always whole. With
transitions of 0, and logits that are log-probabilities, it is the likeliest of all
allowed paths under independent tokens.
"""

import numpy as np

from mlx_gptoss.workloads.redact.labels import Biases, LabelScheme


class LabelDecoder:
    """Finds the best path of labels of a scheme under some biases."""

    def __init__(self, scheme: LabelScheme, biases: Biases | None = None) -> None:
        self.scheme = scheme
        # To a row from a column, so that the best predecessor is along the last axis.
        self._into = np.ascontiguousarray(scheme.transitions(biases or Biases()).T)
        self._starts, self._ends = scheme.starts(), scheme.ends()
        self._rows = np.arange(len(scheme.labels))

    def decode(self, logits: np.ndarray) -> np.ndarray:
        """Return the best path (L,) of logits (L, C) float32.

        Memory: two bytes for each logit. Equal scores take the label of lower number.
        """
        length, labels = logits.shape
        if length == 0:
            return np.zeros(0, np.intp)
        before = np.empty((length, labels), np.uint16)
        score = logits[0] + self._starts
        for place in range(1, length):
            candidates = self._into + score
            best = candidates.argmax(axis=1)
            before[place] = best
            score = candidates[self._rows, best]
            score += logits[place]
            score -= score.max()  # the sum of a long text would lose digits
        path = np.empty(length, np.intp)
        path[-1] = (score + self._ends).argmax()
        for place in range(length - 1, 0, -1):
            path[place - 1] = before[place, path[place]]
        return path
