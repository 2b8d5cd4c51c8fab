"""The tokenizer of a runtime and its guides, opened on first use. Thread-safe."""

import threading
from pathlib import Path

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.guide_factory import GuideFactory
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.file_names import TOKENIZER_FILE


class LazyTokenizer:
    """A tokenizer, the folder to open it from, or None."""

    def __init__(self, source: Tokenizer | Path | None) -> None:
        self._source = source
        self._guides: GuideFactory | None = None
        self._lock = threading.Lock()

    @property
    def available(self) -> bool:
        """Whether there is a tokenizer to open."""
        source = self._source
        if isinstance(source, Path):
            return (source / TOKENIZER_FILE).is_file()
        return source is not None

    def open(self) -> Tokenizer:
        """Return the tokenizer. Raises CheckpointError if it cannot be opened."""
        with self._lock:
            if isinstance(self._source, Path):
                self._source = Tokenizer.open(self._source)
            if self._source is None:
                raise CheckpointError(
                    "this runtime was made without a tokenizer: pass `tokenizer=`"
                )
            return self._source

    def guides(self) -> GuideFactory:
        """Return the factory of guides. Raises PromptError without Harmony tokens."""
        tokenizer = self.open()
        tokenizer.require_harmony()
        with self._lock:
            self._guides = self._guides or GuideFactory(tokenizer)
            return self._guides

    def close(self) -> None:
        """Release the process that compiles grammars."""
        if self._guides is not None:
            self._guides.close()
