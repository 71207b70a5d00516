"""The command `skjko`, and `python -m skjko`."""

# SPDX-License-Identifier: BSD-3-Clause

import sys


def main() -> None:
    """Run the command line, or say what it needs."""
    try:
        import click  # noqa: F401
        import polars  # noqa: F401
    except ImportError as error:
        print(
            f'skjko: {error}. The command line needs: pip install "skjko[cli]"',
            file=sys.stderr,
        )
        sys.exit(1)
    from skjko.cli import cli

    cli(prog_name="skjko")


if __name__ == "__main__":
    main()
