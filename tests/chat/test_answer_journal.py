"""What arrived of an answer outlives a program that was killed, and nothing else."""

import os
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.chat.sessions.answer_journal import AnswerJournal
from mlx_gptoss.chat.sessions.database import ChatDatabase
from tests.support.fakes import answering
from tests.support.saved_chats import REPLY

QUESTION = "Why?"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "chats.sqlite3"


@pytest.fixture
def saved(place: Path) -> dict[str, Any]:
    """A conversation with one turn, as it is saved."""
    sessions = Sessions.open(place)
    with answering(REPLY) as runtime:
        chat = Chat(runtime, on_change=sessions.save)
        chat.ask("First?")
    return sessions.load(chat.id)


def files(place: Path) -> list[str]:
    return [path.name for path in place.parent.rglob("*.jsonl")]


def opened(place: Path, id: str) -> AnswerJournal:
    journal = Sessions.open(place).journal(id)
    assert journal is not None
    return journal


def killed(journal: AnswerJournal) -> None:
    """What happens to the journal of a killed program: its lock is gone."""
    os.close(journal._handle)


def said(data: dict[str, Any]) -> list[tuple[Any, ...]]:
    keys = ("role", "channel", "content", "ended")
    return [tuple(one.get(key) for key in keys) for one in data["messages"]]


def test_the_part_that_arrived_is_in_the_chat(
    place: Path, saved: dict[str, Any]
) -> None:
    journal = opened(place, saved["id"])
    journal.begin(question=QUESTION, updated=saved["updated"])
    for kind, text in [("reasoning", "Hm"), ("reasoning", "m."), ("answer", "Be")]:
        journal.add(kind, text)
    killed(journal)

    now = Sessions.open(place).load(saved["id"])

    assert said(now) == [
        *said(saved),
        ("user", None, QUESTION, None),
        ("assistant", "analysis", "Hmm.", None),
        ("assistant", "final", "Be", "program_ended"),
    ]
    assert files(place) == []
    assert Sessions.open(place).load(saved["id"]) == now  # once


def test_a_conversation_that_was_never_saved_is_there(
    place: Path, saved: dict[str, Any]
) -> None:
    new = saved | {"id": "n" * 32, "messages": []}
    journal = opened(place, new["id"])
    journal.begin(question=QUESTION, updated=None, data=new)
    killed(journal)

    sessions = Sessions.open(place)

    assert said(sessions.load(new["id"])) == [("user", None, QUESTION, "program_ended")]
    assert sessions.search("why")[0].chat.id == new["id"]


def test_a_line_that_was_cut_is_left_out(place: Path, saved: dict[str, Any]) -> None:
    journal = opened(place, saved["id"])
    journal.begin(question=QUESTION, updated=saved["updated"])
    journal.add("answer", "whole")
    os.write(journal._handle, b'["answer","cu')
    killed(journal)

    assert said(Sessions.open(place).load(saved["id"]))[-1][2] == "whole"


def test_an_answer_that_was_saved_whole_stays_so(
    place: Path, saved: dict[str, Any]
) -> None:
    journal = opened(place, saved["id"])
    journal.begin(question=QUESTION, updated="earlier")
    journal.begin(updated=saved["updated"])  # it was saved, with its answer
    killed(journal)

    assert Sessions.open(place).load(saved["id"]) == saved
    assert files(place) == []


@pytest.mark.parametrize("updated", ["2001-01-01T00:00:00+00:00", None])
def test_a_chat_that_went_on_elsewhere_stays_so(
    place: Path, saved: dict[str, Any], updated: str | None
) -> None:
    journal = opened(place, saved["id"])
    journal.begin(question=QUESTION, updated=updated, data=saved)
    journal.add("answer", "old")
    killed(journal)

    assert Sessions.open(place).load(saved["id"]) == saved


def test_the_journal_of_a_running_answer_is_left_alone(
    place: Path, saved: dict[str, Any]
) -> None:
    journal = opened(place, saved["id"])
    journal.begin(question=QUESTION, updated=saved["updated"])

    assert Sessions.open(place).load(saved["id"]) == saved
    assert Sessions.open(place).journal(saved["id"]) is None
    assert len(files(place)) == 1
    journal.close()
    assert files(place) == []


def test_a_deleted_chat_does_not_come_back(place: Path, saved: dict[str, Any]) -> None:
    for ids in ([saved["id"]], None):
        journal = opened(place, saved["id"])
        journal.begin(question=QUESTION, updated=None, data=saved)
        killed(journal)
        path = next(place.parent.rglob("*.jsonl"))
        kept = path.with_suffix(".kept")
        os.link(path, kept)

        sessions = Sessions(ChatDatabase(place), print)  # that did not recover it
        sessions.delete_all(ids)

        assert kept.read_bytes() == b""  # overwritten, too
        kept.unlink()
        assert Sessions.open(place).list() == ()


def test_what_is_not_a_journal_harms_nothing(
    place: Path, saved: dict[str, Any]
) -> None:
    folder = place.with_name(place.name + "-answers")
    folder.mkdir()
    for n, text in enumerate(['["x"]\n', "{}\n", '{"updated": 1}\n[1]\n', "", "\0\0"]):
        (folder / f"{n}.jsonl").write_text(text)
    (folder / "link.jsonl").symlink_to(place)

    assert Sessions.open(place).load(saved["id"]) == saved
    assert [one.id for one in Sessions.open(place).list()] == [saved["id"]]


def test_a_journal_is_its_owners_alone(place: Path, saved: dict[str, Any]) -> None:
    journal = opened(place, saved["id"])
    path = next(place.parent.rglob("*.jsonl"))

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    journal.close()
