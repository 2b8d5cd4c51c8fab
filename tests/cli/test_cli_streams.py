"""Real commands with streams that are closed, full or no text, and interrupted early.

One line on stderr, never a trace, and the right exit code. Every command of the table
below is tried in every way with `pytest -m soak`; a few always.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mlx_gptoss.cli import cli
from mlx_gptoss.cli.exit_codes import run
from mlx_gptoss.cli.streams import OutputError, StandardStream
from tests.server.test_server_process import PATIENCE, wait_until

MLX_GPTOSS = f"{sys.executable} -m mlx_gptoss"
DEMO = "-m demo --max-tokens 120"
# A way to call each command: after what `workplace` has prepared, in its folder.
CALLS = {
    "batch": "batch in.jsonl out.jsonl -m demo --dry-run",
    "classify": "classify --policy in.jsonl id -m demo --max-tokens 99",
    "bench batch": "bench batch -m demo --rows 2 --policy 8 --shortest 4 --longest 8 "
    "--tokens 2 --rounds 1",
    "generate": f"generate {DEMO} 'What is 417 + 285?'",
    "chat": f"chat {DEMO}",
    "run": "run demo 'What is 417 + 285?' --temperature 0 --max-tokens 120",
    "serve": "serve -m demo --port 0 --ready-file ready.json",
    "sessions": "sessions",
    "sessions list": "sessions list",
    "sessions search": "sessions search Hi",
    "sessions show": "sessions show $(cat id)",
    "sessions export": "sessions export $(cat id) out.md --force",
    "sessions repair": "sessions repair",
    "sessions rm": "sessions rm --all --yes",
    "sessions delete": "sessions delete --all --yes",
    "use": "use",
    "pull": "pull demo",
    "models": "models",
    "models list": "models list",
    "models rm": "models rm owner/none --yes",
    "ps": "ps",
    "stop": "stop",
    "completion": "completion bash",
    "inspect": "inspect demo",
    "convert": "convert random c$$",
    "verify": "verify converted",
    "compare": "compare converted converted",
    "merge": "merge --help",
    "redact": "redact --patterns-only",
    "unredact": "unredact --vault kept.vault",
    "tune train": "tune train text -m demo --preview",
    "tune report": "tune report converted",
    "plan": "plan demo",
    "probe": "probe --help",  # it takes 15 seconds
    "trace record": "trace record t$$ -m demo --tokens 4 hello",
    "trace replay": "trace replay routing.trace",
    "bench compare": "bench compare text text",
    "bench constrain": "bench constrain -m demo --tokens 2 --help",
    "bench convert": "bench convert --help",
    "bench decode": "bench decode --help",
    "bench experts": "bench experts --help",
    "bench redact": "bench redact --help",
    "bench make-random": "bench make-random r$$ --size 100kB",
    "bench serve": "bench serve --help",
    "bench stalls": "bench stalls --help",
    "bench tune": "bench tune --help",
    "bench turns": "bench turns --help",
    "render": "render",
    "parse": "parse",
    "agents check": "agents check --url http://127.0.0.1:1",
    "agents setup": "agents setup codex",
    "doctor": "doctor --json",
}
PREPARED = (
    "bench make-random random --size 1MB",
    "convert random converted",
    "verify converted --against random",
    "trace record routing.trace -m demo --tokens 4 hello",
    "redact --patterns-only --vault kept.vault < text",
    f"chat {DEMO} < text",
)
WAYS = {  # what a shell does to the streams
    "no stdin": "{} <&-",
    "no stdout": "{} >&- <text",
    "no stderr": "{} 2>&- <text",
    "none": "{} <&- >&- 2>&-",
    "full stdout": "{} >/dev/full <text",
    "full stderr": "{} 2>/dev/full <text",
    "a reader that left": "{} <text | true",
    "bytes": "{} <bytes",
    "no locale": "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {} <text",
    "latin-1": "PYTHONIOENCODING=latin-1 {} <text",
}


def leaves(command: click.Command, path: str = "") -> Iterator[str]:
    """The names of all commands that can be called."""
    if not isinstance(command, click.Group):
        yield path
        return
    if command.invoke_without_command:
        yield path
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from leaves(inner, f"{path} {name}".strip())


def test_every_command_has_a_call_here() -> None:
    assert set(leaves(cli)) == set(CALLS)


def shell(line: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a line of bash in `folder`, which is the home of its commands, too."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XDG_", "MLX_GPTOSS_", "PYTHONIOENC"))
    }
    environment |= {"HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=2 * PATIENCE,
        check=False,
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    (folder / "text").write_text('[{"role": "user", "content": "Grüße"}]\n')
    (folder / "bytes").write_bytes(b"hi\n\xff\xfe\n")
    return folder


def in_one_line(line: str, folder: Path) -> tuple[int, str, str]:
    """The exit code, stdout and the one line of stderr of a command."""
    done = shell(line, folder)
    assert done.stderr.count("\n") <= 1, done.stderr
    return done.returncode, done.stdout, done.stderr


UNWRITTEN = "Error: the answer cannot be written to stdout: No space left on device\n"


def test_an_answer_without_room_is_one_line(texts: Path) -> None:
    line = f"{MLX_GPTOSS} use >/dev/full"
    assert in_one_line(line, texts) == (1, "", UNWRITTEN)


def test_a_reader_that_left_is_not_spoken_of() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as stdout:
        done = subprocess.run(
            [*MLX_GPTOSS.split(), "--help"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_answer_does_not_hang_on_its_notes(texts: Path) -> None:
    line = f"{MLX_GPTOSS} render -m demo 2>/dev/full <text"
    code, out, _ = in_one_line(line, texts)
    assert (code, out.endswith("Grüße<|end|><|start|>assistant\n")) == (0, True)


def test_text_is_read_as_utf_8_where_there_is_no_locale(texts: Path) -> None:
    bare = "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"
    line = f"{bare} {MLX_GPTOSS} render -m demo <text"
    code, out, _ = in_one_line(line, texts)
    assert (code, "Grüße" in out) == (0, True)


def test_without_stdout_nothing_is_written_into_a_file_of_ours(texts: Path) -> None:
    line = f"{MLX_GPTOSS} use demo <&- >&- && cat .config/mlx-gptoss/settings.json"
    code, out, _ = in_one_line(line, texts)
    assert (code, json.loads(out)) == (0, {"model": "demo"})


INTERRUPTED_AT = """
import os, signal, sys
wanted = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, path, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from mlx_gptoss.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["click", "mlx_gptoss.cli.generate", "numpy"])
def test_ctrl_c_while_it_is_imported_leaves_no_trace(texts: Path, module: str) -> None:
    command = [module, "generate", "-m", "demo", "hi"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT, *command],
        env=os.environ | {"HOME": str(texts)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


def test_little_is_imported_before_ctrl_c_is_taken() -> None:
    code = (
        "import sys; before = {*sys.modules}; import mlx_gptoss.__main__; "
        "print(*sorted({'ast', 'click', 're', 'typing'} & {*sys.modules} - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"\n"


@pytest.mark.parametrize(
    ("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)]
)
def test_an_interrupt_while_a_class_is_made_is_one(
    stop: BaseException, code: int
) -> None:
    """Python 3.11 tells what `__set_name__` raises as a RuntimeError."""

    class Named:
        def __set_name__(self, owner: type, name: str) -> None:
            raise stop

    with pytest.raises(SystemExit) as ended:
        run(lambda: type("Class", (), {"named": Named()}))
    assert ended.value.code == code


DRAWS_AT_ITS_END = """
import os, signal
from mlx_gptoss.cli.exit_codes import run, take_ending_signals
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started the tests ignores
def work():
    take_ending_signals()
    try:
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        print("as `chat` draws its prompt once more", flush=True)
run(work)
"""


def test_what_is_drawn_while_a_terminal_goes_away_is_no_answer() -> None:
    with open("/dev/full", "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-c", DRAWS_AT_ITS_END],
            stdout=gone,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (128 + signal.SIGHUP, b"")


def test_another_error_keeps_its_trace() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_pipe_that_never_waits_is_waited_for(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    data = bytes(range(256)) * 1024
    assert len(data) > fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    read: list[bytes] = []

    def reader() -> None:
        while sum(map(len, read)) < len(data):
            read.append(os.read(reading, 4096))

    thread = threading.Thread(target=reader)
    thread.start()
    with open(writing, "wb", closefd=False) as out:
        out = StandardStream(out.fileno(), needed=True)
        rest = memoryview(data)
        while rest:
            rest = rest[out.write(rest) :]
    thread.join(PATIENCE)
    assert b"".join(read) == data


@pytest.mark.parametrize("needed", [True, False])
def test_what_failed_is_told_once_and_only_if_needed(needed: bool) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        out = StandardStream(full.fileno(), needed=needed)
        if needed:
            with pytest.raises(OutputError, match="No space left"):
                out.write(b"ab")
        assert out.write(b"abc") == 3


@pytest.fixture(scope="module")
def workplace(texts: Path) -> Path:
    """A folder with what the calls need: models, a trace, a conversation."""
    for call in PREPARED:
        done = shell(f"{MLX_GPTOSS} {call}", texts)
        assert done.returncode == 0, done.stderr
    ids = f"{MLX_GPTOSS} sessions list --json | grep -o '[0-9a-f]\\{{32\\}}' | head -1"
    assert shell(f"{ids} >id", texts).returncode == 0
    return texts


@pytest.mark.soak
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("command", [name for name in CALLS if name != "serve"])
def test_no_stream_makes_a_trace(workplace: Path, command: str, way: str) -> None:
    line = WAYS[way].format(f"{MLX_GPTOSS} {CALLS[command]}")
    done = shell(line, workplace)

    assert done.returncode in (0, 1, 2), done.stderr
    for sign in ("Traceback", "Exception ignored", "Logging error"):
        assert sign not in done.stderr
    if way == "full stdout" and done.stderr.endswith(UNWRITTEN):
        assert done.returncode == 1
    if way in ("no stderr", "none"):
        assert done.stderr == ""


@pytest.mark.soak
@pytest.mark.parametrize("way", [name for name in WAYS if "|" not in WAYS[name]])
def test_a_server_does_not_hang_on_its_streams(workplace: Path, way: str) -> None:
    ready = workplace / "ready.json"
    line = WAYS[way].format(f"exec {MLX_GPTOSS} {CALLS['serve']}")
    server = subprocess.Popen(
        ["bash", "-c", line], cwd=workplace, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: ready.exists() or server.poll() is not None)
    server.send_signal(signal.SIGTERM)
    _, errors = server.communicate(timeout=PATIENCE)
    assert (server.returncode, "Traceback" in errors) == (0, False)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_at_any_time_leaves_no_trace(workplace: Path, name: str) -> None:
    number = getattr(signal, name)
    command = [sys.executable, "-m", "mlx_gptoss", *f"generate {DEMO} hi".split()]
    codes: set[int] = set()
    for delay in range(40):
        child = subprocess.Popen(command, cwd=workplace, stderr=subprocess.PIPE)
        child.send_signal(0)
        timer = threading.Timer(0.15 + delay / 25, child.send_signal, [number])
        timer.start()
        _, errors = child.communicate(timeout=PATIENCE)
        timer.cancel()
        assert b"Traceback" not in errors, (delay, errors)
        codes.add(child.returncode)
    assert codes <= {0, -number, 128 + number}
