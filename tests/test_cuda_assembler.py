"""ptxas where there is one, the driver where there is none or it refuses: never a kernel less, and one warning."""
import os
import subprocess
import sys
import warnings
from pathlib import Path

import cuda_compile
import pytest

from engine.kernels.cuda import assembler

ROOT = Path(__file__).parent.parent
SCRIPT = """#!/bin/sh
if [ "$1" = --version ]; then echo "Cuda compilation tools, release 13.0, V13.0.88"; exit 0; fi
{}
"""
COPIES = 'printf "%s of " "$1" > "$4"; cat "$2" >> "$4"'
REFUSES = 'echo "ptxas $2, line 1; fatal: Unsupported .version 9.0" >&2; exit 255'


@pytest.fixture
def with_ptxas(tmp_path, monkeypatch):
    """Play a ptxas that does so; None: there is none. What is found and refused is forgotten afterwards."""

    def play(does):
        if does is not None:
            program = tmp_path / "ptxas"
            program.write_text(SCRIPT.format(does))
            program.chmod(0o755)
        monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin" if does else str(tmp_path))
        monkeypatch.setattr(assembler, "_given_up", [])
        assembler.ptxas.cache_clear()
        assembler.version.cache_clear()

    yield play
    monkeypatch.undo()
    assembler.ptxas.cache_clear()
    assembler.version.cache_clear()


def test_it_assembles_for_the_card(with_ptxas):
    with_ptxas(COPIES)
    assert assembler.usable() and assembler.version() == "13.0.88"
    assert assembler.assembled(".version 9.0", (9, 0)) == b"-arch=sm_90 of .version 9.0"


def test_without_one_the_driver_assembles(with_ptxas):
    with_ptxas(None)
    assert assembler.ptxas() is None and assembler.version() is None and not assembler.usable()


def test_a_program_of_that_name_that_says_no_version_is_not_used(with_ptxas, tmp_path):
    with_ptxas(COPIES)
    (tmp_path / "ptxas").write_text("#!/bin/sh\nexit 1\n")
    assert assembler.version() is None and not assembler.usable()


def test_one_that_refuses_is_named_once_and_left_alone(with_ptxas, tmp_path):
    with_ptxas(REFUSES)
    with pytest.warns(RuntimeWarning, match=r"ptxas 13\.0\.88 \(.*ptxas\): it does not assemble what Numba compiled: "
                                            r"ptxas the PTX, line 1; fatal: Unsupported \.version 9\.0\. The driver "):
        assert assembler.assembled(".version 9.0", (8, 0)) is None
    assert not assembler.usable()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assembler.give_up("again")


LOADING = """
import sys, types, warnings
from pathlib import Path
from engine.kernels.cuda import assembler, embed, provider

class Refused(Exception):
    pass

loaded = []

class Module:
    def load(self, image):
        loaded.append(image)
        if image[:4] == b"\\x7fELF" and REFUSED:
            raise Refused("CUDA_ERROR_INVALID_IMAGE")
    def get_function(self, name):
        return name

cuda = types.SimpleNamespace(function=types.SimpleNamespace(Module=Module),
                             driver=types.SimpleNamespace(CUDADriverError=Refused))
provider.cupy = lambda: types.SimpleNamespace(cuda=cuda)
kernel = embed._embed

REFUSED = False
assert "_embed" in provider._loaded(kernel, None, (9, 0))
assert "_embed" in provider._loaded(kernel, None, (9, 0))
assert [image[:4] for image in loaded] == [b"\\x7fELF"] * 2 and loaded[0] == loaded[1]
kept = sorted(path.suffix for path in Path(sys.argv[1]).glob("microtfm-cuda-*/*"))
assert kept == [".cubin", ".ptx"], kept

heard = []
warnings.showwarning = lambda message, *_: heard.append(str(message))
warnings.simplefilter("always")
for damage in (lambda image: b"", lambda image: image[:300], lambda image: image[:40] + b"x" + image[41:]):
    for file in Path(sys.argv[1]).glob("microtfm-cuda-*/*"):
        file.write_bytes(damage(file.read_bytes()))
    assert "_embed" in provider._loaded(kernel, None, (9, 0))
    assert loaded[-1][:4] == b"\\x7fELF" and assembler.usable()
assert len(heard) == 1 and "a damaged file of compiled kernels was removed" in heard[0], heard

REFUSED = True
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    for _ in range(2):
        del loaded[:]
        assert "_embed" in provider._loaded(kernel, None, (9, 0))
        print(len(loaded))
        assert b".entry" in loaded[-1]
assert len(heard) == 1 and "the driver does not take its machine code" in str(heard[0].message)
"""


def test_the_tool_that_times_tiles_knows_their_kernels():
    problem = cuda_compile.missing()
    if problem:
        pytest.skip(problem)
    program = "from tests import gpu_tiles; print(len(gpu_tiles.kernels()))"
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, text=True, capture_output=True,
                         timeout=300)
    assert run.returncode == 0 and int(run.stdout) > 30, run.stderr[-3000:]


def test_what_is_loaded_is_machine_code_kept_on_disk_and_ptx_where_a_driver_refuses_it(tmp_path):
    problem = cuda_compile.missing()
    if problem:
        pytest.skip(problem)
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0", "NUMBA_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", LOADING, str(tmp_path)], cwd=ROOT, env=environment, text=True,
                         capture_output=True, timeout=300)
    assert run.returncode == 0 and run.stdout.split() == ["2", "1"], run.stderr[-3000:]


KEPT = """
import types
import numpy as np
from engine.kernels.cuda import provider
from engine.kernels.cuda.jit import KERNELS, cuda, kernel

def made(number):
    @kernel("float32[::1]", threads=32)
    def _adds(x):
        x[cuda.threadIdx.x] += np.float32(number)
    return _adds

texts = []
for number in (1.0, 2.0, 1.0):
    texts.append(provider.cached_ptx(made(number), None, (9, 0)))
    KERNELS.pop()
assert texts[0] == texts[2] != texts[1] and "0f40000000" in texts[1]

def facts(x):
    return provider._fact((lambda: lambda: x)())

values = [1, 1.5, (1, 2), (1, 3), np.arange(2), np.arange(3), np.float32(2), lambda v: v + 1, lambda v: v * 2]
assert len({repr(facts(x)) for x in values}) == len(values)

class Event:
    count = 0
    def __init__(self, disable_timing):
        Event.count += 1
    def record(self):
        self.done = False
    def synchronize(self):
        self.done = True

class Out:
    def set(self, array):
        self.array = array

waited = []
stream = types.SimpleNamespace(synchronize=lambda: waited.append(1))
played = types.SimpleNamespace(Event=Event, get_current_stream=lambda: stream)
provider.cupy = lambda: types.SimpleNamespace(cuda=played)
x, outs = np.zeros(3), [Out() for _ in range(3 * provider.UNDER_WAY)]
for out in outs:
    provider.send(out, x[::-1])
    x += 1
assert [out.array[0] for out in outs] == list(range(len(outs)))
assert Event.count == len(provider._sent) == provider.UNDER_WAY and outs[-1].array is provider._sent[-1][1]
assert not waited
provider.send(outs[0], np.zeros(provider.LARGE // 8 + 1))
assert waited == [1] and outs[-1].array is provider._sent[-1][1]
"""


def test_kernels_are_kept_by_what_they_do_and_numbers_until_they_have_arrived(tmp_path):
    problem = cuda_compile.missing()
    if problem:
        pytest.skip(problem)
    file = tmp_path / "kept.py"
    file.write_text(KEPT, encoding="utf-8")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0", "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, str(file)], env=environment, text=True, capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]


PLACES = """
import os, sys, tempfile, warnings
from pathlib import Path
from engine.kernels import disk
from engine.kernels.cuda import assembler, embed, provider

kernel, heard = embed._embed, []
warnings.showwarning = lambda message, *_: heard.append(str(message))
warnings.simplefilter("always")
place = Path(sys.argv[1])
os.environ.pop("HOME", None)
tempfile.tempdir = str(place)
os.path.expanduser = lambda path: path                   # a user without a home
assert b".entry" in provider.cached_ptx(kernel, None, (9, 0)).encode() and heard == []
assert sorted(path.suffix for path in place.glob("microtfm-*/microtfm-cuda-*/*")) == [".ptx"]

full = provider.cached_ptx(kernel, None, (8, 0))
os.environ["NUMBA_OPT"] = "0"
provider._sources.cache_clear()
provider.cached_ptx(kernel, None, (8, 0))
assert len(list(place.glob("microtfm-*/microtfm-cuda-*/*.ptx"))) == 3    # another option, another file

def nowhere(*_, **__):
    raise OSError(28, "No space left on device")
tempfile.TemporaryDirectory = nowhere
assert provider.cached_code(kernel, None, (9, 0)) is None
assert len(heard) == 1 and "it cannot be run" in heard[0] and "The driver assembles" in heard[0], heard
tempfile.mkstemp = nowhere
for capability in ((8, 6), (8, 9)):
    assert ".entry" in provider.cached_ptx(kernel, None, capability)
assert len(heard) == 2 and "compiled kernels cannot be kept in" in heard[1], heard
"""


def test_kernels_compile_without_a_home_a_disk_or_room_on_one(tmp_path):
    problem = cuda_compile.missing()
    if problem:
        pytest.skip(problem)
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "NUMBA_OPT"):
        environment.pop(name, None)
    run = subprocess.run([sys.executable, "-c", PLACES, str(tmp_path)], cwd=ROOT, env=environment, text=True,
                         capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("error", ["ImportError('no such library')", "OSError('libcudart.so.13: cannot open')",
                                   "AttributeError('module numpy has no attribute x')"])
def test_packages_that_fail_while_they_are_imported_are_packages_that_are_missing(error, tmp_path):
    (tmp_path / "numba_cuda").mkdir()
    (tmp_path / "numba_cuda" / "__init__.py").write_text(f"raise {error}\n")
    program = ("import engine; print(engine.choose_device('auto')); print(engine.Tensor([1.0]).device)\n"
               "try: engine.Tensor([1.0], device='cuda')\nexcept engine.DeviceError as e: print(e)")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0", "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, text=True,
                         capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    auto, here, refused = run.stdout.splitlines()
    assert "no card can be used (CUDA kernels need numba-cuda, which" in auto and here == "cpu"
    assert refused.startswith("device cuda: CUDA kernels need numba-cuda") and error.split("'")[1] in refused
