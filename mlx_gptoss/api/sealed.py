"""Reasoning as an opaque text, which a client keeps and gives back unread.

    blob = seal("I work in columns.")
    unseal(blob)            # the text; None for a blob that another program made

Nothing is secret in it: the same text stands beside it in most replies. What it is
for are clients that keep only `encrypted_content`, or a `signature`.
"""

import base64
import binascii
import zlib
from typing import Any

PREFIX = "mlxg1."
CHECK_BYTES = 4


def seal(text: str) -> str:
    data = text.encode("utf-8", "replace")
    check = zlib.crc32(data).to_bytes(CHECK_BYTES, "big")
    return PREFIX + base64.urlsafe_b64encode(check + data).decode()


def unseal(blob: str) -> str | None:
    """Return the text, or None for what is foreign or damaged."""
    if not blob.startswith(PREFIX):
        return None
    try:
        raw = base64.b64decode(blob[len(PREFIX) :], altchars=b"-_", validate=True)
        check, data = raw[:CHECK_BYTES], raw[CHECK_BYTES:]
        text = data.decode()
    except (binascii.Error, ValueError):
        return None
    return text if zlib.crc32(data).to_bytes(CHECK_BYTES, "big") == check else None


def unseal_parts(content: Any) -> Any:
    """Return parts of a content with plain text where a sealed one stood.

    Codex calls an argument sealed that OpenAI's server would have sealed: from this
    one, it is the text itself.
    """
    if not isinstance(content, list):
        return content
    return [_unsealed(part) for part in content]


def _unsealed(part: Any) -> Any:
    blob = part.get("encrypted_content") if isinstance(part, dict) else None
    if not isinstance(blob, str):
        return part
    return {"type": "input_text", "text": unseal(blob) or blob}
