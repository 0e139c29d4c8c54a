"""The machine that runs compiled kernels: what instructions give, and threads that part and meet."""
import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ptx.machine import Machine
from tests.ptx.parsing import Unknown
from tests.ptx.written import OWN, run, text

# --- instructions ---------------------------------------------------------------------------------
I32, I64, F32 = np.int32, np.int64, np.float32
NAN, INF = F32(np.nan), F32(np.inf)


def bits(x):
    return int(np.asarray(x).view(np.uint32))


CASES = [                                # instruction, operands, what it gives
    ("add.s32", (I32(2**31 - 1), I32(1)), I32(-(2**31))), ("sub.s32", (I32(-(2**31)), I32(1)), I32(2**31 - 1)),
    ("mul.lo.s32", (I32(65536), I32(65537)), I32(65536)), ("mul.hi.u32", (I32(-1), I32(-1)), I32(-2)),
    ("mul.wide.s32", (I32(-3), I32(2**30)), I64(-3 * 2**30)),
    ("mul.wide.u32", (I32(-1), I32(2)), I64(2 * (2**32 - 1))),
    ("mad.lo.s32", (I32(3), I32(-4), I32(5)), I32(-7)), ("div.u32", (I32(-1), I32(2)), I32(2**31 - 1)),
    ("div.s32", (I32(-7), I32(2)), I32(-3)), ("rem.s32", (I32(-7), I32(2)), I32(-1)),
    ("rem.u32", (I32(-7), I32(10)), I32((2**32 - 7) % 10)), ("min.s64", (I64(-1), I64(1)), I64(-1)),
    ("max.u64", (I64(-1), I64(1)), I64(-1)), ("min.f32", (NAN, F32(2)), F32(2)), ("max.f32", (F32(2), NAN), F32(2)),
    ("shl.b32", (I32(1), I32(31)), I32(-(2**31))), ("shl.b32", (I32(1), I32(32)), I32(0)),
    ("shr.s32", (I32(-8), I32(1)), I32(-4)), ("shr.s32", (I32(-8), I32(40)), I32(-1)),
    ("shr.u32", (I32(-1), I32(28)), I32(15)), ("shr.u32", (I32(-1), I32(32)), I32(0)),
    ("shl.b64", (I64(-1), I32(40)), I64(-(2**40))), ("shr.u64", (I64(-1), I32(60)), I64(15)),
    ("and.b32", (I32(12), I32(10)), I32(8)), ("or.b64", (I64(12), I64(3)), I64(15)),
    ("xor.b32", (I32(-1), I32(1)), I32(-2)), ("not.b32", (I32(0),), I32(-1)), ("neg.s32", (I32(5),), I32(-5)),
    ("abs.f32", (F32(-5),), F32(5)), ("popc.b32", (I32(-1),), I32(32)), ("popc.b64", (I64(-1),), I32(64)),
    ("bfi.b32", (I32(3), I32(-1), 4, 4), I32(-193)), ("bfi.b64", (I64(1), I64(0), 32, 8), I64(2**32)),
    ("fma.rn.f32", (F32(1 + 2**-12), F32(1 - 2**-12), F32(-1)), F32(-(2.0**-24))),
    ("add.f32", (F32(1), F32(2**-24)), F32(1)), ("mul.f32", (F32(2**-100), F32(2**-60)), F32(0)),
    ("div.rn.f32", (F32(1), F32(3)), F32(1) / F32(3)), ("rcp.rn.f32", (F32(0),), INF),
    ("sqrt.rn.f32", (F32(2),), np.sqrt(F32(2))), ("mov.b32", (I32(7),), I32(7)),
    ("cvt.s64.s32", (I32(-1),), I64(-1)), ("cvt.u64.u32", (I32(-1),), I64(2**32 - 1)),
    ("cvt.u32.u64", (I64(2**32 + 5),), I32(5)), ("cvt.rn.f32.s32", (I32(2**24 + 1),), F32(2**24)),
    ("cvt.rn.f32.u32", (I32(-1),), F32(2**32)), ("cvt.rzi.s32.f32", (F32(-2.7),), I32(-2)),
    ("cvt.rzi.s32.f32", (NAN,), I32(0)), ("cvt.rzi.s32.f32", (INF,), I32(2**31 - 1)),
    ("cvt.rzi.s32.f32", (-INF,), I32(-(2**31))), ("cvt.rzi.s64.f32", (F32(2.0**63),), I64(2**63 - 1)),
    ("cvt.rni.f32.f32", (F32(2.5),), F32(2)), ("cvt.rmi.f32.f32", (F32(-2.5),), F32(-3)),
    ("cvt.rn.bf16x2.f32", (F32(1 + 2**-8), F32(1 + 3 * 2**-8)), I32(0x3F803F82)),
    ("cvt.rn.bf16x2.f32", (NAN, F32(0)), I32(0x7FFF0000)),
]  # fmt: skip


def register(value, number):
    kind = {"i4": "r", "i8": "rd", "f4": "f", "f8": "fd", "i2": "rs"}[np.asarray(value).dtype.str[1:]]
    return f"%{kind}{number}"


def literal(value):
    """A number as an immediate operand."""
    if type(value) is int:
        return str(value)
    if value.dtype.kind == "f":
        return ("0f" if value.itemsize == 4 else "0d") + struct.pack(">f" if value.itemsize == 4 else ">d", value).hex()
    return str(int(value))


def of_one(code, operands, result):
    """What an instruction gives of constants, and of numbers from memory."""
    width = result.itemsize
    to = register(result, 30)
    store = f"st.global.{'b' if result.dtype.kind == 'i' else 'f'}{8 * width} [%rd2], {to};"
    written = ", ".join(map(literal, operands))
    memory = np.concatenate([np.asarray(v).view(f"u{np.asarray(v).itemsize}").astype(np.uint64)[None]
                             for v in operands if type(v) is not int])  # fmt: skip
    loads, named, at = "", [], 0
    for i, value in enumerate(operands):
        if type(value) is int:
            named.append(str(value))
            continue
        kind = ("f" if value.dtype.kind == "f" else "b") + str(8 * value.itemsize)
        loads += f"ld.global.{kind} {register(value, 10 + i)}, [%rd1+{8 * at}];\n"
        named.append(register(value, 10 + i))
        at += 1
    addresses = "ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [out];"
    found = []
    for body in (f"{code} {to}, {written};", f"{loads} {code} {to}, {', '.join(named)};"):
        out = np.zeros(1, result.dtype)
        run(f"{addresses} {body} {store}", memory, out, threads=1)
        found.append(out[0])
    return found


@pytest.mark.parametrize(("code", "operands", "right"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_an_instruction(code, operands, right):
    for found in of_one(code, operands, right):
        np.testing.assert_array_equal(found, right)


COMPARED = {"eq": False, "ne": False, "lt": False, "le": False, "gt": False, "ge": False, "equ": True, "neu": True,
            "ltu": True, "leu": True, "gtu": True, "geu": True, "nan": True, "num": False}  # fmt: skip


@pytest.mark.parametrize("how", COMPARED)
def test_comparisons_with_what_is_no_number(how):
    x, out = np.array([np.nan, 1, 2], F32), np.zeros(3, I32)
    run(f"""{OWN} ld.global.f32 %f1, [%rd4]; setp.{how}.f32 %p1, %f1, 0f3F800000; selp.b32 %r5, 1, 0, %p1;
            st.global.u32 [%rd5], %r5;""", x, out, threads=3)
    plain = {"eq": [0, 1, 0], "ne": [0, 0, 1], "lt": [0, 0, 0], "le": [0, 1, 0], "gt": [0, 0, 1], "ge": [0, 1, 1],
             "na": [0, 0, 0], "nu": [0, 1, 1]}[how[:2]]  # fmt: skip
    assert out.tolist() == [int(COMPARED[how]), *plain[1:]]


@given(st.tuples(*[st.floats(width=64, allow_nan=False, allow_infinity=False, min_value=-1e100, max_value=1e100)] * 3))
def test_fma_of_float64_rounds_once(operands):
    a, b, c = map(np.float64, operands)
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    right = float(exact)
    if 0 < abs(right) < 1e-250:          # where the rest of a product is no number any more
        return
    half = Fraction(math.ulp(right)) / 2
    for found in of_one("fma.rn.f64", (a, b, c), np.float64(right)):
        assert abs(Fraction(float(found)) - exact) <= half * (1 + Fraction(1, 2**40))


def test_halves_of_words():
    x, out = np.array([0x0000000500000003], I64), np.zeros(1, I64)
    run("""ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [out]; ld.global.u64 %rd6, [%rd1]; mov.b64 {%r5, %r6}, %rd6;
           mov.b64 %rd7, {%r6, %r5}; st.global.u64 [%rd2], %rd7;""", x, out, threads=1)
    assert out.tolist() == [0x0000000300000005]


def test_a_function_is_called():
    twice = """.func (.param .b32 func_retval0) twice(.param .b32 twice_param_0)
    { .reg .f32 %f<3>; .reg .pred %p<2>; ld.param.f32 %f1, [twice_param_0]; setp.gt.f32 %p1, %f1, 0f00000000;
      @%p1 bra $L1; mov.f32 %f1, 0f3F800000; $L1: add.f32 %f2, %f1, %f1; st.param.f32 [func_retval0+0], %f2; ret; }"""
    x, out = np.array([3, -1, 5], F32), np.zeros(3, F32)
    run(f"""{OWN} ld.global.f32 %f1, [%rd4];
            {{ .param .b32 param0; st.param.f32 [param0+0], %f1; .param .b32 retval0;
               call.uni (retval0), twice, (param0); ld.param.f32 %f2, [retval0+0]; }}
            st.global.f32 [%rd5], %f2;""", x, out, threads=3, more=twice)
    assert out.tolist() == [6, 2, 10]


def test_what_the_machine_does_not_know_it_refuses():
    for body in ("sin.approx.f32 %f1, %f1;", "atom.global.add.f32 %f1, [%rd1], %f1;", "ld.local.f32 %f1, [%rd1];",
                 "@%p1 st.global.f32 [%rd1], %f1;", "mul.hi.u64 %rd1, %rd1, %rd1;", "cvt.rn.sat.f32.f32 %f1, %f2;"):
        with pytest.raises(Unknown, match=rf"line \d+: {body.split()[1 if body[0] == '@' else 0]}"):
            Machine(text(body))


# --- threads that part and meet -------------------------------------------------------------------
def test_threads_go_round_a_loop_as_often_as_each_must():
    x, out = np.arange(64, dtype=I32) % 7, np.zeros(64, I32)
    run(f"""{OWN} ld.global.u32 %r5, [%rd4]; mov.u32 %r6, 0;
            $L1: setp.le.s32 %p1, %r5, 0; @%p1 bra $L2; add.s32 %r6, %r6, %r5; sub.s32 %r5, %r5, 1; bra.uni $L1;
            $L2: st.global.u32 [%rd5], %r6;""", x, out, blocks=2)
    np.testing.assert_array_equal(out, x * (x + 1) // 2)


@pytest.mark.parametrize("threads", [32, 33, 64, 96])
@pytest.mark.parametrize(("kind", "by", "clamp"), [("bfly", 5, 31), ("down", 3, 31), ("up", 2, 0), ("idx", 9, 31),
                                                   ("bfly", 1, 0x181F), ("down", 1, 0x181F), ("idx", 2, 0x181F)])
def test_a_shuffle(kind, by, clamp, threads):
    x, out = np.arange(threads, dtype=I32) * 3 + 1, np.zeros(threads, I32)
    run(f"""{OWN} ld.global.u32 %r5, [%rd4]; shfl.sync.{kind}.b32 %r6|%p1, %r5, {by}, {clamp}, -1;
            st.global.u32 [%rd5], %r6;""", x, out, threads)
    segment = 8 if clamp >> 8 else 32
    for i in range(threads):
        first = i // segment * segment
        j = {"bfly": i ^ by, "down": i + by, "up": i - by, "idx": first + by % segment}[kind]
        j = j if first <= j < first + segment else i
        if j < threads:                  # what a thread that does not exist holds is nobody's
            assert out[i] == x[j], (i, j)


def test_votes():
    x, out = np.arange(64, dtype=I32), np.zeros(64, I32)
    body = f"""{OWN} ld.global.u32 %r5, [%rd4]; and.b32 %r6, %r5, 33; setp.eq.s32 %p1, %r6, 33;
               vote.sync.KIND %p2, %p1, -1; selp.b32 %r7, 1, 0, %p2; st.global.u32 [%rd5], %r7;"""
    ballot = body.replace("vote.sync.KIND %p2, %p1, -1; selp.b32 %r7, 1, 0, %p2;", "vote.sync.ballot.b32 %r7, %p1, -1;")
    assert set(run(body.replace("KIND", "any.pred"), x, out)[:32].tolist()) == {0}
    assert run(body.replace("KIND", "any.pred"), x, out, threads=64).tolist() == [0] * 32 + [1] * 32
    assert not run(body.replace("KIND", "all.pred"), x, out, threads=64).any()
    assert run(ballot, x, out, threads=64).view(np.uint32).tolist() == [0] * 32 + [0xAAAAAAAA] * 32


@pytest.mark.parametrize(("shape", "kind", "depth"), [("m16n8k8", "tf32", 8), ("m16n8k16", "bf16", 16)])
def test_a_tensor_core_multiplies_matrices(shape, kind, depth):
    """Fragments laid out as the ISA says, from whole numbers that both formats hold exactly."""
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(-8, 8, s).astype(F32) for s in ((16, depth), (depth, 8), (16, 8)))
    words = np.zeros((10, 32), np.uint32)
    for lane in range(32):
        g, t = lane // 4, lane % 4
        for i in range(4):
            words[6 + i, lane] = bits(c[g + 8 * (i // 2), 2 * t + i % 2])
            row, column = g + 8 * (i % 2), i // 2
            words[i, lane] = word(a[row], t + 4 * column, 2 * t + 8 * column, kind)
        for i in range(2):
            words[4 + i, lane] = word(b[:, g], t + 4 * i, 2 * t + 8 * i, kind)
    loads = "".join(f"ld.global.b32 %r{10 + i}, [%rd4+{128 * i}];" for i in range(6))
    loads += "".join(f"ld.global.f32 %f{10 + i}, [%rd4+{128 * (6 + i)}];" for i in range(4))
    stores = "".join(f"st.global.f32 [%rd5+{128 * i}], %f{20 + i};" for i in range(4))
    out = np.zeros((4, 32), F32)
    run(f"""{OWN} {loads} mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {{%f20,%f21,%f22,%f23}},
            {{%r10,%r11,%r12,%r13}}, {{%r14,%r15}}, {{%f10,%f11,%f12,%f13}}; {stores}""", words, out)
    for lane in range(32):
        g, t = lane // 4, lane % 4
        for i in range(4):
            assert out[i, lane] == (a @ b + c)[g + 8 * (i // 2), 2 * t + i % 2]


def word(row, single, pair, kind):
    """A register of a fragment: a number, or two of bfloat16."""
    if kind == "tf32":
        return bits(row[single])
    return bits(row[pair]) >> 16 | bits(row[pair + 1]) & 0xFFFF0000
