"""Continuous batching: many requests computed together, in the engine thread.

request.py        a request: the prompt, settings and callbacks
generation.py     what the caller holds of it
scheduler.py      submit and wait; iterations
lifecycle.py      admit, preempt and finish sequences
waiting_queue.py  sequences not admitted yet, first in, first out
admission.py      admit, queue or refuse a sequence
kv_budget.py      which sequences fit at once, by bytes of keys and values
cache_memory.py   whether the running sequences can grow
batch.py          what is in a forward pass, and what follows from it
prefill_queue.py  prefill order: the prompt that ends soonest
prefill_pace.py   how many prompt tokens a pass reads
masks.py          sequences that wait for a token mask
forward_pass.py   one forward pass
sampling.py       the next tokens of a pass
idle_work.py      prompts to prefill in idle time
options.py        limits
statistics.py     counts
"""

from mlx_gptoss.engine.scheduler.generation import Generation
from mlx_gptoss.engine.scheduler.kv_budget import KVBudget
from mlx_gptoss.engine.scheduler.options import BatchOptions
from mlx_gptoss.engine.scheduler.request import Request
from mlx_gptoss.engine.scheduler.scheduler import Scheduler
from mlx_gptoss.engine.scheduler.statistics import BatchStatistics

__all__ = [
    "BatchOptions",
    "BatchStatistics",
    "Generation",
    "KVBudget",
    "Request",
    "Scheduler",
]
