"""The built files of the page: they are what its source gives, small, and local."""

import json
import re
import shutil

import pytest

from tests.support.page_build import ASSETS, SOURCE, PageBuildError, built_page

MOST_BYTES = 1_500_000
ADDRESS = re.compile(r"https?://[\w.-]+")
KNOWN_ADDRESSES = {  # names of languages of markup, and where to report a mistake
    "http://www.w3.org",
    "https://github.com",
}


def test_the_page_is_small_and_has_nothing_but_its_files() -> None:
    files = sorted(path.name for path in ASSETS.iterdir())

    assert files == [
        "highlighter.js",
        "icon.svg",
        "index.html",
        "katex.js",
        "licenses.txt",
        "page.css",
        "page.js",
    ]
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < MOST_BYTES


def test_the_page_names_no_other_server_and_has_no_script_in_it() -> None:
    index = (ASSETS / "index.html").read_text()
    for tag in re.findall(r"<script[^>]*>[^<]*</script>|<link[^>]*>", index):
        assert re.search(r'(src|href)="/web/assets/[\w.]+"', tag), tag
    assert "<style" not in index and " style=" not in index
    for name in ("page.js", "highlighter.js", "katex.js", "page.css"):
        text = (ASSETS / name).read_text()
        found = {one.lower() for one in ADDRESS.findall(text)}
        assert found <= KNOWN_ADDRESSES, (name, found)


def test_the_source_makes_no_html_of_text() -> None:
    sinks = re.compile(r"inner_?html|outerHTML|insertAdjacent|document\.write", re.I)
    sources = [path.read_text() for path in (SOURCE / "src").iterdir()]

    assert len(sources) > 10
    assert [found for text in sources for found in sinks.findall(text)] == []


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((SOURCE / "package-lock.json").read_text())
    entries = [one for name, one in lock["packages"].items() if name]

    assert entries and all("integrity" in one for one in entries)
    assert [one for one in entries if "resolved" in one] == []


def test_the_built_files_are_what_the_source_gives() -> None:
    """To build them anew: python -m tests.support.page_build."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm is not here: the page cannot be built again")
    try:
        with built_page() as built:
            again = {path.name: path.read_bytes() for path in built.iterdir()}
    except PageBuildError as error:
        if "npm ci" in str(error):
            pytest.skip(f"the packages of the page could not be installed: {error}")
        raise
    here = {path.name: path.read_bytes() for path in ASSETS.iterdir()}
    assert sorted(again) == sorted(here)
    assert [name for name in here if again[name] != here[name]] == []
