"""`python -m rcodsr` and the `rcodsr` command."""

import sys

from rcodsr.cli.app import run


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run())


if __name__ == "__main__":
    main()
