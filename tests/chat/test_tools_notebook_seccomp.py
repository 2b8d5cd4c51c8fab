"""The filter of system calls, run on an emulated machine."""

import struct

import pytest

from mlx_gptoss.chat.tools.notebook import (
    child_seccomp,
)

# The filter of system calls, on a machine made of Python


def allowed(machine: str, number: int, *arguments: int) -> bool:
    """Run the filter on one call like the Linux kernel (classic BPF)."""
    call = struct.pack(
        "IIQ6Q",
        number,
        child_seccomp.ARCHITECTURES[machine],
        0,
        *[*arguments, 0, 0, 0, 0, 0, 0][:6],
    )
    program, at, value = child_seccomp.program(machine), 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == child_seccomp.LOAD:
            [value] = struct.unpack_from("I", call, operand)
        elif code == child_seccomp.RETURN:
            return operand == child_seccomp.ALLOW
        else:
            tests = {
                child_seccomp.EQUAL: value == operand,
                child_seccomp.AT_LEAST: value >= operand,
                child_seccomp.ANY_BIT: bool(value & operand),
            }
            at += if_true if tests[code] else if_false


@pytest.mark.parametrize("machine", sorted(child_seccomp.ARCHITECTURES))
def test_the_filter_stops_what_it_names_and_nothing_else(machine: str) -> None:
    clone = child_seccomp.CLONE[machine]
    refused = {
        *child_seccomp.REFUSED[machine].values(),
        *child_seccomp.REFUSED_EVERYWHERE.values(),
        child_seccomp.CLONE3,
        clone,
    }
    assert {n for n in range(600) if not allowed(machine, n)} == refused
    assert allowed(machine, clone, child_seccomp.CLONE_THREAD | 0x100)
    assert not allowed(machine, clone, 17)
    assert not allowed(machine, child_seccomp.X32 + 1)


@pytest.mark.parametrize("machine", sorted(child_seccomp.ARCHITECTURES))
def test_the_filter_looks_at_arguments(machine: str) -> None:
    mmap, high = child_seccomp.MMAP[machine], 1 << 32
    private, shared, anonymous, checked = 0x02, 0x01, 0x20, 0x03
    for flags in (private | anonymous, private, shared, 0x4000 | private | anonymous):
        assert allowed(machine, mmap, 0, 0, 0, flags)
    for flags in (shared | anonymous, checked | anonymous, high | shared | anonymous):
        assert not allowed(machine, mmap, 0, 0, 0, flags)
    refused = {10, 37, 38, 1031}
    fcntl, prctl = child_seccomp.FCNTL[machine], child_seccomp.PRCTL[machine]
    assert {n for n in range(1100) if not allowed(machine, fcntl, 0, n)} == refused
    assert {n for n in range(100) if not allowed(machine, prctl, n)} == {1, 22}
