"""No code of a cell runs after it; threads that only wait cost no restart."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlx_gptoss.chat.tools.notebook import Notebook, NotebookLimits
from mlx_gptoss.chat.tools.notebook.sandbox import GUARD
from tests.support.notebooks import MB, kernel_of, open_notebook

RESTARTED = (
    "[a thread was still running after the cell and would not end: wait for threads "
    "(`join`, `with`) before a cell ends; the notebook was restarted, its variables "
    "and files are gone]\n"
)
TOLD = "still running after the cell and asked to end: code runs in cells only; the "


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    with open_notebook(NotebookLimits(memory=512 * MB, drive_bytes=8 * MB)) as found:
        yield found


def test_between_cells_the_process_is_stopped(notebook: Notebook) -> None:
    assert notebook.run("1 + 1") == "2\n"
    assert kernel_of(notebook).status() == psutil.STATUS_STOPPED
    assert notebook.run("1 + 2") == "3\n"
    assert kernel_of(notebook).status() == psutil.STATUS_STOPPED


LEFT_BEHIND = """
import _thread, asyncio, os, queue, sched, threading, time
from concurrent.futures import ThreadPoolExecutor

ran, items = [], queue.Queue()

def computing():
    while True: ran.append("computing")

def allocating():
    while True: ran.append(bytearray(1 << 10)); time.sleep(0.001)

def napping():
    while True: time.sleep(0.01); ran.append("napping")

def flooding():
    while True: os.write(1, b"flood " * 1000)

def waiting():
    while True: ran.append(items.get())

async def ticking():
    while True: ran.append("ticking"); await asyncio.sleep(0.01)

for target in (computing, allocating, napping, flooding, waiting):
    threading.Thread(target=target, daemon=True).start()
threading.Thread(target=lambda: asyncio.run(ticking())).start()
_thread.start_new_thread(napping, ())
timer = threading.Timer(0.7, ran.append, ["timer"])
timer.start()
plan = sched.scheduler()
plan.enter(0.7, 1, ran.append, ["sched"])
threading.Thread(target=plan.run).start()
workers = ThreadPoolExecutor(2)
tasks = [workers.submit(time.sleep, 0.3) for _ in range(10)]
tasks.append(workers.submit(napping))
"""


def test_no_thread_of_a_cell_runs_in_the_next(notebook: Notebook) -> None:
    said = notebook.run(LEFT_BEHIND)
    assert said.endswith(f"[11 threads were {TOLD}variables are kept]\n")
    assert notebook.run("ran.clear(); items.put(1); time.sleep(1); ran") == "[]\n"
    assert notebook.run("sum(task.cancelled() for task in tasks) > 5") == "True\n"
    assert notebook.run("workers.submit(abs, -1).result()") == "1\n"


LIBRARIES_THREADS = """
import logging.handlers, queue
from concurrent.futures import ThreadPoolExecutor

workers = ThreadPoolExecutor(2)
logged = logging.handlers.BufferingHandler(10)
listener = logging.handlers.QueueListener(queue.SimpleQueue(), logged)
listener.start()
list(workers.map(abs, [-1, 2]))
"""


def test_threads_of_libraries_that_wait_are_kept(notebook: Notebook) -> None:
    assert notebook.run(LIBRARIES_THREADS) == "[1, 2]\n"
    record = "listener.queue.put(logging.makeLogRecord({'msg': 'hello'}))\n"
    stop = "listener.stop()\n[record.msg for record in logged.buffer]"
    assert notebook.run(record + stop) == "['hello']\n"
    assert notebook.run("list(workers.map(abs, [-3]))") == "[3]\n"


@pytest.mark.parametrize("shut", ["with", "join"])
def test_threads_that_a_cell_waits_for_are_not_spoken_of(
    notebook: Notebook, shut: str
) -> None:
    code = {
        "with": "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor() as workers: print(*workers.map(abs, [-1, -2]))",
        "join": "import threading\nthread = threading.Thread(target=print, args=[1, 2])"
        "\nthread.start()\nthread.join()",
    }
    assert notebook.run(code[shut]) == "1 2\n"


def test_a_thread_about_to_end_may_end(notebook: Notebook) -> None:
    code = "import threading, time\ndef late(): time.sleep(0.05); print('late')\n"
    said = notebook.run(code + "threading.Thread(target=late).start()")
    assert said == "late\n"


CATCHES_ALL = """
import threading, time
def stubborn():
    while True:
        try:
            while True: time.sleep(0.01)
        except BaseException: continue
threading.Thread(target=stubborn, daemon=True).start()
"""
NATIVE = """
import hashlib, threading
slow = ("sha256", b"", b"", 1 << 30)
threading.Thread(target=hashlib.pbkdf2_hmac, args=slow, daemon=True).start()
"""


@pytest.mark.parametrize("code", [CATCHES_ALL, NATIVE], ids=["catches all", "native"])
def test_a_thread_that_will_not_end_costs_the_variables(code: str) -> None:
    with open_notebook(NotebookLimits(memory=256 * MB, drive_bytes=MB)) as own:
        kernel = kernel_of(own)
        assert own.run("print('begun')\n" + code) == "begun\n" + RESTARTED
        kernel.wait(10)
        assert own.run("1 + 1") == "2\n"


@pytest.mark.soak
def test_a_thread_that_catches_its_end_later_ends_with_the_next_cell() -> None:
    code = CATCHES_ALL.replace("0.01", "1")
    with open_notebook(NotebookLimits(memory=256 * MB, drive_bytes=MB)) as own:
        assert "1 thread was" in own.run(code)
        assert own.run("time.sleep(1.2)").endswith(RESTARTED)


ARRANGED = {
    "timer": "signal.signal(14, lambda *_: ran.append(1))\n"
    "signal.setitimer(0, 0.01, 0.01)",
    "trace": "sys.settrace(lambda *_: ran.append(1))",
    "profile": "sys.setprofile(lambda *_: ran.append(1))",
    "trace of threads": "threading.settrace(lambda *_: ran.append(1))",
    "watchdog": "faulthandler.dump_traceback_later(0.01, exit=True)",
    "continue": "signal.signal(signal.SIGCONT, lambda *_: ran.append(1))",
}
LOOK = (
    "ran.clear(); time.sleep(0.03)\nthread = threading.Thread(target=int)\n"
    "thread.start(); thread.join(); ran"
)


@pytest.mark.parametrize("name", ARRANGED)
def test_nothing_arranged_by_a_cell_interrupts_the_next(
    notebook: Notebook, name: str
) -> None:
    notebook.run("import faulthandler, signal, sys, threading, time\nran = []")
    notebook.run(ARRANGED[name])
    assert notebook.run(LOOK) == "[]\n"


OWNER = """
import sys
from mlx_gptoss.chat.tools.notebook import Notebook
notebook = Notebook()
print(notebook._process._monitor.pid, flush=True)
{}
"""


STOPS_ITS_GROUP = "import os, signal; os.kill(0, signal.SIGSTOP)"


@pytest.mark.parametrize(
    "does",
    [
        "notebook.run('while True: pass')",
        f"notebook.run({STOPS_ITS_GROUP!r}); print('run', flush=True); input()",
    ],
    ids=["in a cell", "between cells"],
)
def test_the_process_ends_with_its_owner(
    notebook: Notebook, tmp_path: Path, does: str
) -> None:
    """No temporary files remain, and no signal of the code stops the guard."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(does)],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        kernel = psutil.Process(int(owner.stdout.readline()))
        if "print" in does:
            assert owner.stdout.readline() == b"run\n"
        owner.kill()
    kernel.wait(10)
    assert list(tmp_path.iterdir()) == []


def test_the_guard_of_a_mac_ends_a_stopped_kernel(tmp_path: Path) -> None:
    """The guard needs no sandbox here: it starts a command and waits."""
    replies, replies_end = os.pipe()
    life_end, life = os.pipe()
    command = [sys.executable, "-c", "input()"]
    drive = tmp_path / "drive"
    drive.mkdir()
    (drive / "file").touch()
    given = {"replies": replies_end, "life": life_end, "drive_bytes": MB}
    settings = json.dumps({**given, "command": command, "drive": str(drive)})
    guard = subprocess.Popen(
        [sys.executable, "-I", str(GUARD), settings],
        stdin=subprocess.PIPE,
        pass_fds=(replies_end, life_end),
    )
    os.close(life_end)
    os.close(replies_end)
    with os.fdopen(replies) as told:
        kernel = psutil.Process(json.loads(told.readline())["pid"])
        if sys.platform == "linux":
            assert kernel.rlimit(psutil.RLIMIT_FSIZE) == (MB, MB)
        assert os.getpgid(kernel.pid) == kernel.pid
        kernel.send_signal(signal.SIGSTOP)
        os.close(life)
        kernel.wait(10)
        assert told.read() == ""
    with guard:
        assert guard.wait(10) == 1
    assert not drive.exists()
