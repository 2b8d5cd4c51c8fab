"""Grammars from clients, in a process of their own, where native code may fail.

    grammars = WorkerGrammars(tokenizer)
    grammar = grammars.compile("arguments", schema, what="the arguments of `f`")
    matcher = grammars.matcher(grammar)
    matcher.start_mask()             # start to compute the next mask
    matcher.token_mask(vocab_size)   # wait for it: bool for every id
    matcher.accept(token)

The interface of `constrain.grammar`, which works in this process. A schema or grammar
can overflow the library's stack, take a second per token, or gigabytes: then the
process dies or is killed, the text with that grammar ends or goes on unconstrained, and
all others are replayed in a new process.

    client (the interface for the engine)
      └ supervisor (which tasks run, for how long, and which to blame)
          └ process (one process: start, pipe, masks, end)
              └ child (the code that runs in it)
"""

from mlx_gptoss.harmony.constrain.worker.client import (
    GrammarLostError,
    WorkerGrammars,
    WorkerMatcher,
    can_enforce,
)

__all__ = ["GrammarLostError", "WorkerGrammars", "WorkerMatcher", "can_enforce"]
