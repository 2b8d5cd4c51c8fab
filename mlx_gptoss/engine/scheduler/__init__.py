"""Continuous batching: many requests computed together, in the engine thread.

request.py        one request: its prompt, callbacks and state
waiting_queue.py  requests not admitted yet, first in, first out
admission.py      admit, queue or refuse a request
kv_budget.py      which sequences fit at once, by bytes of keys and values
prefill_queue.py  prefill order: round-robin by chunk
masks.py          requests that wait for a token mask
decode_step.py    one batched decode step
scheduler.py      iterations: admit, prefill a chunk, decode one token per row
options.py        limits
statistics.py     counts
"""

from mlx_gptoss.engine.scheduler.kv_budget import KVBudget
from mlx_gptoss.engine.scheduler.options import BatchOptions
from mlx_gptoss.engine.scheduler.request import Request
from mlx_gptoss.engine.scheduler.scheduler import Scheduler
from mlx_gptoss.engine.scheduler.statistics import BatchStatistics

__all__ = ["BatchOptions", "BatchStatistics", "KVBudget", "Request", "Scheduler"]
