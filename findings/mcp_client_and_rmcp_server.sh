#!/usr/bin/env bash
# mcp 2.3.0 (Python) as a client of a server made with rmcp 1.7.0, Rust's MCP library.
#
# Guess: `Client(...)` connects to any MCP server; its `mode="auto"` is documented to
# ask by `server/discover` and to fall back to `initialize` for a server of the earlier
# protocols, which rmcp 1.7.0 speaks.
# Seen: the first message ends the server ("expect initialized request"), and with it
# the connection, so that there is nothing left to fall back on. `mode="legacy"` works.
#
# mlx_gptoss asks by `initialize` first (tests/chat/test_tools_mcp_odd.py).
#
#     findings/mcp_client_and_rmcp_server.sh      # Linux on x86-64; exit 0: as described
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    mcp==2.3.0 cnb-rs-mcp==1.3.0
maker=$(grep -a -o -m 1 'rmcp-[0-9][0-9.]*[0-9]' "$folder/env/bin/cnb-rs-mcp" | head -n 1)
echo "mcp 2.3.0, cnb-rs-mcp 1.3.0 (made with $maker)"

cat > "$folder/connect.py" <<'PYTHON'
import asyncio
import sys
from pathlib import Path

from mcp import Client, StdioServerParameters, stdio_client

SERVER = StdioServerParameters(
    command=str(Path(sys.executable).with_name("cnb-rs-mcp")),
    env={"CNB_TOKEN": "none"},
)


async def tools(mode: str) -> str:
    with open("server.log", "w+") as log:
        try:
            async with Client(stdio_client(SERVER, errlog=log), mode=mode) as client:
                return f"{len((await client.list_tools()).tools) > 0}"
        except Exception as error:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            log.seek(0)
            last = log.read().strip().splitlines()[-1]
            return f"{type(error).__name__}: {error}\n    the server's last line: {last[:60]}"


for mode in ("auto", "legacy"):
    print(f"{mode}: tools listed: {asyncio.run(tools(mode))}")
PYTHON

seen=$(cd "$folder" && "$folder/env/bin/python" connect.py 2> /dev/null)
echo "expected: tools listed in both modes"
echo "seen:"
echo "$seen"
grep -q '^auto: tools listed: MCPError' <<< "$seen"
grep -q '^legacy: tools listed: True' <<< "$seen"
