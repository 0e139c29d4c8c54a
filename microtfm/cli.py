"""The command `microtfm`: where its commands are, each imported when asked for, and how every one of them ends."""
from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from cyclopts import App, CycloptsError

import microtfm.commands  # noqa: F401   (notes the time)
from microtfm.errors import UserError

COMMANDS = {                             # name: where it is
    "demo": "training:demo",
    "train": "training:train",
    "resume": "training:resume",
    "translate": "translating:translate",
    "serve": "translating:serve",
    "evaluate": "scoring:evaluate",
    "score": "scoring:score",
    "average": "models:average",
    "export": "models:export",
    "info": "looking:info",
    "graph": "looking:graph",
    "doctor": "checking:doctor",
}


def _version() -> str:
    try:
        return metadata.version("microtfm")
    except metadata.PackageNotFoundError:
        from microtfm import __version__
        return __version__


app = App(name="microtfm", help="A Transformer you can take apart, and a translator trained from your own text.",
          version=_version, help_format="plaintext", suppress_keyboard_interrupt=False)
for name, place in COMMANDS.items():
    app.command(f"microtfm.commands.{place}", name=name)
app.command("microtfm.commands.texts:app", name="data", help="Look at parallel text before it is trained on.")
app.command("microtfm.bench.commands:app", name="bench",
            help="How fast it is, beside NumPy, PyTorch and JAX, and where the time goes.")


@contextmanager
def _quiet_pipe() -> Iterator[None]:
    """`microtfm translate ... | head` ends without a complaint."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of_output()


def _let_go_of_output() -> None:
    """What cannot be written any more is not tried again when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _load_all() -> None:
    """Import every command, whose first sentence the list of them shows."""
    for name in COMMANDS:
        app[name]


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns its exit code: 0; 2 for what a person can put right; 128 + n after signal n."""
    if sys.stdout is None:               # closed by who called
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open until the process ends)
    for stream in (sys.stdout, sys.stderr):
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
        if encoding != "utf8" and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="strict" if stream is sys.stdout else "backslashreplace")
    given = sys.argv[1:] if argv is None else argv
    if not given or given[0] in ("--help", "-h"):
        _load_all()
    try:
        with _quiet_pipe():
            return int(app(given, exit_on_error=False, print_error=False, result_action="return_value") or 0)
    except CycloptsError as error:
        from microtfm.hints import explained

        dashed = any(word.startswith("-") and len(word.split()) > 1 for word in given)
        more = " What begins with a dash and is no option goes behind --." if dashed else ""
        return _complain(explained(error) + more)
    except UserError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        _complain("Stopped at once. What was saved before is whole.")
        return 130
    except MemoryError:
        return _complain("There was not enough memory. Training needs less with a smaller --train.batch-tokens (and "
                         "--train.accumulate to make up for it), --tokens.max-length or model; translating, with a "
                         "smaller --beam.")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _let_go_of_output()
        return _complain(f"{where}{error.strerror or error}.")
    except Exception as error:
        engine = sys.modules.get("engine")
        if engine is not None and isinstance(error, engine.EngineError):
            return _complain(str(error))
        raise
    return 0


def _complain(text: str) -> int:
    print(f"microtfm: {' '.join(text.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
