"""Kernels written by hand, of two arrays: x and out."""
from __future__ import annotations

import numpy as np

from .machine import Machine
from .traffic import Traffic

REGISTERS = """.reg .pred %p<20>; .reg .b16 %rs<20>; .reg .b32 %r<40>; .reg .f32 %f<40>; .reg .b64 %rd<40>;
    .reg .f64 %fd<40>;"""
OWN = """
    ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [out]; cvta.to.global.u64 %rd1, %rd1; cvta.to.global.u64 %rd2, %rd2;
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mad.lo.s32 %r4, %r2, %r3, %r1;
    mul.wide.s32 %rd3, %r4, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;"""
"""rd4 and rd5 are where this thread's number of x and of out lie, r1 is its number in the block."""


def text(body: str, shared: str = "", more: str = "") -> str:
    """A kernel of two arrays, x and out."""
    return f""".version 9.0
.target sm_90
.address_size 64
{shared}
{more}
.visible .entry k(.param .u64 x, .param .u64 out)
{{
    {REGISTERS}
    {body}
    ret;
}}"""


def run(body: str, x: np.ndarray, out: np.ndarray, threads: int = 32, blocks: int = 1, shared: str = "",
        more: str = "", traffic: Traffic | None = None) -> np.ndarray:  # fmt: skip
    """out, after a launch. shared: variables of shared memory; more: functions that the kernel calls."""
    machine = Machine(text(body, shared, more))
    machine.launch((blocks, 1, 1), (threads, 1, 1), 0, [a.ctypes.data for a in (x, out)], [x, out], traffic)
    return out
