"""Run stock mlx-lm's server on a folder, in a process of its own.

    stock_server FOLDER PORT DTYPE

It is their server, loader, generator and caches. Three things are lent: the BLAS that
our side has, the dtype of activations (theirs would be the checkpoint's, which a CPU
is slow in), and a chat template by which they read the very tokens that we read:
a message's `content` is Harmony already, but for a user's, so that their search for
the end of the system block works as it does with the published template.
"""

import sys
from typing import Any

from mlx_gptoss.model.blas import preload_blas

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|start|>user<|message|>"
    "{{ m.content }}<|end|>{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
HOST = "127.0.0.1"


def main(folder: str, port: str, dtype: str) -> None:
    """Serve until killed."""
    preload_blas()
    import mlx.core as mx  # noqa: PLC0415 - after the BLAS
    from mlx_lm import server, utils

    stock_load = utils.load_model

    def load_in_dtype(*args: Any, **options: Any) -> Any:
        model, config = stock_load(*args, **options)
        model.set_dtype(getattr(mx, dtype))
        return model, config

    utils.load_model = load_in_dtype
    options = ["--host", HOST, "--port", port, "--log-level", "WARNING"]
    options += ["--chat-template", TEMPLATE, "--temp", "0"]
    sys.argv = ["mlx_lm.server", "--model", folder, *options]
    server.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
