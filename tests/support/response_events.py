"""Check the events of a response's stream: order, numbers, and their sum.

    final = rebuilt(events)      # the response that the events add up to

Written from the API's description and independent of what makes the events.
"""

from typing import Any

Event = dict[str, Any]
ENDS = ("response.completed", "response.incomplete", "response.failed")
TEXTS = {  # part, item, events of the part, and index field
    "response.output_text": ("output_text", "message", "content_part", "content"),
    "response.reasoning_text": (
        "reasoning_text",
        "reasoning",
        "content_part",
        "content",
    ),
    "response.reasoning_summary_text": (
        "summary_text",
        "reasoning",
        "reasoning_summary_part",
        "summary",
    ),
}
CALLS = {
    "response.function_call_arguments": ("function_call", "arguments"),
    "response.custom_tool_call_input": ("custom_tool_call", "input"),
}


def rebuilt(events: list[Event]) -> Event:
    """Return the response of the last event, if all events before agree with it."""
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert [e["type"] for e in events[:2]] == [
        "response.created",
        "response.in_progress",
    ]
    assert all(e["response"]["status"] == "in_progress" for e in events[:2])
    assert events[0]["response"]["output"] == []
    assert events[-1]["type"] in ENDS
    final = events[-1]["response"]
    assert events[0]["response"]["id"] == final["id"]
    items = _items(events[2:-1])
    assert final["output"] == items
    return final


def _items(events: list[Event]) -> list[Event]:
    """Check the events between first and last: complete items, one after another."""
    items: list[Event] = []
    rest = list(events)
    while rest:
        added = rest.pop(0)
        assert added["type"] == "response.output_item.added"
        assert added["output_index"] == len(items)
        item, own = added["item"], []
        assert item["status"] == "in_progress"
        while rest and rest[0]["type"] != "response.output_item.done":
            own.append(rest.pop(0))
        if not rest:  # an unfinished call has no end, and nothing follows
            assert item["type"].endswith("call")
            assert {e["type"].rpartition(".")[2] for e in own} <= {"delta"}
            break
        done = rest.pop(0)
        assert all(e["item_id"] == item["id"] for e in own)
        assert all(e["output_index"] == len(items) for e in [*own, done])
        assert done["item"]["id"] == item["id"]
        assert done["item"]["status"] in ("completed", "incomplete")
        judge = JUDGES.get(item["type"], _call)
        judge(item, own, done["item"])
        items.append(done["item"])
    return items


def _text(item: Event, own: list[Event], done: Event) -> None:
    first, *deltas, said, part_done = own
    kind = said["type"].removesuffix(".done")
    part, of, event, place = TEXTS[kind]
    assert first["type"] == f"response.{event}.added"
    assert first["part"]["text"] == ""
    assert part_done["type"] == f"response.{event}.done"
    assert (first["part"]["type"], item["type"], item[place]) == (part, of, [])
    assert {e["type"] for e in deltas} <= {f"{kind}.delta"}
    index = "summary_index" if place == "summary" else "content_index"
    assert all(e[index] == 0 for e in own)
    text = "".join(e["delta"] for e in deltas)
    assert all(e["delta"] for e in deltas)
    assert said["text"] == text
    assert done[place] == [part_done["part"]]
    assert part_done["part"]["text"] == text
    if place == "summary":
        assert done["content"] == [{"type": "reasoning_text", "text": text}]
    elif of == "reasoning":
        assert done["summary"] == []
    if kind == "response.output_text":
        assert said["logprobs"] == [one for e in deltas for one in e["logprobs"]]
        assert part_done["part"]["logprobs"] == said["logprobs"]


def _call(item: Event, own: list[Event], done: Event) -> None:
    *deltas, said = own
    kind = said["type"].removesuffix(".done")
    of, field = CALLS[kind]
    assert (item["type"], item[field]) == (of, "")
    assert {e["type"] for e in deltas} <= {f"{kind}.delta"}
    assert said[field] == done[field]
    assert {**item, field: done[field], "status": done["status"]} == done


def _search(item: Event, own: list[Event], done: Event) -> None:
    """Check a tool search: its arguments, an object, are only in its last event."""
    assert (item["execution"], item["arguments"], own) == ("client", {}, [])
    told = {"arguments": done["arguments"], "status": done["status"]}
    assert item | told == done


JUDGES = {"message": _text, "reasoning": _text, "tool_search_call": _search}
