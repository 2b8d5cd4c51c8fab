"""Measurements of speed and memory, each beside its peer under equal conditions.

decode.py             prefill and decode, load, first token, memory; rounds and ratios
engines.py            ours and stock mlx-lm behind one small surface
peer.py               the process an engine runs in: JSON lines on stdin and stdout
worker.py             the other end of that pipe
primitives.py         MLX primitives of one decoded token
peak.py               the most memory a process ever had
random_checkpoint.py  a random checkpoint of any size, to measure on

One file a benchmark. Nothing here prints; the command line does.
"""
