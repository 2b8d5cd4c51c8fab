"""The browser reads files below the folders that were named, and no others."""

import os
import socket
from pathlib import Path

import pytest

from mlx_gptoss.chat.tools.browser import Browser, Folders
from mlx_gptoss.chat.tools.browser.folders import _list_folder, _read_text
from mlx_gptoss.errors import ToolError
from tests.support.notes_folder import write_notes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_notes(tmp_path)


@pytest.fixture
def browser(folder: Path) -> Browser:
    return Browser(Folders(folder))


# No way out of the folder


@pytest.mark.parametrize(
    "address",
    [
        "../outside.txt",
        "trips/../../outside.txt",
        "/etc/passwd",
        "out.txt",
        "up/outside.txt",
        "up",
        "up/notes/../outside.txt",
        "..",
    ],
)
def test_nothing_outside_the_folder_is_read(browser: Browser, address: str) -> None:
    with pytest.raises(ToolError, match=r"is outside the folders|there is no"):
        browser.open(address)


@pytest.mark.parametrize(
    "address", [".secret", "./.secret", "trips/.hidden/x", "a\0b", "", "file:///etc"]
)
def test_hidden_and_odd_names_are_not_there(folder: Path, address: str) -> None:
    if address:
        with pytest.raises(ToolError):
            Folders(folder).open(address)
    assert ".secret" not in Folders(folder).open("").text


def test_a_pipe_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    with pytest.raises(ToolError, match=r"there is no `pipe.txt`"):
        Folders(folder).open("pipe.txt")
    Folders(folder).search("ferry", 5)  # and does not hang


@pytest.fixture
def odd(folder: Path) -> Path:
    """The folder with unusual entries."""
    (folder / "loop").symlink_to("loop")
    (folder / "there").symlink_to("back")
    (folder / "back").symlink_to("there")
    (folder / "trips" / "round").symlink_to("../trips")
    (folder / "gone").symlink_to("nowhere")
    (folder / "line\nbreak.txt").write_text("ferry")
    (folder / os.fsdecode(b"bytes\xff.txt")).write_text("ferry")
    (folder / "large.txt").write_bytes(b"ferry " * (1 << 20))
    os.mkfifo(folder / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
    return folder


def test_odd_neighbours_do_not_hide_a_folder(odd: Path) -> None:
    browser = Browser(Folders(odd))
    listed = browser.open("")
    found = browser.search("ferry")

    assert "trips/" in listed and "packing.txt" in listed and "large.txt" in listed
    assert "packing.txt" in found
    for name in ("loop", "there", "gone", "pipe", "socket", "break", "bytes"):
        assert name not in listed + found


@pytest.mark.parametrize("address", ["loop", "there/x", "gone", "pipe.txt", "socket"])
def test_what_is_no_file_is_not_there(odd: Path, address: str) -> None:
    with pytest.raises(ToolError, match="there is no"):
        Folders(odd).open(address)


def test_half_a_pair_in_an_address_is_no_file(folder: Path) -> None:
    with pytest.raises(ToolError, match="no file with a name that is not text"):
        Folders(folder).open("trips/\ud800")
    with pytest.raises(ToolError, match="cannot read 'a"):
        Folders("a\0b")


@pytest.mark.parametrize("name", ["loop", "pipe.txt", "socket", "gone"])
def test_no_browser_begins_with_what_is_no_folder(odd: Path, name: str) -> None:
    with pytest.raises(ToolError, match=f"cannot read `.*{name}`: "):
        Folders(odd / name)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_read(odd: Path) -> None:
    with pytest.raises(ToolError, match="it is not a regular file"):
        _read_text(odd / "pipe.txt", "packing.txt")


def test_what_vanishes_is_said(folder: Path) -> None:
    with pytest.raises(ToolError, match="`x` cannot be read: No such file"):
        _read_text(folder / "x", "x")
    with pytest.raises(ToolError, match="`x` cannot be read: No such file"):
        _list_folder(folder / "x", "x")


def test_a_search_sees_neither_hidden_nor_outside_files(browser: Browser) -> None:
    text = browser.search("ferry")
    assert "packing.txt" in text and "oslo.md" in text
    for name in ("secret", "outside", "out.txt", "up/", "data.bin"):
        assert name not in text


def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"cannot read `.*/gone`: No such file"):
        Folders(tmp_path / "gone")
