"""Reasoning as an opaque string that clients store and send back.

    blob = seal("I work in columns.")
    unseal(blob)            # the text; None if another server made the blob

It is not encrypted: most replies contain the same text in the open. It is for clients
that keep only `encrypted_content` or a `signature`.
"""

import base64
import binascii
import zlib
from typing import Any

BLOB_PREFIX = "mlxg1."
CHECK_BYTES = 4


def seal(text: str) -> str:
    """Encode a text with a checksum."""
    data = text.encode("utf-8", "replace")
    check = zlib.crc32(data).to_bytes(CHECK_BYTES, "big")
    return BLOB_PREFIX + base64.urlsafe_b64encode(check + data).decode()


def unseal(blob: str) -> str | None:
    """Return the text, or None if the blob is another server's or damaged."""
    if not blob.startswith(BLOB_PREFIX):
        return None
    try:
        raw = base64.b64decode(blob[len(BLOB_PREFIX) :], altchars=b"-_", validate=True)
        check, data = raw[:CHECK_BYTES], raw[CHECK_BYTES:]
        text = data.decode()
    except (binascii.Error, ValueError):
        return None
    return text if zlib.crc32(data).to_bytes(CHECK_BYTES, "big") == check else None


def unseal_parts(content: Any) -> Any:
    """Return the parts of a content with sealed parts replaced by text.

    Codex labels arguments as encrypted that OpenAI's server would have encrypted: from
    this server they are plain text.
    """
    if not isinstance(content, list):
        return content
    return [_unseal_part(part) for part in content]


def _unseal_part(part: Any) -> Any:
    blob = part.get("encrypted_content") if isinstance(part, dict) else None
    if not isinstance(blob, str):
        return part
    return {"type": "input_text", "text": unseal(blob) or blob}
