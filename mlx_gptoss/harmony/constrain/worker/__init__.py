"""Grammars that callers send, in a process of their own: native code may fail there.

    grammars = Grammars(tokenizer)
    grammar = grammars.compile("arguments", schema, what="the arguments of `f`")
    matcher = grammars.matcher(grammar)
    matcher.look()                   # begin to work out what may come next
    matcher.allowed(vocab_size)      # wait for it: bool for every id
    matcher.feed(token)

The same as `harmony.grammar`, which does the work in the process. A schema or grammar
can overflow the library's stack, ask for a second of a token, or for gigabytes: then
the process dies or is killed, the text that asked for it ends or goes on free, and all
others are followed again in a new process (`supervisor`).

    grammars (what the engine uses)
      └ supervisor (what runs, for how long, and who is to blame)
          └ life (one process: its start, its pipe, its masks, its end)
              └ child (what runs in there)
"""

from mlx_gptoss.harmony.constrain.worker.client import (
    GrammarLostError,
    WorkerGrammars,
    WorkerMatcher,
    can_enforce,
)

__all__ = ["GrammarLostError", "WorkerGrammars", "WorkerMatcher", "can_enforce"]
