"""Limits of a batch."""

from dataclasses import dataclass

from mlx_gptoss.errors import ConfigError

DEFAULT_RUNNING, DEFAULT_WAITING, DEFAULT_FAIRNESS = 16, 64, 0.25


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Limits of the requests of `Runtime.submit`.

    max_running: most requests computed at once.
    max_waiting: most requests in the queue; more are refused with BusyError.
    kv_memory: most bytes of keys and values of the running requests; None takes what
        the memory plan of the model leaves for them.
    fairness: the share of its pace that an answer keeps while prompts of others are
        read, from 0 (prompts first) up to, but not including, 1.

    Raises ConfigError for a value out of range.
    """

    max_running: int = DEFAULT_RUNNING
    max_waiting: int = DEFAULT_WAITING
    kv_memory: int | None = None
    fairness: float = DEFAULT_FAIRNESS

    def __post_init__(self) -> None:
        for name, least in (("max_running", 1), ("max_waiting", 0)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"`{name}` is {getattr(self, name)}, expected {least} or more"
                )
        if not 0 <= self.fairness < 1:
            raise ConfigError(
                f"`fairness` is {self.fairness}, expected 0 or more and less than 1"
            )
