"""The program: ``drhn`` or ``python -m drhn_cli``."""

import sys

from drhn_cli.cli.app import run


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run())


if __name__ == "__main__":
    main()
