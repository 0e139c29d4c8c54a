"""What can be wrong with a card, each by a provider that plays it: a clear word, no hang, nothing lost."""
from __future__ import annotations

import re
import sys
import types
import warnings
from dataclasses import replace

import numpy as np
import pytest

import engine
from engine import DeviceError, ShapeError, Tensor, default_device
from engine.arrays import on_card
from engine.kernels import cuda
from engine.kernels.cpu import jit_disabled
from engine.kernels.cuda import CompileFailure, arrays, card
from engine.selftest import unusable
from microtfm import cli, train
from microtfm.bench.sides import simulated
from microtfm.errors import UserError
from tests.tiny import corpus, settings, text_files

pytest.importorskip("greenlet")


class Runtime:
    """CuPy's view of a driver: what each call returns, or raises."""

    def __init__(self, count=1, driver=13000, runtime=13000, major=9, minor=0, memory=(70 * 2**30, 80 * 2**30)):
        self._count, self._driver, self._runtime, self._capability = count, driver, runtime, (major, minor)
        self._memory = memory

    def getDeviceCount(self):
        if isinstance(self._count, Exception):
            raise self._count
        return self._count

    def getDevice(self):
        return 0

    def getDeviceProperties(self, number):
        if isinstance(self._memory, Exception):
            raise self._memory
        return {"name": b"Tested 100", "major": self._capability[0], "minor": self._capability[1]}

    def driverGetVersion(self):
        return self._driver

    def runtimeGetVersion(self):
        return self._runtime

    def memGetInfo(self):
        return self._memory


@pytest.fixture
def with_card(monkeypatch):
    """Play a machine: `with_card(Runtime(…))`, or with an ImportError in the place of CuPy."""
    def play(runtime):
        provider = types.ModuleType("engine.kernels.cuda.provider")
        pool = types.SimpleNamespace(used_bytes=lambda: 3 * 2**30)
        library = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime),
                                        get_default_memory_pool=lambda: pool)

        def cupy():
            if isinstance(runtime, ImportError):
                raise runtime
            return library
        provider.cupy, provider.state = cupy, lambda: card.ask(cupy())
        provider.memory = lambda: runtime.memGetInfo()
        monkeypatch.setitem(sys.modules, provider.__name__, provider)
        monkeypatch.setattr(cuda, "provider", provider, raising=False)
        monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "0")
        card.problem.cache_clear()
    yield play
    monkeypatch.undo()
    card.problem.cache_clear()


CASES = {
    "no packages": (ImportError("arrays on a card need CuPy: install the CUDA packages"), "install the CUDA packages"),
    "no driver": (Runtime(RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient"), driver=0),
                  "there is no NVIDIA driver.*install one"),
    "silent driver": (Runtime(RuntimeError("cudaErrorInitializationError: initialization error")),
                      "the NVIDIA driver does not answer.*a restart"),
    "full memory": (Runtime(RuntimeError("cudaErrorMemoryAllocation: out of memory")),
                    "does not answer.*nvidia-smi shows which"),
    "hidden card": (Runtime(RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")),
                    "does not answer.*CUDA_VISIBLE_DEVICES"),
    "services": (Runtime(RuntimeError("cudaErrorSystemNotReady: system not yet initialized")),
                 "does not answer.*nvidia-fabricmanager"),
    "updated driver": (Runtime(RuntimeError("cudaErrorSystemDriverMismatch: system has unsupported display driver")),
                       "does not answer.*restart the machine"),
    "old driver": (Runtime(RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient"),
                           driver=12020), r"driver is too old.*serves CUDA 12.2.*or pip install .microtfm\[cuda12"),
    "very old driver": (Runtime(RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient"),
                                driver=11040), "driver is too old.*serves CUDA 11.4.*a newer driver, 525 or newer"),
    "older driver": (Runtime(driver=12040),
                     r"serves CUDA 12.4, and the CUDA packages here are for 13.0.*microtfm\[cuda12"),
    "no card": (Runtime(0), "no card is visible.*CUDA_VISIBLE_DEVICES"),
    "no capable card": (Runtime(RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")),
                        "does not answer.*nvidia-smi shows what there is"),
    "card in use": (Runtime(memory=RuntimeError("cudaErrorDevicesUnavailable: busy")), "Another process may hold it"),
    "old card": (Runtime(major=7, minor=5), "compute capability 7.5; the kernels need 8.0"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_card_that_cannot_be_used_is_refused_with_a_way_out(name, with_card, tmp_path, capsys):
    runtime, said = CASES[name]
    with_card(runtime)
    with pytest.raises(DeviceError, match=f"device cuda: .*{said}"), default_device("cuda"):
        pass
    with pytest.raises(DeviceError, match=f"device cuda: .*{said}"):
        Tensor([1.0], device="cuda")
    device, why = engine.choose_device("auto")
    assert device == "cpu" and why.startswith("cpu: no card can be used (")
    source, target = text_files(tmp_path)
    files = ["--src", str(source), "--tgt", str(target), "--out", str(tmp_path / "run")]
    assert cli.main(["train", *files, "--device", "cuda"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("microtfm: device cuda: ") and error.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["no packages", "old card"])
def test_a_run_of_a_card_goes_on_without_one_and_is_told_how(name, with_card, tmp_path, capsys):
    out = tmp_path / "run"
    train.train(replace(settings(out, steps=2, validate_every=2), device="cuda"), corpus=corpus())
    with_card(CASES[name][0])
    for precision, flags in (("float32", "--device cpu"), ("tf32", "--device cpu --precision float32")):
        config = (out / "config.toml").read_text(encoding="utf-8")
        config = re.sub('precision = ".*"', f'precision = "{precision}"', config)
        (out / "config.toml").write_text(config, encoding="utf-8")
        assert cli.main(["resume", str(out), "--train.steps", "3"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("microtfm: device cuda: ") and error.count("--device") == 1
        assert error.endswith(f"Without a card: microtfm resume {out} {flags}.\n")
        assert (out / "config.toml").read_text(encoding="utf-8") == config
    assert cli.main(["resume", str(out), "--train.steps", "3", "--device", "cpu"]) == 2
    assert "Use --precision float32" in capsys.readouterr().err
    assert cli.main(["resume", str(out), "--train.steps", "3", *flags.split()]) == 0
    assert "(cpu: as asked for, " in capsys.readouterr().out
    assert train.resume(out, changes={"steps": 4}).step == 4         # it is the run's device from there on
    with pytest.raises(DeviceError, match=rf"Without a card: microtfm resume {out} --device cpu\."):
        train.resume(out, changes={"steps": 5}, device="cuda")
    with pytest.raises(UserError, match="device = 'gpu' does not fit"):
        train.resume(out, changes={"steps": 5}, device="gpu")
    assert train.resume(out, changes={"steps": 5}, device="auto").step == 5
    assert cli.main(["translate", str(out), "一", "--device", "cuda"]) == 2
    assert capsys.readouterr().err.endswith("Without a card: --device cpu.\n")


@pytest.mark.parametrize("name", CASES)
def test_doctor_says_what_is_wrong_and_what_to_do(name, with_card):
    with_card(CASES[name][0])
    found = unusable(card.problem())
    assert found.ok is False and re.search("install|nvidia-|restart|--device cpu", found.fix)
    for text in (found.found, found.fix):
        assert text and text.count("(") == text.count(")")


def test_a_card_that_can_be_used_is_taken_and_named(with_card):
    with_card(Runtime())
    assert card.problem() is None
    assert engine.choose_device("auto") == ("cuda", "cuda: Tested 100, 70.0 of 80.0 GiB free")


def test_too_little_memory_says_what_was_needed_what_is_free_and_what_helps(with_card):
    with_card(Runtime(memory=(5 * 2**20, 80 * 2**30)))
    error = MemoryError("Out of memory allocating 2,147,483,648 bytes (allocated so far: 17 bytes).")
    with pytest.raises(DeviceError, match=(r"no memory for 2.00 GiB: 5.0 MiB of 80.00 GiB are free, and this process "
                                           r"holds 3.00 GiB .*--train.batch-tokens")), default_device("cuda"):
        raise error
    with pytest.raises(MemoryError), default_device("cpu"):
        raise error


class Full:
    """Stands for an array library whose card is full."""

    def __call__(self, *_, **__):
        raise MemoryError("Out of memory allocating 2,147,483,648 bytes (allocated so far: 17 bytes).")


OPS = {                                  # what asks for memory: through a kernel, a meaning, a copy, a step in place
    "Tensor": lambda x: Tensor([1.0], device="cuda"), "Tensor of an array": lambda x: Tensor(x),
    "zeros": lambda x: engine.zeros(3, device="cuda"), "to": lambda x: Tensor([1.0]).to("cuda"),
    "kernel": engine.exp, "meaning": engine.cumsum, "gradient": lambda x: (x * x).sum().backward(),
    "in place": lambda x: engine.update("accumulate", [x], [x]), "item": lambda x: x[np.array([1, 0])],
}


@pytest.mark.parametrize("what", OPS)
def test_too_little_memory_is_said_so_outside_default_device_too(what, with_card, monkeypatch):
    from engine.kernels.cuda import tape
    from engine.kernels.cuda.arrays import SimulatedArray

    x = Tensor([1.0, 2.0], device="cuda", requires_grad=what == "gradient")
    with_card(Runtime(memory=(5 * 2**20, 80 * 2**30)))
    monkeypatch.setattr(tape, "from_numpy", Full())
    monkeypatch.setattr(SimulatedArray, "astype", Full())
    for name in ("exp", "mul", "accumulate", "take"):
        monkeypatch.setitem(cuda._found, name, Full())
    monkeypatch.setattr(SimulatedArray, "__array_function__", Full())
    monkeypatch.setattr(SimulatedArray, "__array_ufunc__", Full())
    with pytest.raises(DeviceError, match=r"no memory for 2.00 GiB: 5.0 MiB of 80.00 GiB are free") as caught:
        OPS[what](x)
    assert isinstance(caught.value.__cause__, MemoryError)


def test_too_little_memory_of_the_computer_stays_what_it_is(monkeypatch):
    monkeypatch.setattr(np, "cumsum", Full())
    with pytest.raises(MemoryError, match="2,147,483,648"):
        engine.cumsum(Tensor([1.0, 2.0]))


def test_auto_is_a_device_wherever_one_is_named(monkeypatch):
    x = Tensor([1.0, 2.0])
    doors = (lambda: Tensor([1.0], device="auto"), lambda: Tensor(x, device="auto"), lambda: x.to("auto"),
             lambda: Tensor(x.to("cuda"), device="auto"), lambda: engine.zeros(2, device="auto"),
             lambda: engine.ones_like(x, device="auto"), lambda: engine.full(2, 3, device="auto"),
             lambda: engine.eye(2, device="auto"), lambda: engine.arange(3, device="auto"),
             lambda: engine.linspace(0, 1, 3, device="auto"))
    assert {door().device for door in doors} == {"cpu"}      # a simulated card is not what anybody means
    monkeypatch.setattr(card, "simulated", lambda: False)
    monkeypatch.setattr(card, "problem", lambda: None)
    monkeypatch.setattr(card, "name", lambda: "Tested 100")
    assert {door().device for door in doors} == {"cuda"}
    with pytest.raises(DeviceError, match="no device 'gpu'; there are cpu, cuda and auto"):
        Tensor([1.0], device="gpu")


def test_a_kernel_that_does_not_compile_gives_way_to_the_meaning_with_one_warning(monkeypatch):
    def broken(x):
        raise CompileFailure("the CUDA kernel _exp does not compile for float32: SyntaxError: PTX")

    monkeypatch.setitem(cuda._found, "exp", broken)
    x = Tensor([0.0, 1.0], device="cuda")
    with pytest.warns(RuntimeWarning, match="does not compile.*The op exp runs by its definition"):
        y = engine.exp(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = engine.exp(x)
    assert y.device == "cuda" and y.tolist() == again.tolist() == np.exp(np.float32([0, 1])).tolist()


@pytest.mark.skipif(jit_disabled(), reason="nothing is recorded")
def test_what_a_broken_kernel_wrote_on_the_tape_is_taken_back(monkeypatch):
    """It fails after its first launch; the recorded step has the meaning alone, and its numbers."""
    right = cuda.kernel("neg")

    def broken(x):
        right(x)
        raise CompileFailure("the second kernel of neg does not compile")

    monkeypatch.setitem(cuda._found, "neg", broken)
    with default_device("cuda"), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        step = engine.replay(lambda x: -x)
        for _ in range(3):
            assert step(np.float32([1, 2])).tolist() == [-1, -2]
    assert len([w for w in heard if "neg runs by its definition" in str(w.message)]) == 1
    (plan,) = step.plans()
    assert len(plan.steps) == 1


def test_an_update_without_a_kernel_is_the_processors(monkeypatch):
    """Where none compiles, the rules in place run as array operations: the same numbers within rounding."""
    found = {}
    for device in ("cpu", "cuda"):
        for rule in ("global_norm", "adam", "sgd", "count", "average", "copy", "accumulate", "write"):
            if device == "cuda":
                monkeypatch.setitem(cuda._found, rule, None)
        with default_device(device):
            rng = np.random.default_rng(0)
            p, g, m, v, a = (Tensor(np.abs(rng.standard_normal((3, 1, 4))).astype(np.float32)) for _ in range(5))
            step, many = Tensor(np.array(2)), Tensor(np.zeros((3, 5, 4), np.float32))
            norm = engine.global_norm([p, g])
            engine.update("count", [step], norm=norm)
            engine.update("adam", [p], [g], [m], [v], lr=0.1, beta1=0.9, beta2=0.98, eps=1e-9, weight_decay=[0.1],
                          step=step, norm=norm, clip_norm=1.0, divisor=2.0)
            engine.update("sgd", [a], [g], [m], lr=0.1, momentum=0.9, weight_decay=[0.1], nesterov=True)
            engine.update("average", [v], [p], step=step, window=8, norm=norm)
            engine.update("accumulate", [m], [g])
            engine.update("write", [many], [p], at=Tensor(np.array([3])))
            engine.update("copy", [g], [a])
            before = p.numpy()
            engine.update("adam", [p], [g], [m], [v], lr=0.1, beta1=0.9, beta2=0.98, eps=1e-9, weight_decay=[0.1],
                          step=step, norm=Tensor(np.array(np.inf)), clip_norm=1.0)
            assert p.numpy().tolist() == before.tolist()
            found[device] = [x.numpy() for x in (p, g, m, v, a, step, many, norm)]
    for mine, theirs in zip(found["cuda"], found["cpu"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=1e-7)


def test_a_meaning_that_arrays_on_a_card_cannot_compute_is_named(monkeypatch):
    monkeypatch.setattr("engine.record.OPS", {})
    spread = engine.op("spread", lambda x: np.ptp(x, axis=0), lambda g, y, x: g + x * 0)
    with pytest.raises(DeviceError, match=r"spread: its meaning calls numpy\.ptp, which arrays on a card do not have"):
        spread(Tensor(np.ones((2, 3), np.float32), device="cuda"))
    assert spread(Tensor(np.float32([[1, 5], [4, 4]]))).tolist() == [3, 1]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_limits_and_ids_are_named_alike(device):
    x = Tensor(np.float32([1, 5, 9]), device=device)
    with pytest.raises(ShapeError, match=r"clip: low has shape \(3,\), and limits are single numbers"):
        engine.clip(x, low=x)
    assert engine.clip(x, low=Tensor(2.0, device=device), high=np.float32(6)).tolist() == [2, 5, 6]
    with pytest.raises(engine.GraphError, match=r"clip: high requires a gradient.*use maximum or minimum"):
        engine.clip(x, high=Tensor(np.float32(2), requires_grad=True, device=device))
    with pytest.raises(ShapeError, match="low is NaN"):
        engine.clip(x, low=float("nan"))
    for ids, message in ((np.array([3]), "id 3 is out of range"), (np.array([-4], np.int8), "id -4 is out of range")):
        with pytest.raises(engine.IndexRangeError, match=f"take: {message} for 3 rows"):
            engine.take(x, Tensor(ids, device=device), axis=0)


def test_updates_warn_of_nothing_on_a_card(recwarn):
    for dtype in (np.float32, np.float64):
        p, g = (Tensor(np.array([1, np.inf], dtype), device="cuda") for _ in range(2))
        engine.update("sgd", [p], [g], lr=0.1, weight_decay=[0.0], norm=0.0, clip_norm=1.0)
        engine.update("average", [p], [g], step=1, window=4.0)
        engine.global_norm([Tensor(np.array([1e300], np.float64), device="cuda")])
    assert not recwarn.list


@pytest.mark.skipif(jit_disabled(), reason="nothing is recorded")
@pytest.mark.parametrize("early", [False, True])
def test_a_kernel_that_is_given_up_while_a_step_is_recorded_is_left_out_of_all_of_it(monkeypatch, early):
    """It had served other shapes before, in the same step, or in a recording that is a call old."""
    right = cuda.kernel("sum")

    def some(x, **params):
        if x.size > 4:
            raise CompileFailure("the CUDA kernel _sum_over_rows does not compile")
        return right(x, **params)

    monkeypatch.setitem(cuda._found, "sum", some)
    x = np.arange(6, dtype=np.float32)
    with default_device("cuda"), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        step = engine.replay(lambda x: engine.sum(x[:3]) + (engine.sum(engine.tanh(x[:2])) if early else engine.sum(x)))
        for call in range(4):
            expected = x[:3].sum() + (np.tanh(x[:2]).sum() if early else x.sum())
            assert step(x).item() == pytest.approx(expected, rel=1e-6)
            if early and not call:
                engine.sum(Tensor(x))
    assert len([w for w in heard if "sum runs by its definition" in str(w.message)]) == 1


def test_a_card_that_fails_is_said_to_have_failed(monkeypatch):
    """Where it is noticed first: at a launch, in a replayed step, at the numbers. What was saved goes on elsewhere."""
    failure = type("CUDADriverError", (RuntimeError,), {})("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access")

    def broken(*_, **__):
        raise failure
    x = Tensor([0.0, 1.0], device="cuda")
    says = r"the card failed \(CUDA_ERROR_ILLEGAL_ADDRESS.*microtfm resume goes on, with --device cpu"
    monkeypatch.setitem(cuda._found, "exp", broken)
    with pytest.raises(DeviceError, match=says):
        engine.exp(x)
    monkeypatch.setattr(arrays.SimulatedArray, "get", broken)
    with pytest.raises(DeviceError, match=says):
        x.tolist()
    monkeypatch.undo()
    step = engine.replay(lambda x: x * 2)
    step(x)
    monkeypatch.setattr("engine.kernels.cuda.graph.Graph.run", broken)
    with pytest.raises(DeviceError, match=says):
        step(x)


@pytest.mark.parametrize(("said", "memory", "last"), [
    ("cudaErrorMemoryAllocation: out of memory", True, False), ("CUDA_ERROR_OUT_OF_MEMORY", True, False),
    ("cudaErrorInvalidValue: invalid argument", False, False), ("cudaErrorLaunchFailure", False, True),
    ("CUDA_ERROR_MISALIGNED_ADDRESS: misaligned address", False, True)])
def test_what_a_driver_says_is_told_apart(said, memory, last):
    failure = type("CUDARuntimeError", (RuntimeError,), {})(said)
    with pytest.raises(DeviceError) as caught, on_card():
        raise failure
    assert ("has no memory" in str(caught.value)) == memory
    assert ("the card failed" in str(caught.value)) != memory
    assert ("cannot use it any longer" in str(caught.value)) == last
    with pytest.raises(RuntimeError, match="its own"), on_card():
        raise RuntimeError("its own")


@pytest.mark.parametrize(("value", "is_on"), [("1", True), ("2", True), ("0", False), (" 0", False), ("", False),
                                              ("false", False), ("off", False)])
def test_the_simulators_switch_is_read_as_numba_does(monkeypatch, value, is_on):
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", value)
    assert card.simulated() == simulated() == is_on
