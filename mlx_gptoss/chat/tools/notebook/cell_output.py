"""Collect output of any length: the start and the end are kept."""

MAX_OUTPUT_BYTES = 16_000  # half from the start, half from the end


class CellOutput:
    """The output of one cell."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def add(self, data: bytes) -> None:
        room = MAX_OUTPUT_BYTES // 2 - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        over = len(self._tail) - MAX_OUTPUT_BYTES // 2
        if over > 0:
            del self._tail[:over]
            self._dropped += over

    @property
    def text(self) -> str:
        parts = [bytes(self._head), bytes(self._tail)]
        if self._dropped:
            parts.insert(1, f"\n[... {self._dropped} bytes left out ...]\n".encode())
        return b"".join(parts).decode("utf-8", "replace")
