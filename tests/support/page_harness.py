"""The page's rendering of text alone, in a Chromium: for tests of Markdown.

    harness = open_harness(chromium)
    harness.grown(["# T", "# Title\n"])     # HTML after it grew so
    harness.whole("# Title\n")              # HTML of the text at once

Bundled from the source by esbuild, one of the packages of the page.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.page_build import PACKAGES, SOURCE, VARIABLE
from tests.support.web_browser import Chromium

ENTRY = """
import { h, render } from "preact";
import { Text } from "./text";

const settled = () => new Promise((done) => setTimeout(done, 0));
const show = (root, text, streaming) =>
  render(h(Text, { text, streaming, cite: () => {} }), root);

globalThis.grown = async (texts) => {
  const root = document.createElement("div");
  for (const text of texts) show(root, text, true);
  show(root, texts.at(-1), false);
  await settled();
  return root.innerHTML;
};
globalThis.warm = async () => {
  await grown(["```python\\nx\\n```\\n\\n$x$"]);
  await settled();
};
globalThis.longest = (text, step) => {
  const root = document.body.appendChild(document.createElement("div"));
  let longest = 0;
  for (let end = step; end < text.length + step; end += step) {
    const began = performance.now();
    show(root, text.slice(0, end), true);
    root.getBoundingClientRect();
    longest = Math.max(longest, performance.now() - began);
  }
  root.remove();
  return longest;
};
"""
OPTIONS = (
    "--bundle",
    "--format=iife",
    "--loader=tsx",
    "--jsx=automatic",
    "--jsx-import-source=preact",
    "--log-level=warning",
)


@dataclass(frozen=True)
class Harness:
    """A tab that shows text as the page does."""

    page: Any

    def grown(self, texts: list[str]) -> str:
        """Return the HTML of a text that grew through `texts`."""
        return self.page.evaluate("(texts) => grown(texts)", texts)

    def whole(self, text: str) -> str:
        """Return the HTML of a text that is there at once."""
        return self.grown([text])

    def longest_redraw(self, text: str, step: int) -> float:
        """Return the longest redraw in milliseconds while a text grows by `step`."""
        return self.page.evaluate("([text, step]) => longest(text, step)", [text, step])


def open_harness(chromium: Chromium) -> Harness:
    """Open a tab. Skips the test without the packages of the page."""
    packages = Path(os.environ.get(VARIABLE, "-")) / "page" / PACKAGES
    program = packages / ".bin" / "esbuild"
    if not program.exists():
        pytest.skip(f"the packages of the page are not here: set {VARIABLE}")
    bundled = subprocess.run(
        [program, *OPTIONS],
        cwd=SOURCE / "src",
        env={**os.environ, "NODE_PATH": str(packages)},
        input=ENTRY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    page = chromium.context.new_page()
    page.evaluate(bundled)
    page.evaluate("warm()")
    return Harness(page)
