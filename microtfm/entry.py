"""The command `microtfm` from its first instruction on: Ctrl-C is one line while its modules are being loaded, too."""
from __future__ import annotations

import sys


def main() -> int:
    """Run the command. Returns its exit code, as `cli.main` does."""
    try:
        from microtfm import cli
    except KeyboardInterrupt:
        print("microtfm: Stopped before it began.", file=sys.stderr)
        return 130
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
