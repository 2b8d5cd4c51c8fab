"""Ids that clients choose for items do not replace items of other responses."""

import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.api.responses.request import resolve_references
from mlx_gptoss.server.responses.store import FILE, STEPS, ResponseStore, StoredResponse

IDS = ["msg_a", "msg_b", "1", ""]
Json = dict[str, Any]


def item(id: str, text: str) -> Json:
    return {"type": "message", "role": "user", "id": id, "content": text}


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Generate saves of responses whose items share a few ids, and deletions."""
    steps: list[tuple[str, Any]] = []
    for number in range(draw(st.integers(1, 8))):
        if number and draw(st.integers(0, 3)) == 0:
            steps.append(("delete", f"r{draw(st.integers(0, number - 1))}"))
            continue
        given, said = draw(st.lists(st.sampled_from(IDS), max_size=3)), f"r{number}"
        items = [item(id, f"{said} asked {n}") for n, id in enumerate(given)]
        own = item(draw(st.sampled_from(IDS)), f"{said} answered")
        own["id"] += "o" if draw(st.booleans()) else ""
        steps.append(("save", StoredResponse({"id": said, "output": [own]}, items)))
    return steps


@settings(max_examples=12, deadline=None)
@given(histories())
def test_an_item_is_that_of_the_first_response_that_has_it(
    steps: list[tuple[str, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ResponseStore.open(Path(folder) / FILE)
        there: dict[str, StoredResponse] = {}
        for kind, what in steps:
            if kind == "delete":
                assert store.delete(what) == (there.pop(what, None) is not None)
            else:
                store.save(what)
                there[what.reply["id"]] = what
        for id in {*IDS, *(f"{one}o" for one in IDS)}:
            owners = [
                [*one.reply["output"], *one.items]
                for one in there.values()
                if id in [part["id"] for part in [*one.reply["output"], *one.items]]
            ]
            first = next((x for own in owners[:1] for x in own if x["id"] == id), None)
            assert store.find(id) == first


def test_a_clients_id_does_not_take_over_an_answer(tmp_path: Path) -> None:
    store = ResponseStore.open(tmp_path / FILE)
    said = item("msg_a", "the answer")
    store.save(StoredResponse({"id": "r1", "output": [said]}, []))
    store.save(
        StoredResponse({"id": "r2", "output": []}, [item("msg_a", "an impostor")])
    )

    assert store.find("msg_a") == said
    store.delete("r2")
    assert store.find("msg_a") == said


def test_what_is_referred_to_is_stored_and_outlives_its_first_response(
    tmp_path: Path,
) -> None:
    store = ResponseStore.open(tmp_path / FILE)
    said = item("msg_a", "the answer")
    store.save(StoredResponse({"id": "r1", "output": [said]}, []))
    items = resolve_references([{"type": "item_reference", "id": "msg_a"}], store.find)
    store.save(StoredResponse({"id": "r2", "output": []}, items))
    store.delete("r1")

    assert store.history("r2") == [said]
    assert store.find("msg_a") == said


def test_a_reference_means_an_item_of_its_own_conversation_first() -> None:
    ours, others = item("1", "ours"), item("1", "of others")
    later = item("1", "ours, later")
    reference = {"type": "item_reference", "id": "1"}

    assert resolve_references([ours, reference], lambda id: others) == [ours, ours]
    assert resolve_references([ours, later, {"id": "1"}], lambda id: others)[2] == later
    assert resolve_references([reference, ours], lambda id: others) == [others, ours]
    assert resolve_references([reference], lambda id: None) == [reference]
    assert resolve_references([ours, reference], None) == [ours, ours]


@pytest.mark.parametrize("id", [None, 7, "", "half a pair \ud800", "\0", ["x"]])
def test_odd_ids_harm_nothing(id: object, tmp_path: Path) -> None:
    store = ResponseStore.open(tmp_path / FILE)
    odd = {"type": "message", "id": id, "content": "x"}
    store.save(StoredResponse({"id": "r1", "output": []}, [odd]))

    [kept] = store.history("r1") or []
    assert isinstance(kept["id"], str)
    assert store.find(kept["id"]) == kept
    assert (store.load("\ud800"), store.history("\ud800")) == (None, None)
    assert (store.find("\ud800"), store.delete("\ud800")) == (None, False)
    assert list(tmp_path.iterdir()) == [tmp_path / FILE]


def test_a_store_of_the_first_version_goes_on(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / FILE)
    old.executescript(STEPS[0])
    said = item("msg_a", "said")
    row = ("r1", None, 1.0, 1, 9, json.dumps({"id": "r1", "output": [said]}), "[]")
    old.execute("insert into responses values (?, ?, ?, ?, ?, ?, ?)", row)
    old.execute("insert into items values ('msg_a', 'r1')")
    old.execute("pragma user_version = 1")
    old.commit()
    old.close()

    store = ResponseStore.open(tmp_path / FILE)
    store.save(StoredResponse({"id": "r2", "output": []}, [item("msg_a", "x")], "r1"))

    assert store.find("msg_a") == said
    assert len(store.history("r2") or []) == 2
    store.delete("r1")
    assert store.find("msg_a") == item("msg_a", "x")
