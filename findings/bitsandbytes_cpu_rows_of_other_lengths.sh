#!/usr/bin/env bash
# bitsandbytes 0.50.2: 4-bit weights whose rows are not whole blocks, decoded on a CPU.
#
# Guess: `dequantize_4bit` inverts `quantize_4bit` for any shape. Blocks of 64 values are
# counted through the flat weight, so that the end of a row may be in the block in which
# the next row begins (`absmax` has count / 64 entries).
# Seen: the CPU's kernel begins a block with every row (it is given the numbers of rows and
# of columns), so it takes the scales of other blocks from the second row on. A weight of
# (192, 224) comes back with 2.7 times the error, without a warning. Rows of 192 and 2,880
# values, whole blocks, are right, and so is the flat formula for any shape.
#
# mlx_gptoss decodes blocks through the flat weight
# (convert/mlx_gptoss_convert/read/bitsandbytes.py), and compares itself with the library
# on whole rows (tests/convert/test_packed_live.py).
#
#     findings/bitsandbytes_cpu_rows_of_other_lengths.sh     # exit 0: as described
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 bitsandbytes==0.50.2 numpy 2> /dev/null

cat > "$folder/try.py" <<'PYTHON'
"""Quantize weights of several shapes, and decode them twice."""

import bitsandbytes.functional as bnb
import torch

torch.manual_seed(0)
for shape in ((192, 192), (192, 224)):
    weight = torch.randn(shape).to(torch.bfloat16)
    packed, state = bnb.quantize_4bit(weight, compress_statistics=False, quant_type="nf4")
    theirs = bnb.dequantize_4bit(packed, state)
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten()
    scales = state.absmax.repeat_interleave(state.blocksize)
    flat = (state.code[codes.long()] * scales).reshape(shape).to(torch.bfloat16)
    errors = [(x.float() - weight.float()).square().mean().sqrt() for x in (theirs, flat)]
    ratio = (errors[0] / errors[1]).item()
    print(f"{shape}: error of the library / of flat blocks = {ratio:.1f}")
PYTHON

seen=$("$folder/env/bin/python" "$folder/try.py" 2> /dev/null)
echo "bitsandbytes 0.50.2 on a CPU"
echo "expected: the error of flat blocks, for both shapes"
echo "seen:"
echo "$seen"
grep -q '^(192, 192): .* = 1.0$' <<< "$seen"
grep -q '^(192, 224): .* = 2\.[5-9]$' <<< "$seen"
