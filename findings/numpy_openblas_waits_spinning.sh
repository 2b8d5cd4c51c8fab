#!/usr/bin/env bash
# numpy 2.4.6, the wheel for Linux, with OpenBLAS 0.3.31: a product beside a busy core.
#
# Guess: beside busy programs a product of two threads takes at most what one thread
# takes, for each has half a core.
# Seen: some 35 times as long. The threads wait for each other in a loop of `nop`, without
# yielding or sleeping, and whoever waits keeps a core until its time slice ends.
# OPENBLAS_THREAD_TIMEOUT does not change it: that is for threads without work.
#
# mlx_gptoss makes short products in one thread
# (mlx_gptoss/model/host_product.py, tests/model/test_host_product.py).
#
#     findings/numpy_openblas_waits_spinning.sh     # exit 0: as described
#     needs Linux and two cores
set -euo pipefail

folder=$(mktemp -d)
busy=()
trap 'kill "${busy[@]}" 2> /dev/null; rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 2> /dev/null

cat > "$folder/try.py" <<'PYTHON'
import os
import time

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])

import numpy as np

x, w = np.ones((64, 192), np.float32), np.ones((192, 384), np.float32)
started = time.perf_counter()
for _ in range(200):
    x @ w
print(time.perf_counter() - started)
PYTHON

for _ in 1 2; do # one for each of the two cores: the product gets half of each
    "$folder/env/bin/python" -c "
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
while True: pass" &
    busy+=($!)
done
sleep 1
one=$(OPENBLAS_NUM_THREADS=1 "$folder/env/bin/python" "$folder/try.py")
two=$(OPENBLAS_NUM_THREADS=2 "$folder/env/bin/python" "$folder/try.py")
echo "200 products of 64 x 192 x 384 beside two busy programs, on two cores"
echo "expected: two threads take about as long as one, or less"
echo "seen: one thread $one s, two threads $two s"
"$folder/env/bin/python" -c "import sys; sys.exit(not $two > 3 * $one)"
