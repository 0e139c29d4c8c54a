"""Every CUDA kernel compiled for sm_80 and sm_90, without a card: what a simulator cannot see.

Kernels are compiled in a process of its own, where none are simulated.
"""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cuda_compile
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PROMISED = {                             # kernel -> instructions that its machine code must have
    r"product_(128|64).*": {r"FFMA.*": 512, r"LDS.*\.128": 32, r"LDG.*\.128.*": 2, r"STG.*\.128.*": 8},
    r"tf32_product_.*": {r"HMMA\..*TF32": 8, r"LDG.*\.128.*": 2},
    r"tf32x3_product_.*": {r"HMMA\..*TF32": 24, r"LDG.*\.128.*": 2},
    r"bf16_product_.*": {r"HMMA\..*BF16": 8, r"LDG.*\.128.*": 2},
    r"product_32.*": {r"FFMA.*": 128, r"LDS.*\.128": 16, r"LDG.*\.128.*": 2},
    r"(softmax|log_softmax|softmax_vjp|log_softmax_vjp|layer_norm|add_norm|add_norm_vjp)_.*": {
        r"LDG.*\.128.*": 4, r"STG.*\.128.*": 4},
    r"sum_(short|long)_rows|(softmax|layer_norm)_short": {r"LDG.*\.128.*": 8},
    r"cross_entropy.*|_take_up": {r"LDG.*\.128.*": 4},
    r"exp|add|_adam|_dropout|_embed|_take_rows": {r"LDG.*\.128.*": 1},
    r"short_attention_.*": {r"FFMA.*": 128, r"LDS.*\.128": 24, r"LDGSTS.*\.128.*": 3},
    r"attention_.*": {r"FFMA.*": 64, r"LDS.*\.128": 8, r"LDG.*\.128.*": 1},
}
SCARCE = 65536                           # registers of a multiprocessor


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    problem = cuda_compile.missing()
    if problem:
        pytest.skip(problem)
    file = tmp_path_factory.mktemp("compiled") / "kernels.json"
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    run = subprocess.run([sys.executable, "-m", "tests.cuda_compile", "--json", str(file)], cwd=ROOT, env=environment,
                         capture_output=True, text=True, timeout=1500)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(file.read_text())


def _named(row):
    return f"{row['kernel']} for {row['architecture']}"


def test_no_kernel_spills_registers(compiled):
    assert [_named(row) for row in compiled if row["spills"] or row["stack"]] == []


def test_no_float32_kernel_computes_in_float64(compiled):
    """But for kernels of one block that take float64: the norm, and the numbers of a step."""
    assert {row["kernel"] for row in compiled if row["float64"]} <= {"_norm", "_prepare", "_share", "_count"}


def test_every_block_can_be_launched(compiled):
    assert [_named(row) for row in compiled if row["registers"] * row["threads"] > SCARCE] == []
    assert [_named(row) for row in compiled if row["shared"] > 48 * 1024] == []


def test_arguments_are_handed_over_as_kernels_take_them(compiled):
    """One number for each parameter of the machine code, of its size, and of its kind where it has one."""
    for row in compiled:
        taken = [(kind[0] == "f", int(kind[1:]) // 8) for kind in row["parameters"]]
        given = [(e[0] == "f", np.dtype(e).itemsize) for e in row["elements"]]
        assert taken == given, f"{_named(row)}: {row['parameters']} for {row['elements']}"


def test_promised_instructions_are_there(compiled):
    found = set()
    for pattern, promised in PROMISED.items():
        for row in compiled:
            if re.fullmatch(pattern, row["kernel"]):
                found.add(pattern)
                for opcode, least in promised.items():
                    assert cuda_compile._count(row, opcode) >= least, f"{_named(row)}: {opcode}"
    assert found == set(PROMISED)


def test_the_table_names_every_kernel():
    """tests/bench/results/cuda_kernels.md is written anew when kernels come and go."""
    listed = set(re.findall(r"^\| (\w+) \|", cuda_compile.RESULTS.read_text(encoding="utf-8"), re.M)) - {"kernel"}
    assert listed == {k.__name__ for k in cuda_compile.kernels()}
