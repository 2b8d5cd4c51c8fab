"""Keys of links, cookies of sessions, and what is said about the page."""

import stat
from pathlib import Path

import pytest

from mlx_gptoss.cli.web_page import show_link
from mlx_gptoss.errors import StorageError
from mlx_gptoss.server.models import Models, ModelSource
from mlx_gptoss.server.web.keys import (
    SECRET_FILE,
    SESSION_SECONDS,
    PageKeys,
    read_secret,
)
from mlx_gptoss.server.web.memory_store import MemoryStore
from mlx_gptoss.server.web.page import WebPage


def test_a_secret_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    made = read_secret(folder)

    assert read_secret(folder) == made and len(made) == 32
    file = folder / SECRET_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("no number")
    with pytest.raises(StorageError, match="delete it"):
        read_secret(folder)


def test_a_session_outlives_the_server_but_not_its_time() -> None:
    now = 1e9
    first = PageKeys(b"s" * 32, clock=lambda: now)
    cookie = first.sign_in(first.make_key())
    later = PageKeys(b"s" * 32, clock=lambda: now)
    name = later.session_of(cookie)

    assert name is not None and first.session_of(cookie) == name
    assert PageKeys(clock=lambda: now).session_of(cookie) is None
    for wrong in (None, "", "a.b", f"x{cookie}", f"{cookie}0", "é.9999999999.1"):
        assert later.session_of(wrong) is None
    now += SESSION_SECONDS
    assert later.session_of(cookie) is None
    now -= 1
    later.sign_out(name)
    assert later.session_of(cookie) is None


def test_a_link_is_good_once_unless_it_was_printed() -> None:
    keys = PageKeys()
    once, printed = keys.make_key(), keys.make_key(once=False)

    assert keys.sign_in(once) and keys.sign_in(once) is None
    assert keys.sign_in(printed) and keys.sign_in(printed)
    for _ in range(200):
        keys.make_key()
    assert keys.sign_in(printed)  # links that nobody used do not push it out


def test_no_key_is_written_where_it_may_be_logged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(opened.append(url)) or True)

    def load() -> None:
        raise AssertionError

    models = Models([ModelSource("demo", load)])  # pyright: ignore[reportArgumentType]
    page = WebPage(models, MemoryStore(), PageKeys())
    show_link(page, browse=True, chat="abc")("http://127.0.0.1:8080")

    assert capsys.readouterr().err == (  # no terminal
        "Chat page: http://127.0.0.1:8080/ (in the browser, which this signs in)\n"
    )
    [url] = opened
    key = url.removeprefix("http://127.0.0.1:8080/#k=").removesuffix("&c=abc")
    assert page.keys.sign_in(key)


@pytest.mark.parametrize(
    ("browse", "said"), [(False, "--open signs a browser in"), (True, "in a terminal")]
)
def test_without_a_terminal_it_is_said_how_to_sign_in(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    browse: bool,
    said: str,
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    models = Models([ModelSource("demo", lambda: pytest.fail("it is not loaded"))])
    page = WebPage(models, MemoryStore(), PageKeys())
    show_link(page, browse=browse)("http://127.0.0.1:8080")

    written = capsys.readouterr().err
    assert said in written.splitlines()[-1] and "k=" not in written
