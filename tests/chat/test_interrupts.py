"""Ctrl-C, and a notebook's ■: an answer that is awaited is ended, and all goes on."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from queue import Empty
from typing import Any

import pytest

from mlx_gptoss import AsyncChat, Chat, Runtime, answer_all
from tests.support.chat_turns import GREEDY
from tests.support.echoing import LONG, echoing
from tests.support.terminals import ROOT

PATIENCE = 120.0  # seconds
CELLS = {
    "load": """
from mlx_gptoss import AsyncChat, Chat, SamplingParams, answer_all, load
runtime = load("demo")
greedy = SamplingParams(temperature=0)
chat, later = (kind(runtime, params=greedy) for kind in (Chat, AsyncChat))""",
    "ask": "print(chat.ask('What is 1 + 1?').answer)",
    "await": "print((await later.ask('What is 2 + 2?')).answer)",
    "many": """
questions = ["What is 1 + 2?", "What is 2 + 5?"]
replies = answer_all(runtime, questions, params=greedy)
print(sorted(reply.answer for reply in replies))""",
    "forever": """
print("begun")
while True: chat.branch().ask("What is 417 + 285?")""",
    "await forever": """
print("begun")
while True: await later.branch().ask("What is 417 + 285?")""",
    "many forever": """
print("begun")
while True: list(answer_all(runtime, ["What is 417 + 285?"] * 4))""",
    "running": "print(sum(runtime.batch_statistics.batch_sizes.values()) > 0)",
}


def interrupt_when_running(runtime: Runtime) -> None:
    """Interrupt the main thread as the kernel of a notebook does, within an answer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not runtime.batch_statistics.batch_sizes:
        time.sleep(0.01)
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


async def ask_async(runtime: Runtime) -> object:
    return await AsyncChat(runtime, params=GREEDY).ask(LONG)


@pytest.mark.parametrize(
    "answer",
    [
        lambda runtime: Chat(runtime, params=GREEDY).ask(LONG),
        lambda runtime: [*Chat(runtime, params=GREEDY).send(LONG)],
        lambda runtime: [*answer_all(runtime, [LONG] * 3, params=GREEDY)],
        lambda runtime: asyncio.run(ask_async(runtime)),
    ],
    ids=["ask", "send", "answer_all", "AsyncChat"],
)
def test_an_interrupt_ends_what_runs(answer: Callable[[Runtime], object]) -> None:
    with echoing(0.01) as runtime:
        killer = threading.Thread(target=interrupt_when_running, args=(runtime,))
        killer.start()
        with pytest.raises(KeyboardInterrupt):
            answer(runtime)
        killer.join()
        asked = Chat(runtime, params=GREEDY).ask("hi", timeout=PATIENCE)
    assert asked.answer == "hi"
    assert "answers" not in [thread.name for thread in threading.enumerate()]


class Notebook:
    """A Jupyter kernel that runs cells."""

    def __init__(self) -> None:
        manager = pytest.importorskip("jupyter_client.manager", exc_type=ImportError)
        pytest.importorskip("ipykernel", exc_type=ImportError)
        self.manager, self.client = manager.start_new_kernel(
            startup_timeout=PATIENCE, cwd=str(ROOT), env=self.environment()
        )

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(ROOT), *sys.path])
        return {**os.environ, "PYTHONPATH": path}

    def run(self, code: str, *, interrupt: bool = False) -> str:
        """Return what a cell prints; with `interrupt`, ■ follows its first output."""
        sent, shown, deadline = (
            self.client.execute(code),
            "",
            time.monotonic() + PATIENCE,
        )
        while time.monotonic() < deadline:
            try:
                message: dict[str, Any] = self.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                shown += content["text"]
                if interrupt and "begun" in shown:
                    interrupt = False
                    time.sleep(0.5)
                    self.manager.interrupt_kernel()
            elif kind == "error":
                shown += content["ename"]
            elif kind == "status" and content["execution_state"] == "idle":
                return shown
        raise AssertionError(f"no end of {code!r}: {shown}")


# pyzmq warns of sockets that jupyter_client leaves to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_kernel_of_a_notebook_answers_is_interrupted_and_ends() -> None:
    """Skipped where ipykernel is not installed, as in CI."""
    notebook = Notebook()
    try:
        assert notebook.run(CELLS["load"]) == ""
        assert notebook.run(CELLS["ask"]) == "1 + 1 = 2\n"
        assert notebook.run(CELLS["await"]) == "2 + 2 = 4\n"
        assert notebook.run(CELLS["many"]) == "['1 + 2 = 3', '2 + 5 = 7']\n"
        for name, ended in (
            ("forever", "KeyboardInterrupt"),
            ("await forever", "CancelledError"),
            ("many forever", "KeyboardInterrupt"),
        ):
            assert notebook.run(CELLS[name], interrupt=True) == f"begun\n{ended}"
            assert notebook.run(CELLS["running"]) == "True\n"
        notebook.run(
            "import asyncio; task = asyncio.create_task(later.ask('What is 1?'))"
        )
        notebook.run("events = chat.send('What is 417 + 285?'); next(events)")
        notebook.client.shutdown()
        assert notebook.manager.provisioner is not None
        deadline = time.monotonic() + PATIENCE
        while notebook.manager.is_alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not notebook.manager.is_alive()
    finally:
        notebook.client.stop_channels()
        notebook.manager.shutdown_kernel(now=True)
