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
    # The one of stdout cannot be written: an answer that nobody gets is an error.
    for name, mode, access in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, access)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115


if __name__ == "__main__":
    main()
