"""`python -m rcodsr` and the `rcodsr` command."""

import os
import sys
import warnings

from rcodsr.cli import stopping


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        stopping.install()
        if sys.stderr is None:  # closed (2>&-): otherwise the next file to be opened would get its descriptor, and its lines
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
        warnings.filterwarnings("ignore", module="huggingface_hub")  # a full disk, for example, has its own message
        from rcodsr.cli.app import run

        code = run()
    except stopping.Stopped as stopped:
        stopping.ignore()
        code = stopped.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
