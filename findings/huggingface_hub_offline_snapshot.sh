#!/usr/bin/env bash
# huggingface_hub 2.4.0: `snapshot_download(local_files_only=True)` of what is here in part.
#
# Guess: offline it returns a folder that holds what was asked for, or raises
# `IncompleteSnapshotError`, as it does for a snapshot whose listing it wrote itself.
# Seen: where one file came by `hf_hub_download` (a config that was looked at), there is
# no listing, and the folder with that file alone is returned as the snapshot: also with
# `allow_patterns="*.safetensors"`, of which it holds none.
#
# mlx_gptoss asks what a model's files need instead, and says how much is missing
# (mlx_gptoss/checkpoint/hub/cached_models.py, tests/checkpoint/test_hub_incomplete.py).
#
#     findings/huggingface_hub_offline_snapshot.sh     # exit 0: as described
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    huggingface_hub==2.4.0 2> /dev/null

cat > "$folder/try.py" <<'PYTHON'
"""A Hub of one model on loopback; one file of it is fetched, then it is offline."""

import hashlib
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FILES = {"config.json": b"{}", "model.safetensors": b"weights"}
COMMIT = "c0ffee" * 6 + "beef"


class Hub(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        refused = path.endswith("/model.safetensors") and refuses
        if "/tree/" in path:
            entry = {"type": "file", "oid": "0" * 40}
            body = [entry | {"path": n, "size": len(c)} for n, c in FILES.items()]
            self.send(200, json.dumps(body).encode())
        elif path.startswith("/api/"):
            body = {"id": "owner/name", "sha": COMMIT, "siblings": []}
            self.send(200, json.dumps(body).encode())
        else:
            self.send(403 if refused else 200, FILES[path.rpartition("/")[2]])

    def send(self, status, body):
        self.send_response(status)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

from huggingface_hub import hf_hub_download, snapshot_download  # noqa: E402


def offline(cache, **patterns):
    options = {"cache_dir": cache, "local_files_only": True, **patterns}
    try:
        return sorted(os.listdir(snapshot_download("owner/name", **options)))
    except Exception as error:
        return type(error).__name__


alone, begun = sys.argv[1:]
refuses = False
hf_hub_download("owner/name", "config.json", cache_dir=alone)
print("one file fetched:", offline(alone))
print("its weights asked for:", offline(alone, allow_patterns="*.safetensors"))
refuses = True
try:
    snapshot_download("owner/name", cache_dir=begun)
except Exception as error:
    print("a snapshot that broke off:", type(error).__name__)
print("control, that snapshot:", offline(begun))
PYTHON

seen=$("$folder/env/bin/python" "$folder/try.py" "$folder/alone" "$folder/begun" 2> /dev/null)
echo "huggingface_hub 2.4.0"
echo "expected: IncompleteSnapshotError, three times"
echo "seen:"
echo "$seen"
grep -qF "one file fetched: ['config.json']" <<< "$seen"
grep -qF "its weights asked for: ['config.json']" <<< "$seen"
grep -q '^control, that snapshot: IncompleteSnapshotError$' <<< "$seen"
