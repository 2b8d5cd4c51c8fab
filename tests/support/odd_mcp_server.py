"""A minimal MCP server that follows the protocol, or breaks it as its argument says.

    python tests/support/odd_mcp_server.py WAY

Written without the library, so that it can use either protocol and break any reply.
"""

import json
import sys
import time
from typing import Any

TOOL = {"name": "look", "description": "Look.", "inputSchema": {"type": "object"}}
INFO = {"name": "odd", "version": "1"}
MODERN = "2026-07-28"
COMPLETE = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}


def answer(way: str, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """Return the members of a reply, or None for no reply."""
    match way, method:
        case ("broken", "initialize"):
            return {"result": {"protocolVersion": 7}}
        case ("modern", "initialize"):
            data = {"supported": [MODERN], "requested": params["protocolVersion"]}
            return {"error": {"code": -32022, "message": "too old", "data": data}}
        case ("modern", "server/discover"):
            known = {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}
            return {"result": known | COMPLETE}
        case ("ends-on-discover", "server/discover"):
            sys.exit("expected initialize")
        case ("refuses", _):
            return {"error": {"code": -32603, "message": "no licence"}}
        case (_, "server/discover") | ("no-list", "tools/list"):
            return None
        case (_, "initialize"):
            version = params["protocolVersion"]
            served = {"protocolVersion": version, "capabilities": {"tools": {}}}
            return {"result": served | {"serverInfo": INFO}}
        case ("endless", "tools/list"):
            return {"result": {"tools": [TOOL] * 500, "nextCursor": "on"}}
        case ("prompts-only", "tools/list"):
            return {"error": {"code": -32601, "message": "Method not found"}}
        case ("alike", "tools/list"):
            names = ("a.b", "a_b", "a b", "a_b")
            return {"result": {"tools": [{**TOOL, "name": name} for name in names]}}
        case ("alike", "tools/call"):
            seen = {"content": [{"type": "text", "text": params["name"]}]}
            return {"result": seen}
        case ("refuses-call", "tools/call"):
            return {"error": {"code": -32602, "message": "wrong:\n- `a` is missing"}}
        case ("many", "tools/list"):
            many = [{**TOOL, "name": f"look_{number}"} for number in range(5000)]
            return {"result": {"tools": many}}
        case ("no-schema", "tools/list"):
            return {"result": {"tools": [{"name": "peek"}]} | COMPLETE}
        case (_, "tools/list"):
            return {"result": {"tools": [TOOL]} | COMPLETE}
        case ("broken-call", "tools/call"):
            return {"result": {"content": "seen"}}
        case ("latin-call", "tools/call"):
            return {"result": {"content": [{"type": "text", "text": "caf\udce9"}]}}
        case ("noisy-call", "tools/call"):
            print("looking ...", flush=True)
            time.sleep(600)
        case (_, "tools/call"):
            seen = {"content": [{"type": "text", "text": "seen"}]}
            return {"result": seen | {"resultType": "complete"}}
    return {"error": {"code": -32601, "message": f"no {method}"}}


def main(way: str) -> None:
    if way in ("banner", "only-banner"):
        print("Welcome to odd!", flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or way == "only-banner":
            continue
        reply = answer(way, message["method"], message.get("params", {}))
        if reply is not None:
            whole = {"jsonrpc": "2.0", "id": message["id"], **reply}
            text = json.dumps(whole, ensure_ascii=way != "latin-call")
            sys.stdout.buffer.write(f"{text}\n".encode(errors="surrogateescape"))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
