"""Start, end and clock of the grammar worker, in adverse environments."""

import gc
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing import spawn
from pathlib import Path

import numpy as np
import pytest

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.harmony.constrain.schema import value_sets
from mlx_gptoss.harmony.constrain.schema.compile import WHOLE_SCHEMA
from mlx_gptoss.harmony.constrain.worker import WorkerGrammars, WorkerMatcher, client
from mlx_gptoss.harmony.constrain.worker.process import MASK_THREADS
from mlx_gptoss.harmony.constrain.worker.supervisor import Supervisor
from tests.harmony.test_grammar_worker import BYTES, SOON, kill, ship, stop, until, walk
from tests.support.fakes import SPECIALS, byte_tokenizer, byte_vocabulary

COMPILE = """
from mlx_gptoss.harmony.constrain.worker import WorkerGrammars
from tests.support.fakes import byte_tokenizer
own = WorkerGrammars(byte_tokenizer())
text = own.matcher(own.compile("regex", "a+", what="a pattern"))
raise SystemExit(not text.token_mask(256)[97])
"""


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    found = Supervisor(idle_seconds=0.1)
    yield found
    until(lambda: found.pid is None)


@pytest.fixture
def own(supervisor: Supervisor) -> Iterator[WorkerGrammars]:
    found = WorkerGrammars(byte_tokenizer(), supervisor)
    yield found
    found.close()


class Slow(Tokenizer):
    """A tokenizer whose serialization waits for an event."""

    may_go = threading.Event()

    def serialized(self) -> str:
        assert self.may_go.wait(SOON)
        return super().serialized()


def resume(supervisor: Supervisor) -> None:
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGCONT)


def test_nobody_waits_for_the_vocabulary_to_be_sent(supervisor: Supervisor) -> None:
    slow = WorkerGrammars(Slow(byte_vocabulary(SPECIALS), "bytes"), supervisor)
    seen = ship(slow).start_mask()
    assert not seen.done()
    Slow.may_go.set()

    assert seen.result()
    slow.close()


def test_time_and_memory_count_from_when_the_vocabulary_is_read(
    own: WorkerGrammars, supervisor: Supervisor
) -> None:
    costly = own.compile("regex", "a" * 100_000, what="a long name")
    texts = [ship(own), own.matcher(costly)]
    stop(supervisor)
    for text in texts:
        text.start_mask()
    for task in supervisor._running.values():
        task.started_at -= SOON  # while it waits for the first to read
    resume(supervisor)

    assert [int(text.token_mask(BYTES).sum()) > 0 for text in texts] == [True, True]


def test_what_is_followed_again_has_time_for_all_its_tokens(
    own: WorkerGrammars, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = ship(own)
    wanted = np.flatnonzero(walked(text).token_mask(BYTES)).tolist()
    kill(supervisor)
    ship(own).token_mask(BYTES)  # a new process has read the vocabulary
    again = walked(ship(own))
    monkeypatch.setattr(client, "MASK_SECONDS", -1.0)
    monkeypatch.setattr(client, "TOKEN_SECONDS", SOON)
    stop(supervisor)
    for one in (text, again):
        one._pending = None
        one.start_mask()
    looked = supervisor._checked_at
    until(lambda: supervisor._checked_at > looked + 0.1)
    resume(supervisor)

    found = [np.flatnonzero(one.token_mask(BYTES)).tolist() for one in (text, again)]
    assert found == [wanted, wanted]


def walked(text: WorkerMatcher) -> WorkerMatcher:
    walk(text, 5, most=9)
    return text


@pytest.mark.parametrize("kind", ("arguments", "json_schema"))
def test_any_object_is_never_lost(
    own: WorkerGrammars,
    supervisor: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
    kind: client.GrammarKind,
) -> None:
    own.compile("regex", "a", what="a pattern")
    stop(supervisor)
    monkeypatch.setattr(client, "COMPILE_SECONDS", 0.05)
    source = client.ANY_VALUE[kind == "json_schema"]

    assert own.compile(kind, source, what="any object").unenforced == (WHOLE_SCHEMA,)


def test_an_answer_that_comes_just_in_time_counts(
    own: WorkerGrammars, supervisor: Supervisor
) -> None:
    text = ship(own)
    text.start_mask()
    [task] = supervisor._running.values()
    assert text.token_mask(BYTES)[ord("{")]
    supervisor._verdict = task, "was too slow"  # as the watch finds at the same moment
    kill(supervisor)

    assert walk(text, 3)


def test_who_lets_go_waits_for_no_lock(supervisor: Supervisor) -> None:
    found = WorkerGrammars(byte_tokenizer(), supervisor)
    text = ship(found)
    with supervisor._changed:

        def let_go() -> None:
            nonlocal text
            del text
            found.close()
            gc.collect()

        thread = threading.Thread(target=let_go)
        thread.start()
        thread.join(SOON)
        assert not thread.is_alive()


def test_a_text_may_go_on_when_its_grammars_were_closed(own: WorkerGrammars) -> None:
    text = ship(own)
    text.token_mask(BYTES)
    own.close()
    other = ship(own)

    assert walk(text, 3) == walk(other, 3)


def test_signals_to_all_of_a_service_do_not_end_it(
    own: WorkerGrammars, supervisor: Supervisor
) -> None:
    ship(own).token_mask(BYTES)
    pid = supervisor.pid
    assert pid is not None
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, one)
    ship(own).token_mask(BYTES)

    assert supervisor.pid == pid


def test_without_descriptors_nothing_is_left_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    held: list[int] = []
    try:
        while True:
            try:
                held.append(os.dup(0))
            except OSError:
                break
        for spare in range(1, 7):
            os.close(held.pop())
            with pytest.raises(GptOssError, match=r"cannot start: .*Too many open"):
                Supervisor().submit(nothing()).result()
            filled = [os.dup(0) for _ in range(spare)]
            for one in filled:
                os.close(one)
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def nothing() -> client.Task:
    return client.Task(lambda process: {"do": "prepare"}, SOON)


@pytest.mark.parametrize("program", (None, ""))
def test_an_app_that_names_no_python_is_told(
    monkeypatch: pytest.MonkeyPatch, program: str | None
) -> None:
    monkeypatch.setattr(spawn, "get_executable", lambda: program)

    with pytest.raises(GptOssError, match="no Python executable is known"):
        Supervisor().submit(nothing()).result()


@pytest.mark.parametrize("closed", ("<&-", "<&- >&- 2>&-"))
def test_standard_streams_may_be_closed(closed: str) -> None:
    shell = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, COMPILE]

    assert subprocess.run(shell, timeout=3 * SOON).returncode == 0


def test_an_app_may_work_in_another_folder(tmp_path: Path) -> None:
    for part in ("mlx_gptoss", "tests"):
        (tmp_path / part).symlink_to(Path(__file__).parents[2] / part)
    moved = """
import os, sys
sys.path.insert(0, ".")
import mlx_gptoss.harmony.constrain.worker, tests.support.fakes
os.chdir("/")
"""
    packages = os.pathsep.join(one for one in sys.path if "site-packages" in one)
    done = subprocess.run(
        [sys.executable, "-S", "-c", moved + COMPILE],
        cwd=tmp_path,
        env={"PYTHONPATH": packages},
        timeout=3 * SOON,
    )
    assert done.returncode == 0


def test_a_fork_has_a_process_of_its_own() -> None:
    forked = """
import os, warnings
warnings.simplefilter("ignore")  # threads are there, but none that the fork needs
from mlx_gptoss.harmony.constrain.worker import WorkerGrammars
from tests.support.fakes import byte_tokenizer
own = WorkerGrammars(byte_tokenizer())
text = own.matcher(own.compile("regex", "a+", what="a pattern"))
text.token_mask(256)
before = own.supervisor.pid
child = os.fork()
text.accept(97)
assert text.token_mask(256)[97]
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    text.accept(97)
    assert text.token_mask(256)[97]
assert (own.supervisor.pid == before) == bool(child)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", forked], timeout=3 * SOON)
    assert done.returncode == 0


def test_the_tools_of_a_large_agent_are_read_once(own: WorkerGrammars) -> None:
    tools = [{"type": "object", "title": str(number)} for number in range(400)]

    def begun() -> list[object]:
        for one in tools:
            own.start_compile("arguments", one, what="a tool")
        return list(own._compiled.values())

    assert begun() == begun()


def test_texts_whose_masks_are_slow_leave_room_for_the_others(
    own: WorkerGrammars, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, quick = [ship(own) for _ in range(MASK_THREADS)], ship(own)
    for text in [*texts, quick]:
        text.token_mask(BYTES)
        text.accept(ord("{"))
    stop(supervisor)
    monkeypatch.setattr(client, "SLOW_SECONDS", -1.0)
    seen = [text.start_mask() for text in texts]
    monkeypatch.setattr(client, "SLOW_SECONDS", SOON)
    seen.append(quick.start_mask())
    under_way = [task.is_slow for task in supervisor._running.values()]
    resume(supervisor)

    assert sorted(under_way) == [False, *[True] * (MASK_THREADS - 2)]
    assert all(one.result() for one in seen)


def test_a_search_that_takes_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not value_sets.pattern_matches("c$", "ab" * 1000)
    monkeypatch.setattr(value_sets, "MATCH_SECONDS", 1e-9)
    assert value_sets.pattern_matches("c$", "ab" * 100_000)
