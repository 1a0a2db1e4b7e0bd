"""The program: ``drhn`` or ``python -m drhn_cli``."""

import os
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    _reopen_closed_streams()
    try:
        from drhn_cli.cli.app import run  # takes a while, in which Ctrl-C is no error either
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run())


def _reopen_closed_streams() -> None:
    """Open the null device for closed standard streams, so that no other file gets their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115


if __name__ == "__main__":
    main()
