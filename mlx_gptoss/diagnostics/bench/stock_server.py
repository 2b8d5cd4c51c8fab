"""Run stock mlx-lm's server on a folder; the program of a child process.

    stock_server FOLDER PORT DTYPE

Server, loader, generator and caches are mlx-lm's. Three things are ours: the BLAS, the
dtype of activations (the checkpoint's would be slow on a CPU), and a chat template
that produces exactly our prompt tokens. A message's `content` is Harmony already,
except a user's, so that mlx-lm finds the end of the system block as it does with the
published template.
"""

import sys
from typing import Any

from mlx_gptoss.diagnostics.bench.streams import LOOPBACK
from mlx_gptoss.model.blas import preload_blas

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|start|>user<|message|>"
    "{{ m.content }}<|end|>{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


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
    options = ["--host", LOOPBACK, "--port", port, "--log-level", "WARNING"]
    options += ["--chat-template", TEMPLATE, "--temp", "0"]
    sys.argv = ["mlx_lm.server", "--model", folder, *options]
    server.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
