"""Launches run as one."""
from collections.abc import Sequence

from .tape import Addresses, Launch


class Table:
    """Launches packed once, run as one native call."""

    def __init__(self, launches: Sequence[Launch]) -> None:
        self.launches = [x._replace(arguments=tuple(a.table() if isinstance(a, Addresses) else a for a in x.arguments)) for x in launches]

    def run(self) -> None:
        for kernel, blocks, arguments, serial in self.launches:
            if blocks > 0:
                (kernel.serial if serial else kernel)(blocks, *arguments)
