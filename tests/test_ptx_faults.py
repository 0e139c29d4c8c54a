"""The machine that runs compiled kernels: what a card does not forgive, and the engine's kernels themselves."""
import numpy as np
import pytest
from simulated import call, close, meaning, numbers

from engine.kernels.cuda.memory import SimulatedFault
from engine.kernels.cuda.precision import set_precision
from tests.ptx import compiling, running
from tests.ptx.memory import Fault
from tests.ptx.traffic import Traffic
from tests.ptx.written import OWN, run

F32, I32 = np.float32, np.int32

# --- what a card does not forgive -----------------------------------------------------------------
SHARED = ".visible .shared .align 16 .b8 memory[512];"
PUT = "mov.u32 %r8, memory; shl.b32 %r9, %r1, 2; add.s32 %r10, %r8, %r9; st.shared.u32 [%r10], %r1;"
GET = "xor.b32 %r11, %r9, 128; add.s32 %r12, %r8, %r11; ld.shared.u32 %r13, [%r12]; st.global.u32 [%rd5], %r13;"


def two(body, threads=64, shared=SHARED):
    x, out = np.zeros(128, I32), np.zeros(128, I32)
    return run(f"{OWN} {body}", x, out, threads, shared=shared)


def test_a_barrier_stands_between_writing_and_reading():
    np.testing.assert_array_equal(two(f"{PUT} bar.sync 0; {GET}")[:64], np.arange(64) ^ 32)
    with pytest.raises(Fault, match=r"block \(0, 0, 0\), thread \(\d+, 0, 0\): a race: thread \d+ of its block writes"):
        two(f"{PUT} {GET}")


def test_a_barrier_stands_between_reading_and_writing_again():
    two(f"{PUT} bar.sync 0; {GET} bar.sync 0; st.shared.u32 [%r10], %r4;")
    with pytest.raises(Fault, match=r"a race: .* reads the same word"):
        two(f"{PUT} bar.sync 0; {GET} st.shared.u32 [%r10], %r4;")


def test_a_warp_may_meet_by_itself():
    near = GET.replace("128", "4")
    np.testing.assert_array_equal(two(f"{PUT} bar.warp.sync -1; {near}")[:64], np.arange(64) ^ 1)
    with pytest.raises(Fault, match="a race"):
        two(f"{PUT} {near}")
    with pytest.raises(Fault, match="a race"):
        two(f"{PUT} bar.warp.sync -1; {GET}")


def test_two_threads_do_not_write_one_word():
    with pytest.raises(Fault, match="a race"):
        two("mov.u32 %r8, memory; st.shared.u32 [%r8], %r1;")
    two("mov.u32 %r8, memory; add.s32 %r8, %r8, %r1; cvt.u16.u32 %rs1, %r1; st.shared.u8 [%r8], %rs1;")


@pytest.mark.parametrize("body", [
    "setp.gt.s32 %p1, %r1, 40; @%p1 bra $L1; bar.sync 0; $L1: mov.u32 %r5, 0;",
    "setp.gt.s32 %p1, %r1, 40; @%p1 bra $L1; bar.sync 0; bra.uni $L2; $L1: bar.sync 0; $L2: mov.u32 %r5, 0;",
    "setp.gt.s32 %p1, %r1, 40; @%p1 bra $L1; shfl.sync.bfly.b32 %r6|%p2, %r1, 1, 31, -1; $L1: mov.u32 %r5, 0;"])
def test_a_barrier_that_not_all_reach(body):
    with pytest.raises(Fault, match=r"threads wait at line .* for others"):
        two(body)


@pytest.mark.parametrize(("body", "says"), [
    ("ld.global.f32 %f1, [%rd4+448];", "global memory, 512 bytes from the beginning of an array of 512"),
    ("ld.global.f32 %f1, [%rd4+-4];", "before all|bytes from the beginning"),
    ("ld.global.v4.f32 {%f1,%f2,%f3,%f4}, [%rd4];", "misaligned: 16 bytes of global memory"),
    ("st.global.u32 [%rd5+2], %r1;", "misaligned: 4 bytes of global memory"),
    ("mov.u32 %r8, memory; ld.shared.u32 %r9, [%r8+512];", "shared memory at 512: a block has 512"),
    ("mov.u32 %r8, memory; add.s32 %r8, %r8, %r1; ld.shared.u32 %r9, [%r8];", "misaligned: 4 bytes of shared")])
def test_memory_that_is_nobodys(body, says):
    with pytest.raises(Fault, match=says):
        two(body, threads=32)


COPY = ("mov.u32 %r8, memory; shl.b32 %r9, %r1, 2; add.s32 %r10, %r8, %r9; "
        "cp.async.ca.shared.global [%r10], [%rd4], 4, 4;")
SEE = "ld.shared.u32 %r13, [%r10]; st.global.u32 [%rd5], %r13;"


def test_copies_arrive_when_they_are_waited_for():
    x, out = np.arange(64, dtype=I32), np.zeros(64, I32)
    run(f"{OWN} {COPY} cp.async.commit_group; cp.async.wait_group 0; {SEE}", x, out, 64, shared=SHARED)
    np.testing.assert_array_equal(out, x)
    with pytest.raises(Fault, match="a copy to this word of shared memory is under way"):
        two(f"{COPY} cp.async.commit_group; {SEE}")
    with pytest.raises(Fault, match="a copy to this word of shared memory is under way"):
        two(f"{COPY} cp.async.commit_group; cp.async.wait_group 1; {SEE}")
    with pytest.raises(Fault, match="a copy to this word of shared memory is under way"):
        two(f"{COPY} cp.async.wait_group 0; {SEE}")              # it belongs to no group yet
    with pytest.raises(Fault, match="ends while copies that it asked for are under way"):
        two(f"{COPY} cp.async.commit_group;")
    with pytest.raises(Fault, match="a race"):
        two(f"{COPY} cp.async.commit_group; cp.async.wait_group 0; {GET}")


def test_a_copy_fills_up_with_zeros():
    x, out = np.arange(1, 5, dtype=I32), np.full(4, -1, I32)
    run("""ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [out]; mov.u32 %r8, memory; mov.u32 %r9, 8;
           cp.async.cg.shared.global [%r8], [%rd1], 16, %r9; cp.async.commit_group; cp.async.wait_group 0;
           ld.shared.v4.u32 {%r1,%r2,%r3,%r4}, [%r8]; st.global.v4.u32 [%rd2], {%r1,%r2,%r3,%r4};""",
        x, out, threads=1, shared=SHARED)
    assert out.tolist() == [1, 2, 0, 0]


def test_shared_memory_begins_as_no_number_and_belongs_to_a_block():
    out = two("mov.u32 %r8, memory; shl.b32 %r9, %r1, 2; add.s32 %r10, %r8, %r9; ld.shared.f32 %f1, [%r10]; "
              "st.global.f32 [%rd5], %f1;")
    assert np.isnan(out[:64].view(F32)).all()
    x, out = np.zeros(64, I32), np.zeros(64, I32)
    run(f"{OWN} setp.ne.s32 %p1, %r1, 0; @%p1 bra $L1; st.shared.u32 [memory], %r2; $L1: bar.sync 0; "
        "ld.shared.u32 %r5, [memory]; st.global.u32 [%rd5], %r5;", x, out, blocks=2, shared=SHARED)
    assert out.tolist() == [0] * 32 + [1] * 32


@pytest.mark.parametrize("body", [
    "st.global.u32 [%rd2], %r2;", "ld.global.u32 %r5, [%rd1]; st.global.u32 [%rd4], %r5;",
    "st.global.u32 [%rd4], %r2; ld.global.u32 %r5, [%rd1];"])
def test_blocks_do_not_share_what_they_write(body):
    x, out = np.zeros(64, I32), np.zeros(64, I32)
    with pytest.raises(Fault, match=r"another (block uses|thread writes)"):
        run(f"{OWN} {body}", x, out, blocks=2)


def test_threads_write_the_same_or_to_different_places():
    x, out = np.zeros(64, I32), np.zeros(64, I32)
    run(f"{OWN} st.global.u32 [%rd5], %r1;", x, out, blocks=2)
    assert out.tolist() == 2 * list(range(32))
    run(f"{OWN} mov.u32 %r5, 7; st.global.u32 [%rd2], %r5;", x, out, blocks=2)
    assert out[0] == 7
    with pytest.raises(Fault, match="another thread writes another number"):
        run(f"{OWN} st.global.u32 [%rd2], %r1;", x, out)


def test_a_kernel_that_does_not_end_is_stopped(monkeypatch):
    monkeypatch.setattr("tests.ptx.machine.MOST_STEPS", 1000)
    with pytest.raises(Fault, match="1000 steps, and no end"):
        two("$L1: bra.uni $L1;")


@pytest.mark.parametrize(("step", "width", "waves"), [(1, "u32", 1), (2, "u32", 2), (32, "u32", 4), (0, "u32", 1)])
def test_traffic_counts_how_often_a_bank_is_asked(step, width, waves):
    traffic = Traffic()
    x, out = np.zeros(32, I32), np.zeros(32, I32)
    run(f"{OWN} mov.u32 %r8, memory; mul.lo.s32 %r9, %r1, {4 * step}; and.b32 %r9, %r9, 511; add.s32 %r10, %r8, %r9; "
        f"ld.shared.{width} %r11, [%r10]; st.global.u32 [%rd5], %r11;", x, out, shared=SHARED, traffic=traffic)
    assert (traffic.needed["shared", "loads"], traffic.least["shared", "loads"]) == (waves, 1)
    assert (traffic.needed["global", "stores"], traffic.least["global", "stores"]) == (4, 4)


# --- the engine's kernels, where they can be compiled ---------------------------------------------
@pytest.fixture(scope="module")
def texts():
    problem = compiling.missing()
    if problem:
        pytest.skip(problem)
    return compiling.texts()


def test_compiled_kernels_give_the_meaning(texts):
    """All tests of kernels run so by `python -m tests.ptx`; here are some kernels of every kind."""
    before = running.LAUNCHES.total()
    with running.compiled(texts):
        x, w = numbers(40, 70), numbers(70, 36)
        close(call("matmul", x, w).get(), meaning("matmul", x, w), 70)
        close(call("softmax", x).get(), meaning("softmax", x), 70)
        close(call("layer_norm", x, w[:, 0].copy(), None)[0].get(), meaning("layer_norm", x, w[:, 0], None), 70)
        q = numbers(1, 2, 40, 32)
        params = {"causal": True, "scale": 0.3, "p": 0.0}
        close(call("scaled_dot_product_attention", q, q, q, None, None, **params)[0].get(),
              meaning("scaled_dot_product_attention", q, q, q, None, None, **params), 40)
    assert running.LAUNCHES.total() >= before + 4 and not running.WITHOUT


def test_no_bank_of_shared_memory_is_asked_for_two_words_at_once(texts):
    """Of products in every precision and attention of every width, but for the ends of rows."""
    running.TRAFFIC.clear()
    with running.compiled(texts, count_traffic=True):
        for precision in ("float32", "tf32x3", "tf32", "bf16"):
            before = set_precision(precision)
            try:
                for a, b in ((numbers(128, 64), numbers(64, 128)), (numbers(64, 128).T, numbers(128, 64).T)):
                    call("matmul", a, b)
            finally:
                set_precision(before)
        for depth in (32, 64, 128):
            q = numbers(1, 1, 64, depth)
            params = {"causal": True, "scale": 0.3, "p": 0.0}
            _, kept = call("scaled_dot_product_attention", q, q, q, None, None, **params)
            call("scaled_dot_product_attention_vjp", q, q, q, q, None, None, **params, weights=kept)
    counted = {key[1]: traffic for key, traffic in running.TRAFFIC.items() if traffic.needed}
    assert len(counted) >= 14
    for name, traffic in counted.items():
        for kind in ("loads", "stores", "copies", "ldmatrix"):
            assert traffic.needed["shared", kind] == traffic.least["shared", kind], f"{name}: {kind}"


def test_a_barrier_that_is_taken_from_a_kernel_is_missed(texts):
    with_product = {key: text for key, text in texts.items() if key[1].startswith("product_")}
    assert with_product
    without = {key: text.replace("bar.sync \t0;", "") for key, text in with_product.items()}
    with running.compiled(without), pytest.raises(SimulatedFault, match=r"product_.* as compiled, .*: "):
        call("matmul", numbers(40, 70), numbers(70, 36))
