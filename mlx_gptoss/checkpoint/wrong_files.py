"""Explain files whose bytes are not what their names say, and what to do.

Downloading again helps only where bytes are missing: a file that is cut short, or has
zeros where data should be. Knows the first bytes of files, nothing of their content.
"""

CUT_SHORT = "the file is cut short, download it again"
FAULTY_WRITER = (
    "no byte is missing, so a tool wrote it wrongly: save the model again, or use "
    "another copy of it"
)
NOT_NUMBERS = (
    "training that diverged leaves such values, and so does a cast to a format that "
    "cannot hold them: use an earlier save, or the checkpoint it was made from"
)
# First bytes of files that lie under another's name.
KINDS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    (
        (b"version https://git-lfs",),
        "is a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    (
        (b"<!", b"<html", b"<HTML", b"<?xml"),
        "is a web page, which a server sent instead of the file, perhaps because it "
        "wants a token: fetch the model with `mlx-gptoss pull`",
    ),
    ((b"GGUF",), "is a GGUF: convert it with `mlx-gptoss convert FILE DST`"),
    (
        (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04"),
        "is pickled or an archive, which is not read, for safety: save the model as "
        "safetensors",
    ),
)


def describe_start(first: bytes) -> str | None:
    """Say what a file with these first bytes is; None if they show nothing."""
    if first and not first.strip(b"\0"):
        return f"begins with zeros, as a download that was stopped does: {CUT_SHORT}"
    starts = first.lstrip()
    return next((what for known, what in KINDS if starts.startswith(known)), None)
