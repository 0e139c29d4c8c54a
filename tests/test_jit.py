"""The wrapper of all kernels: its cache on disk under bad luck, its calls."""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytest.importorskip("numba")
if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
    pytest.skip("kernels are switched off", allow_module_level=True)

ROOT = Path(__file__).parent.parent
KERNEL = """
    import os, sys, threading, warnings
    import numpy as np
    from engine.kernels.cpu.jit import get_threads, kernel, set_threads

    @kernel("T[::1], T[::1], int")
    def twice(lo, hi, x, out, n):
        for i in range(lo * 64, min(hi * 64, n)):
            out[i] = x[i] + x[i]

    def check(blocks=4, dtype="float32"):
        x = np.arange(200, dtype=dtype)
        out = np.zeros_like(x)
        twice(blocks, x, out, 200)
        assert (out == 2 * x)[: 64 * blocks].all()

    @kernel("T[:, :], bool[::1], T[::1], T")
    def rows(worker, lo, hi, x, extra, out, start):
        for i in range(lo, hi):
            out[i] = start + worker * 0 + extra.size
            for j in range(x.shape[1]):
                out[i] += x[i, j]
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the kernels' wrapper with nothing beside it, so that the cache folder is known to hold only ours."""
    top = tmp_path_factory.mktemp("source")
    (top / "engine").mkdir()
    (top / "engine" / "__init__.py").touch()
    kernels = top / "engine" / "kernels"
    (kernels / "cpu").mkdir(parents=True)
    (kernels / "__init__.py").touch()
    shutil.copy(ROOT / "engine" / "kernels" / "disk.py", kernels)
    for name in ("__init__", "cache", "helper", "jit", "launch", "native", "pool", "signals", "table", "tape", "team"):
        shutil.copy(ROOT / "engine" / "kernels" / "cpu" / f"{name}.py", kernels / "cpu")
    (kernels / "tiny.py").write_text(textwrap.dedent(KERNEL))
    return top


@pytest.fixture
def run(source, tmp_path):
    """Run lines of Python after `from engine.kernels.tiny import *` in a process of its own -> its warnings."""

    def start(lines, **environment):
        code = "from engine.kernels.tiny import *\n" + textwrap.dedent(lines)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG", "PYTHONPATH"))}
        env |= {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(source), "NUMBA_NUM_THREADS": "2"}
        env |= environment
        env = {k: v for k, v in env.items() if v is not None}
        command = [sys.executable, "-W", "always::RuntimeWarning", "-c", code]
        return subprocess.Popen(command, env=env, cwd=tmp_path, stdout=-1, stderr=-1, text=True)

    def finish(lines, **environment):
        process = start(lines, **environment)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return [line for line in errors.splitlines() if "Warning:" in line]

    finish.start = start
    return finish


@pytest.fixture
def warm(run, tmp_path):
    """A cache that was written once."""
    assert run("check()") == []
    (folder,) = (tmp_path / "cache").iterdir()
    return folder


def _stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_second_run_compiles_nothing(run, warm):
    before = _stamps(warm)
    assert len(before) == 3  # the kernel, its launch, what the workers do
    assert warm.stat().st_mode & 0o777 == 0o700
    for name, age in ((".old.tmp", 7200), (".new.tmp", 0)):  # one of them of a process that was killed
        (warm / name).write_bytes(b"half")
        os.utime(warm / name, (time.time() - age,) * 2)
    assert run("check()") == []
    assert not (warm / ".old.tmp").exists()
    (warm / ".new.tmp").unlink()
    assert _stamps(warm) == before


def _empty(content):
    return b""


def _truncate(content):
    return content[: len(content) // 2]


def _cut_head(content):
    return content[:7]


def _flip(content):
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


def _garbage(content):
    return b"cos\nsystem\n(S'touch hacked'\ntR." * 20


@pytest.mark.parametrize("damage", [_empty, _truncate, _cut_head, _flip, _garbage])
def test_damaged_files_are_compiled_again_with_one_warning(run, warm, tmp_path, damage):
    good = _stamps(warm)
    for path in warm.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    warnings = run("check()")
    assert len(warnings) == 1 and "damaged" in warnings[0]
    assert not (tmp_path / "hacked").exists()
    assert _stamps(warm).keys() == good.keys()
    assert run("check()") == []


def test_a_file_under_another_kernels_name_is_damaged(run, warm):
    good = {path: path.read_bytes() for path in sorted(warm.iterdir())}
    contents = list(good.values())
    for path, content in zip(good, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)
    warnings = run("check()")
    assert len(warnings) == 1 and "damaged" in warnings[0]
    assert run("check()") == []


def test_edited_sources_are_never_stale(run, source, warm):
    helper = source / "engine" / "kernels" / "elsewhere.py"
    helper.write_text("NUMBER = 1\n")
    try:
        lines = """
            from engine.kernels import elsewhere
            from engine.kernels.cpu.jit import jit, kernel
            NUMBER = elsewhere.NUMBER
            @kernel("int64[::1]")
            def number(lo, hi, out):
                out[0] = NUMBER
            out = np.zeros(1, np.int64)
            number(1, out)
            assert out[0] == {}, out
        """
        assert run(lines.format(1)) == []
        helper.write_text("NUMBER = 1 + 1\n")  # another length: Python itself looks at whole seconds and lengths
        assert run(lines.format(2)) == []
    finally:
        helper.unlink()


def test_an_edit_elsewhere_compiles_nothing_again(run, source, warm):
    before = _stamps(warm)
    other = source / "engine" / "kernels" / "other.py"
    other.write_text("NUMBER = 1\n")
    try:
        assert run("check()") == []
        assert _stamps(warm) == before
    finally:
        other.unlink()


def test_an_edit_of_what_is_imported_compiles_again(run, source, warm):
    before = _stamps(warm)
    imported = source / "engine" / "kernels" / "cpu" / "tape.py"
    text = imported.read_text()
    imported.write_text(text + "# another line\n")
    try:
        assert run("check()") == []
        assert len(_stamps(warm)) == len(before) + 1  # the kernel; its launch and the workers know nothing of tapes
    finally:
        imported.write_text(text)


def test_a_full_disk_costs_one_warning(run, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    pytest.importorskip("resource")
    warnings = run(limit + "check()")
    assert len(warnings) == 1 and "cannot be kept" in warnings[0]
    (folder,) = (tmp_path / "cache").iterdir()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="Linux capabilities")
def test_a_read_only_install_without_a_home(source, tmp_path):
    """Nothing may be written anywhere; root does without the capabilities that would let it."""
    for path in [source, *source.rglob("*"), tmp_path]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    drop = "import ctypes, os, sys; [ctypes.CDLL(None).prctl(24, c, 0, 0, 0) for c in (1, 2)]; os.execv("
    blocked = "import tempfile; tempfile.tempdir = os.getcwd(); from engine.kernels.tiny import *; check(); check(1)"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG", "PYTHONPATH", "TMP", "HOME"))}
    env |= {"PYTHONPATH": str(source), "HOME": str(tmp_path / "none"), "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-c", f"{drop}sys.executable, [sys.executable, '-c', 'import os; {blocked}'])"]
    found = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    for path in [source, *source.rglob("*"), tmp_path]:
        path.chmod(0o755)
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("Warning") == 1 and "NUMBA_CACHE_DIR" in found.stderr


def test_no_home_and_no_cache_folder(run, tmp_path):
    private = tmp_path / "tmp"
    private.mkdir()
    blocked = tmp_path / "file"
    blocked.touch()
    environment = {"NUMBA_CACHE_DIR": None, "HOME": str(blocked / "none"), "TMPDIR": str(private)}
    assert run("check(1)", **environment) == []
    (root,) = private.iterdir()
    assert root.stat().st_mode & 0o777 == 0o700


def test_no_place_at_all_costs_one_warning(run, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    lines = "import tempfile; tempfile.tempdir = '{}'\ncheck(1); check(1, 'float64')".format(blocked / "none")
    warnings = run(lines, NUMBA_CACHE_DIR=str(blocked / "cache"))
    assert len(warnings) == 1 and "NUMBA_CACHE_DIR" in warnings[0]


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_someone_else_is_not_used(run, warm, tmp_path):
    os.chown(warm, 12345, 12345)
    private = tmp_path / "tmp"
    private.mkdir()
    assert run("check(1)", TMPDIR=str(private)) == []
    assert len(list(private.iterdir())) == 1


def test_an_open_folder_is_closed(run, warm):
    warm.chmod(0o777)
    assert run("check()") == []
    assert warm.stat().st_mode & 0o777 == 0o700


def test_processes_that_start_cold_together(run):
    processes = [run.start("check(); check(1, 'float64')") for _ in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and "Warning" not in errors, errors


def test_arguments(run):
    run("""
        out = np.zeros(3)
        x = np.arange(12.0).reshape(4, 3)
        x.flags.writeable = False
        for view in (x[:3], x[::-1][:3], x.T[:3, ::2], np.broadcast_to(x[0], (3, 3)), x[:3, :0]):
            rows(3, view, None, out, 1)
            assert (out == view.sum(1) + 1).all()
        rows(3, x[:3], np.ones(5, bool), out, np.float64(0.5))
        assert (out == x[:3].sum(1) + 5.5).all()
        for wrong in (x.astype("float32"), x[0], x.astype(int), x.astype(">f8"), 3.0, [1.0]):
            try:
                rows(3, wrong, None, out, 1)
            except TypeError as error:
                assert "rows" in str(error), error
                continue
            raise AssertionError(wrong)
        for wrong in ((3, x, None, out), (3, x, None, out, 1, 1), (3, x, None, out, "one"), (3.0, x, None, out, 1),
                      (3, x, None, out, None), (2**70, x, None, out, 1), ()):
            try:
                rows(*wrong)
            except (TypeError, OverflowError):
                continue
            raise AssertionError(wrong)
        set_threads(1); check(); set_threads(2); check()
        for n in (0, 3):
            try:
                set_threads(n)
            except ValueError:
                continue
            raise AssertionError(n)
    """)


def test_bounds_are_checked_on_request(run):
    run(
        """
        for blocks in (1, 4):
            try:
                twice(blocks, np.zeros(10), np.zeros(5), 10 * blocks)
            except IndexError:
                continue
            raise AssertionError
        """,
        NUMBA_BOUNDSCHECK="1",
    )


def test_importing_the_package_does_not_import_numba(run, source):
    code = "import sys, engine.kernels.cpu as c; assert 'numba' not in sys.modules; assert c.kernel('nothing') is None"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(source)})

