"""`microtfm doctor`."""
from __future__ import annotations

from microtfm.commands.options import Json, Threads, show, use_threads


def doctor(*, threads: Threads = None, json: Json = False) -> int:
    """Look at everything that microtfm uses, test a kernel on each device, and say how to mend what does not work."""
    use_threads(threads)
    from microtfm import doctor as examination

    answer = examination.examine()
    show(answer, examination.as_text, json)
    return 0 if answer["ok"] else 2
