"""Grammars in their own process: the same masks, and recovery when it fails.

The process is stopped or killed by the tests: no grammar here asks too much of it.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import spawn
from typing import Any

import numpy as np
import psutil
import pytest

from mlx_gptoss.errors import GptOssError, SchemaError
from mlx_gptoss.harmony.constrain import grammar
from mlx_gptoss.harmony.constrain.schema.compile import WHOLE_SCHEMA
from mlx_gptoss.harmony.constrain.worker import (
    GrammarLostError,
    WorkerGrammars,
    WorkerMatcher,
    client,
)
from mlx_gptoss.harmony.constrain.worker.supervisor import Supervisor
from tests.support.fakes import byte_tokenizer

BYTES = 256
TOKENIZER = byte_tokenizer()
SHIP = {
    "type": "object",
    "properties": {"name": {"enum": ["Fram", "Maud"]}, "crew": {"type": "integer"}},
    "required": ["name", "crew"],
    "additionalProperties": False,
}
SOON = 20.0  # seconds; things take far less, unless the machine is busy


@pytest.fixture(scope="module")
def supervisor() -> Supervisor:
    return Supervisor(idle_seconds=SOON)


@pytest.fixture
def own(supervisor: Supervisor) -> Iterator[WorkerGrammars]:
    """Grammars with a process that the test may stop and kill."""
    found = WorkerGrammars(TOKENIZER, supervisor)
    ship(found).token_mask(BYTES)
    yield found
    found.close()


def until(condition: Any) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.002)


def ship(own: WorkerGrammars) -> WorkerMatcher:
    return own.matcher(own.compile("arguments", SHIP, what="a ship"))


def walk(matcher: Any, seed: int, most: int = 60) -> bytes:
    """Return a random text that a matcher accepts."""
    draw, text = random.Random(seed), bytearray()
    while len(text) < most and not matcher.is_accepting:
        token = draw.choice(np.flatnonzero(matcher.token_mask(BYTES)).tolist())
        matcher.accept(token)
        text.append(token)
    return bytes(text)


def draw(matcher: WorkerMatcher) -> int:
    return int(np.flatnonzero(matcher.token_mask(BYTES))[0])


def kill(supervisor: Supervisor) -> None:
    pid = supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pid))


def stop(supervisor: Supervisor) -> None:
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGSTOP)


@pytest.mark.parametrize("seed", range(3))
def test_the_masks_are_those_of_the_library(own: WorkerGrammars, seed: int) -> None:
    here = grammar.LocalGrammars(TOKENIZER)
    compiled = here.compile("arguments", SHIP, what="a ship")
    assert own.compile("arguments", SHIP, what="a ship") == compiled
    near, far = here.matcher(compiled), own.matcher(compiled)

    for token in walk(here.matcher(compiled), seed):
        assert (far.token_mask(400) == near.token_mask(400)).all()
        assert far.is_accepting == near.is_accepting
        near.accept(token)
        far.accept(token)


def test_a_text_goes_on_where_it_was_when_the_process_was_killed(
    own: WorkerGrammars, supervisor: Supervisor
) -> None:
    texts = [ship(own) for _ in range(3)]
    begun = [walk(text, seed, most=9) for seed, text in enumerate(texts)]
    kill(supervisor)
    alone = [ship(own) for _ in texts]
    for other, text in zip(alone, begun, strict=True):
        for token in text:
            other.accept(token)

    assert [walk(text, 7) for text in texts] == [walk(other, 7) for other in alone]


def test_a_process_that_hangs_is_killed_and_only_who_hung_it_is_lost(
    own: WorkerGrammars, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, other = ship(own), ship(own)
    walk(lost, 4, most=5)
    walk(other, 3, most=5)
    for text in (lost, other):
        text.accept(draw(text))
    stop(supervisor)
    monkeypatch.setattr(client, "MASK_SECONDS", 0.1)
    for text in (lost, other):
        text.start_mask()
        monkeypatch.setattr(client, "MASK_SECONDS", SOON)

    with pytest.raises(GrammarLostError, match=r"it took more than 0\.1 seconds"):
        lost.token_mask(BYTES)
    assert walk(other, 3).endswith(b"}")


def test_what_was_lost_once_is_not_asked_of_a_process_again(
    own: WorkerGrammars, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = own.compile("regex", "a+", what="a pattern")
    texts = [ship(own), own.matcher(pattern)]
    for text in texts:
        monkeypatch.setattr(client, "MASK_SECONDS", SOON)
        text.accept(draw(text))
        stop(supervisor)
        monkeypatch.setattr(client, "MASK_SECONDS", 0.05)
        with pytest.raises(GrammarLostError):
            text.token_mask(BYTES)

    assert own.compile("arguments", SHIP, what="a ship").unenforced == (WHOLE_SCHEMA,)
    with pytest.raises(GrammarLostError, match="a pattern cannot be enforced"):
        own.compile("regex", "a+", what="a pattern")


@pytest.mark.parametrize("strict", (False, True))
def test_a_schema_that_hangs_the_process_is_free_or_refused(
    own: WorkerGrammars,
    supervisor: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
    strict: bool,
) -> None:
    boat = {**SHIP, "description": "a small one"}
    monkeypatch.setattr(client, "COMPILE_SECONDS", 0.1)
    stop(supervisor)
    finish = own.start_compile("arguments", boat, what="a boat", strict=strict)
    monkeypatch.setattr(client, "COMPILE_SECONDS", SOON)

    if strict:
        with pytest.raises(GrammarLostError, match="a boat cannot be enforced"):
            finish()
    else:
        assert finish().unenforced == (WHOLE_SCHEMA,)


def test_a_process_that_grows_too_large_is_killed(
    own: WorkerGrammars, supervisor: Supervisor
) -> None:
    text = ship(own)
    text.token_mask(BYTES)
    supervisor._most_bytes = -(1 << 60)  # it is over any bound
    stop(supervisor)
    text.accept(ord("{"))
    text.start_mask()
    until(lambda: supervisor._verdict is not None or text.start_mask().done())
    supervisor._most_bytes = 1 << 60

    with pytest.raises(GrammarLostError, match=r"it took more than .* MB"):
        text.token_mask(BYTES)


def test_of_several_that_were_under_way_each_is_tried_again(
    own: WorkerGrammars, supervisor: Supervisor
) -> None:
    """The process is killed from outside: no task is blamed."""
    patterns = [
        own.compile("regex", letter * 50_000, what="a long name") for letter in "abc"
    ]
    texts = [own.matcher(pattern) for pattern in patterns]
    seen = [text.start_mask() for text in texts]
    until(lambda: len(begun(supervisor)) == 3 or all(one.done() for one in seen))
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)

    for text, letter in zip(texts, "abc", strict=True):
        assert np.flatnonzero(text.token_mask(BYTES)).tolist() == [ord(letter)]


def begun(supervisor: Supervisor) -> list[int]:
    process = supervisor._process
    assert process is not None
    tasks = dict(supervisor._running)
    return [
        number for number, task in tasks.items() if process.has_begun(task.slot, number)
    ]


def test_who_was_alone_under_way_is_to_blame(
    own: WorkerGrammars, supervisor: Supervisor
) -> None:
    pattern = own.compile("regex", "a" * 300_000, what="a long name")
    text = own.matcher(pattern)
    text.start_mask()
    until(lambda: begun(supervisor))
    kill(supervisor)

    with pytest.raises(GrammarLostError, match="ended the process that checks"):
        text.token_mask(BYTES)


@pytest.mark.parametrize(
    ("program", "said"), (("/nowhere/python", "No such file"), ("/bin/true", "it ends"))
)
def test_without_a_process_there_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    monkeypatch.setattr(spawn, "get_executable", lambda: program)
    own = WorkerGrammars(TOKENIZER, Supervisor())

    with pytest.raises(GptOssError, match=f"checks grammars cannot start: .*{said}"):
        own.compile("regex", "a", what="a pattern")
    monkeypatch.undo()
    assert own.compile("regex", "a", what="a pattern").unenforced == ()
    own.close()


def test_the_process_ends_when_nobody_needs_it() -> None:
    supervisor = Supervisor(idle_seconds=0.1)
    grammars = WorkerGrammars(TOKENIZER, supervisor)
    grammars.compile("regex", "a", what="a pattern")
    pid = supervisor.pid

    grammars.close()
    until(lambda: supervisor.pid is None)
    assert pid is not None and not psutil.pid_exists(pid)


def test_the_process_ends_with_the_one_who_started_it(own: WorkerGrammars) -> None:
    code = """if True:
        import time
        from mlx_gptoss.harmony.constrain.worker import WorkerGrammars
        from tests.support.fakes import byte_tokenizer
        grammars = WorkerGrammars(byte_tokenizer())
        grammars.compile("regex", "a", what="a pattern")
        print(grammars.supervisor.pid, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        pid = int(user.stdout.readline())
        assert psutil.pid_exists(pid)
        user.kill()

    until(lambda: not psutil.pid_exists(pid))


def test_texts_that_nobody_follows_are_forgotten(
    own: WorkerGrammars, supervisor: Supervisor
) -> None:
    supervisor.forget_matcher(0)
    keys = [ship(own)._key for _ in range(3)]

    assert set(keys) <= {key for _, key in supervisor._forgotten}
    ship(own).token_mask(BYTES)
    assert not set(keys) & {key for _, key in supervisor._forgotten}


def test_many_threads_may_ask_at_once(own: WorkerGrammars) -> None:
    wanted = walk(ship(own), 11)
    found: list[bytes] = []

    def ask() -> None:
        found.append(walk(ship(own), 11))

    threads = [threading.Thread(target=ask) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 9


def test_grammars_that_were_read_are_remembered_some(own: WorkerGrammars) -> None:
    first = own.compile("regex", "a", what="a pattern")
    assert own.compile("regex", "a", what="another") is not None
    for number in range(client.REMEMBERED + 3):
        own.start_compile("regex", f"a{{{number}}}", what="a pattern")

    assert len(own._compiled) == client.REMEMBERED
    assert own.compile("regex", "a", what="a pattern") == first


def test_a_source_that_is_no_json_is_refused(own: WorkerGrammars) -> None:
    with pytest.raises(SchemaError, match="a schema is no JSON"):
        own.compile("json_schema", {"const": object()}, what="a schema")
