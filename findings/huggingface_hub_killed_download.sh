#!/usr/bin/env bash
# huggingface_hub 2.4.0: a download by `hf_hub_download` that is killed.
#
# Guess: the next call goes on where the part of the file ends (`http_get` has
# `resume_size`, and the server answers to `Range`), as it does after a connection that
# broke; and a part that is of no use is removed.
# Seen: the next call asks for all of the file again, without a range, into a part of
# another random name. The first part stays, and no later call removes it. The names are
# meant so: where a file system grants a lock to everyone, two processes would append to
# one part.
#
# mlx_gptoss downloads by ranges into parts of its own, and removes the library's that
# nobody writes (mlx_gptoss/checkpoint/hub/transfer.py, tests/checkpoint/test_hub_killed.py).
#
#     findings/huggingface_hub_killed_download.sh     # exit 0: as described
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    huggingface_hub==2.4.0 2> /dev/null

cat > "$folder/try.py" <<'PYTHON'
"""A Hub of one file on loopback, and downloads of it in processes of their own."""

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONTENT = os.urandom(8_000_000)
KILL_AFTER = 5_000_000
COMMIT = "c0ffee" * 6 + "beef"
ETAG = hashlib.sha256(CONTENT).hexdigest()
CACHE = Path(sys.argv[1])
DOWNLOAD = (
    "from huggingface_hub import hf_hub_download as get;"
    f"get('owner/name', 'weights.bin', cache_dir={str(CACHE)!r})"
)
asked, sent = [], threading.Event()


class Hub(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(200, CONTENT)

    def do_GET(self):
        wanted = self.headers.get("range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        asked.append(f"range {wanted}: {len(CONTENT) - start} bytes")
        self.answer(206 if wanted else 200, CONTENT[start:], start)

    def answer(self, status, body, start=0):
        self.send_response(status)
        self.send_header("ETag", f'"{ETAG}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            last = len(CONTENT) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(CONTENT)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        first = not sent.is_set()
        self.wfile.write(body[:KILL_AFTER] if first else body)
        self.wfile.flush()
        if first:
            sent.set()
            threading.Event().wait(60)  # nothing more comes: until it is killed


def parts():
    return sorted(path.name.split(".", 1)[1] for path in CACHE.rglob("*.incomplete"))


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
environment = os.environ | {
    "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
}
command = [sys.executable, "-c", DOWNLOAD]
killed = subprocess.Popen(command, env=environment)
sent.wait()
while not parts():
    pass
killed.kill()
killed.wait()
left = parts()
for _ in range(2):
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
print("\n".join(asked))
print(f"parts after the kill: {len(left)}, two downloads later: {len(parts())}")
print(f"the same part: {left == parts()}")
os._exit(0)
PYTHON

seen=$("$folder/env/bin/python" "$folder/try.py" "$folder/cache")
echo "huggingface_hub 2.4.0"
echo "expected: a second request for the rest, by range, and no part left"
echo "seen:"
echo "$seen"
[ "$(grep -c '^range None: 8000000 bytes$' <<< "$seen")" = 2 ]
grep -q '^parts after the kill: 1, two downloads later: 1$' <<< "$seen"
