"""A folder of notes for the browser, with files that it must not show."""

from pathlib import Path


def write_notes(tmp_path: Path) -> Path:
    """Write `notes`, and a file outside it; return the folder."""
    root = tmp_path / "notes"
    (root / "trips").mkdir(parents=True)
    (root / "trips" / "oslo.md").write_text(
        "# Oslo in May\n\nThe ferry to the islands goes hourly.\n"
        "See [the packing list](../packing.txt), [home](https://example.com),\n"
        "![map](map.png) and [nothing](gone.md).\n"
    )
    (root / "packing.txt").write_text("rain coat\nferry ticket\n")
    (root / "page.html").write_text(
        "<html><head><title>A  page</title><style>p {}</style><body>"
        "<h1>Head</h1><p>One <b>two</b>\n three</p><script>bad()</script>"
        "<ul><li><p>first</p></li><li><a href='trips/oslo.md'><h3>Go</h3></a></ul>"
        "<table><tr><td>a</td><td>b</td></tr></table>"
        "<pre>x\n  y</pre>fish &amp; 【chips】"
    )
    (root / ".secret").write_text("ferry password")
    (tmp_path / "outside.txt").write_text("ferry outside")
    (root / "out.txt").symlink_to(tmp_path / "outside.txt")
    (root / "up").symlink_to(tmp_path)
    (root / "data.bin").write_bytes(b"ferry\0\1")
    return root
