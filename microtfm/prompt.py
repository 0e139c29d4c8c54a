"""The prompt of `microtfm translate RUN`: type a sentence, see its translation, and ask how it came about."""
from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path

from microtfm import translating
from microtfm.errors import UserError
from microtfm.place import note
from microtfm.settings import WIDEST
from microtfm.tokens import speakable
from microtfm.translating import Wish
from microtfm.translator import Translator

REMEMBERED = 1000                        # lines of history
HELP = """\
  a sentence        its translation
  :attention        where the model looked for each token of the last translation; also as a picture
  :beam             the best translations of the last sentence and their scores, by a search of 5 hypotheses or more
  :beam 5           search with 5 hypotheses side by side from now on; 1 is greedy
  :alternatives     what else stood to choose at each token of the last translation
  :help             this
  a space first     a line that begins with a colon is a sentence, too
  an empty line, :quit or Ctrl-D ends; Ctrl-C drops the line, or stops the translation"""


def run(folder: Path, wish: Wish) -> int:
    """Answer what is typed until the end. Returns the exit code."""
    loading = _Loading(folder)
    for text in wish.first:
        note(text)
    with _history() as remember:
        print("Type a sentence and press Enter; :help shows what else there is; an empty line or Ctrl-D ends.")
        prompt = Prompt(folder, wish, loading.wait)
        while True:
            try:
                line = input("> ")
                remember()
                if not line.strip() or line.rstrip() == ":quit":
                    return 0
                prompt.answer(line)
            except EOFError:
                print()
                return 0
            except KeyboardInterrupt:
                print()


class Prompt:
    """What each line that is typed is answered with."""

    def __init__(self, folder: Path, wish: Wish, translator: Callable[[], Translator]) -> None:
        self.folder, self.wish, self._translator = folder, wish, translator
        self.last, self.how = "", wish   # the last sentence, and how it was translated

    def answer(self, line: str) -> None:
        """Print the answer to a sentence, or to a command, which begins with a colon."""
        try:
            word, _, rest = line.rstrip().partition(" ")
            if not word.startswith((":", "：")):
                self._translate(speakable(line.strip()))
                return
            command = {"attention": self._attention, "beam": self._beam, "alternatives": self._alternatives,
                       "help": lambda rest: print(HELP)}.get(word[1:])
            if command is None:
                print(f"There is no command {word}.\n{HELP}")
            else:
                command(rest.strip())
        except UserError as error:
            print(f"note: {error}", file=sys.stderr)
        except MemoryError:
            print("note: there was not enough memory for that; a narrower :beam or a shorter line needs less.",
                  file=sys.stderr)

    def _translate(self, line: str) -> None:
        translator = self._translator()
        found = translating.answer(translator, [line], self.wish)
        self.last, self.how = line, self.wish
        print("\n".join(translating.as_text(found)))
        if not self.wish.quiet:
            for notice in translator.notices:
                print(f"note: {notice}", file=sys.stderr)

    def _sentence(self) -> str:
        if not self.last:
            raise UserError("Type a sentence first; this is about the last one.")
        return self.last

    def _attention(self, rest: str) -> None:
        from microtfm import atomic
        from microtfm.attention_map import attention_svg
        from microtfm.showing import beside

        line, translator = self._sentence(), self._translator()
        search = self.how.beam, self.how.length_penalty
        weights, source, target = translator.attention(line, *search)
        for t, token in enumerate(target):
            seen = weights[-1, :, t].mean(axis=0)                                                  # (S,)
            most = [int(i) for i in (-seen).argsort(kind="stable")[:3]]
            print(f"  {token:<16}  looked at  " + "  ".join(f"{source[i]} {seen[i]:.2f}" for i in most))
        out = beside(self.folder, "attention.svg")
        picture = attention_svg(weights, source, target, title=f"{line} → {translator.translate([line], *search)[0]}")
        atomic.write(out, [picture.encode()])
        print(f"  (the last layer, over its heads; all of them: {out})")

    def _beam(self, rest: str) -> None:
        if rest:
            if not rest.isdecimal() or not 1 <= int(rest) <= WIDEST:
                raise UserError(f":beam {rest}: the width is a whole number from 1 to {WIDEST:,}.")
            self.wish = replace(self.wish, beam=int(rest))
            print(f"  (from now on a search of {rest}; 1 is greedy)")
            return
        translator = self._translator()
        beam = self.wish.beam or translator.beam
        for each in translator.candidates([self._sentence()], max(beam, 5), max(beam, 5), self.wish.length_penalty)[0]:
            print(f"  {each.score:8.3f}  {each.text}")

    def _alternatives(self, rest: str) -> None:
        wish = replace(self.how, alternatives=True, nbest=1)
        print("\n".join(translating.as_text(translating.answer(self._translator(), [self._sentence()], wish))))


class _Loading:
    """The model is loaded, and its kernels run once, while the person types."""

    def __init__(self, folder: Path) -> None:
        self.translator: Translator | None = None
        self.error: Exception | None = None
        from microtfm.run_folder import RunFolder

        if not folder.is_file() and not RunFolder.open(folder).model.exists():
            Translator.load(folder)      # says what is missing
        self.folder = folder
        self.thread = threading.Thread(target=copy_context().run, args=(self._load,), daemon=True)
        self.thread.start()

    def _load(self) -> None:
        try:
            self.translator = Translator.load(self.folder)
            self.translator.translate(["."])
            self.translator.translate(["."], 2)
        except Exception as error:       # is raised where the translator is waited for
            self.error = error

    def wait(self) -> Translator:
        """The translator, when it is there."""
        self.thread.join()
        if self.error is not None:
            raise self.error
        assert self.translator is not None
        return self.translator


@contextlib.contextmanager
def _history() -> Iterator[Callable[[], None]]:
    """Lines of earlier times come back with the arrow keys, where the system has readline. Yields what writes them
    down: a window may be closed at any time."""
    try:
        import readline
    except ImportError:
        yield lambda: None
        return
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "microtfm"
    except RuntimeError:                 # a user without a home
        yield lambda: None
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(home / "history")
    readline.set_history_length(REMEMBERED)

    def remember() -> None:
        with contextlib.suppress(OSError):
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            readline.write_history_file(home / "history")

    yield remember
