"""Command line: `python -m paper_figures --list`, `python -m paper_figures NAME ... [--quick]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import matplotlib

from paper_figures import figure
from paper_figures.claim import ClaimFailed


def main(arguments: list[str] | None = None) -> int:
    """Draw the figures asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m paper_figures", description="Theory against experiment, figure by figure.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to draw (see --list)")
    parser.add_argument("--list", action="store_true", help="list the figures and what each shows")
    parser.add_argument("--quick", action="store_true", help="fewer networks and steps: seconds instead of minutes")
    parser.add_argument("--folder", type=Path, default=Path("figures"), help="where to write (default: figures)")
    options = parser.parse_args(arguments)
    if options.list or not options.names:
        for name in figure.names():
            print(f"{name:28s} {(figure.find(name).__doc__ or '').splitlines()[0]}")
        return 0
    unknown = [name for name in options.names if name not in figure.names()]
    if unknown:
        parser.error(f"no figure {', '.join(unknown)}; there are: {', '.join(figure.names())}")
    matplotlib.use("Agg")
    for name in options.names:
        start = time.perf_counter()
        try:
            for output in figure.draw(name, quick=options.quick, folder=options.folder):
                print(output if isinstance(output, str) else f"wrote {output}")
        except OSError as error:
            parser.exit(1, f"{parser.prog}: {error.strerror or error}\n")
        except ClaimFailed as error:
            parser.exit(1, f"{parser.prog}: {error}\n")
        print(f"{name}: {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
