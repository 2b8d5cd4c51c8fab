"""The model that a server masks private text with, beside those that answer."""

from dataclasses import dataclass

from mlx_gptoss.workloads.redact import Redactor


@dataclass(frozen=True)
class ServedRedactor:
    """A loaded redactor, and its model's name for clients."""

    name: str
    redactor: Redactor

    def close(self) -> None:
        """Free the model's memory."""
        self.redactor.close()
