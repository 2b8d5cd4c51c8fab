"""The chat while an answer is written, as docs/pictures/terminal.svg shows it.

MLX_GPTOSS_UPDATE_PICTURES=1 pytest tests/cli/test_chat_picture.py    # draw it again
"""

import json
import os
import sys
from pathlib import Path

import pytest

from examples.chat_screen.capture import as_svg, grey
from tests.support.terminals import ROOT, Terminal

PICTURE = ROOT / "docs" / "pictures" / "terminal.svg"
UPDATE = "MLX_GPTOSS_UPDATE_PICTURES"
FINAL = "<|channel|>final<|message|>"
THOUGHT = (
    "<|channel|>analysis<|message|>The classic example. I complete the square and give "
    "a short program to check it.<|end|><|start|>assistant"
)
ANSWER = r"""**Completing the square** turns $ax^2 + bx + c = 0$ into

$$x_{1,2} = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$$

| discriminant | roots |
|---|---|
| $b^2 - 4ac > 0$ | two real ones |
| $b^2 - 4ac < 0$ | a pair of complex ones |

```python
from cmath import sqrt

def roots(a, b, c):
    root = sqrt(b * b - 4 * a * c)
    return (-b + root) / (2 * a), (-b - root) / (2 * a)
```

For $x^2 - 5x + 6$ it gives 3 and 2, because (3, 2) are the only two numbers with"""
PROGRAM = """
import json, sys
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from tests.support.scripted_chat import scripted_runtime
replies, gates = json.loads(sys.argv[1])
runtime = scripted_runtime(*replies, gates=gates)
runtime.context = 131_072
cli(["chat", "-m", "demo", "--temperature", "0"],
    obj=Services(load=lambda model, **options: runtime))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "NO_COLOR", "MLX_GPTOSS_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_an_answer_streams_above_what_is_typed_and_the_meter(home: Path) -> None:
    gate = home / "go on"
    replies = [f"{FINAL}Hello! What is it?<|return|>", f"{THOUGHT}{FINAL}{ANSWER} sum."]
    given = json.dumps([replies, {"two numbers with": str(gate)}])
    command = [sys.executable, "-c", PROGRAM, given]
    with Terminal(command, columns=82, rows=40, rewrite=grey) as terminal:
        terminal.wait_for("\n>")
        terminal.send("hello\r")
        terminal.wait_for("What is it?")
        terminal.wait_for(lambda screen: screen.count("\n>") == 2)
        terminal.send("How are quadratic equations solved?\r")
        terminal.wait_for("the only two")
        terminal.send("And cubic ones?\r")
        terminal.wait_for("Next: And cubic ones?")
        terminal.send("Show it for x² + 1")
        screen = terminal.wait_for("> Show it for x² + 1")
        gate.touch()
    assert "▸ Reasoned for" in screen
    assert "Writing" in screen and "Esc stops, Enter sends it next" in screen
    assert "√" in screen and "x²" in screen and "\\frac" not in screen
    assert "demo · medium effort" in screen
    assert "/ 131,072 tokens" in screen
    if os.environ.get(UPDATE):
        PICTURE.write_text(as_svg(terminal.vt))
    assert PICTURE.read_text().count("Next:") == 1
