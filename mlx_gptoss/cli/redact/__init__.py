"""`mlx-gptoss redact` masks what is private in texts, `unredact` puts it back."""

from mlx_gptoss.cli.redact.redact import redact
from mlx_gptoss.cli.redact.unredact import unredact

__all__ = ["redact", "unredact"]
