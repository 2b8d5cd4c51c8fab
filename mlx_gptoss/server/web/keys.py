"""The key in the link to the page, and the signed cookie that it is exchanged for.

    keys = PageKeys(read_secret(folder))
    link = f"{url}/#k={keys.make_key()}"
    cookie = keys.sign_in(key)              # None for a wrong key
    keys.session_of(cookie)                 # the name of the session, or None

The key stands in the fragment of the link, which browsers do not send. A cookie is
valid until it expires, also after a restart if the secret was kept. Knows no HTTP.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from mlx_gptoss.errors import StorageError
from mlx_gptoss.files import make_folder, write

SECRET_FILE = "page-secret"
SECRET_BYTES, KEY_BYTES, SESSION_BYTES = 32, 24, 12
DAYS = 30  # that a cookie is valid
SESSION_SECONDS = DAYS * 86400
MOST_KEYS = 64  # links that are good once, and were not used


def read_secret(folder: Path) -> bytes:
    """Return the secret kept in a folder; make one if there is none.

    Raises StorageError if it can be neither read nor written.
    """
    path = folder / SECRET_FILE
    try:
        kept = bytes.fromhex(path.read_text("ascii").strip())
    except FileNotFoundError:
        kept = b""
    except (OSError, ValueError) as error:
        raise StorageError(
            f"the secret of the page in `{path}` cannot be read: delete it"
        ) from error
    if len(kept) == SECRET_BYTES:
        return kept
    made = secrets.token_bytes(SECRET_BYTES)
    make_folder(folder)
    write(path, made.hex() + "\n")
    return made


class PageKeys:
    """Keys for links, and sessions. Without a `secret`, sessions end with the server.

    `clock` returns seconds since 1970.
    """

    def __init__(
        self, secret: bytes | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._secret = secret or secrets.token_bytes(SECRET_BYTES)
        self._clock = clock
        self._keys: dict[str, bool] = {}  # hash of a key: whether it is good once only
        self._ended: set[str] = set()

    def make_key(self, *, once: bool = True) -> str:
        """Return a key for a link; it can be used once, or until the server ends."""
        key = secrets.token_urlsafe(KEY_BYTES)
        unused = [digest for digest, once in self._keys.items() if once]
        if len(unused) >= MOST_KEYS:
            del self._keys[unused[0]]
        self._keys[_digest(key)] = once
        return key

    def sign_in(self, key: str) -> str | None:
        """Exchange a key for the value of a cookie; None for a wrong key."""
        digest = _digest(key)
        once = self._keys.get(digest)
        if once is None:
            return None
        if once:
            del self._keys[digest]
        name = secrets.token_urlsafe(SESSION_BYTES)
        text = f"{name}.{int(self._clock() + SESSION_SECONDS)}"
        return f"{text}.{self._signature(text)}"

    def session_of(self, cookie: str | None) -> str | None:
        """Return the session of a cookie; None if it is forged, expired or ended."""
        text, _, signature = (cookie or "").rpartition(".")
        if not hmac.compare_digest(
            signature.encode("utf-8", "replace"), self._signature(text).encode()
        ):
            return None
        name, _, expires = text.rpartition(".")
        if not expires.isdigit() or int(expires) <= self._clock():
            return None
        return None if name in self._ended else name

    def sign_out(self, session: str) -> None:
        """End a session before it expires."""
        self._ended.add(session)

    def has_ended(self, session: str) -> bool:
        """Whether a session was signed out."""
        return session in self._ended

    def _signature(self, text: str) -> str:
        return hmac.new(
            self._secret, text.encode("utf-8", "replace"), hashlib.sha256
        ).hexdigest()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
