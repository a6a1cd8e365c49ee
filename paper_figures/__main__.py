"""Command line: `python -m paper_figures NAME ... [--quick]`, `--all`, `--list`."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import traceback
from pathlib import Path

import jax
import matplotlib

from paper_figures import cache, figure, report
from paper_figures.drawing import draw, drawn
from paper_figures.headline import HeadlineFailed, claim

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of shells."""

EPILOG = """\
examples:
  python -m paper_figures --list                         what there is, and what each claims
  python -m paper_figures fig05_bias --quick             one figure: NAME.png, NAME.pdf, NAME.json, numbers on the terminal
  python -m paper_figures fig05 fig08                    the beginning of a name is enough
  python -m paper_figures --all --quick                  all of them, and index.html, one page that holds everything

Runs are kept under results/ and used again; a run that was interrupted costs only what it had not finished. The exit status
is 1 if a headline number is outside of its bounds (paper_figures/headlines.toml), or a figure cannot be drawn; the others are
drawn all the same. --all leaves alone what the same code has drawn into the folder before.
"""


def main(arguments: list[str] | None = None) -> int:
    """Draw the figures asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures",
        description="Theory against experiment, figure by figure.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to draw, each by its name or the beginning of it")
    parser.add_argument("--all", action="store_true", help="draw all figures and the page of all")
    parser.add_argument("--list", action="store_true", help="list the figures and what each claims")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="fewer networks and steps: two cores, at most 3 minutes a figure")
    size.add_argument("--full", action="store_true", help="the full size (default): more networks, smaller errors, up to hours")
    parser.add_argument("--folder", type=Path, default=Path("figures"), help="where to write (default: figures)")
    options = parser.parse_args(arguments)
    if options.list or not (options.names or options.all):
        for name in figure.names():
            print(f"{name:28s} {claim(name)}")
        return 0
    names = figure.names() if options.all else []
    for name in options.names:
        if not (found := figure.starting_with(name)):
            parser.error(f"no figure {name!r}; there are: {', '.join(figure.names())}")
        names += [x for x in found if x not in names]
    matplotlib.use("Agg")
    failed, broken = [], {}
    try:
        for folder in (options.folder, cache.RESULTS):
            cache.writable(folder)
        for i, name in enumerate(names, 1):
            start = time.perf_counter()
            print(f"[{i}/{len(names)}] {name}: {claim(name)}", flush=True)
            try:
                _draw(name, options)
            except HeadlineFailed as error:
                failed.append(name)
                print(f"{parser.prog}: {error}", file=sys.stderr)
            except Exception as error:  # of this figure: the others are drawn all the same
                broken[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                traceback.print_exc()
            print(f"{name}: {time.perf_counter() - start:.0f} s\n", flush=True)
            jax.clear_caches()  # programs of one figure are of no use to the next, and add up
            gc.collect()
        if options.all:
            print(f"wrote {report.write(options.folder, names, broken)}")
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error.strerror or error}\n")
    except KeyboardInterrupt:
        kept = f"what is done is kept under {cache.RESULTS}/, and the same command goes on from there"
        print(f"\n{parser.prog}: interrupted; {kept}.", file=sys.stderr)
        return INTERRUPTED
    for them, what in ((failed, "do not show what they claim"), ([*broken], "cannot be drawn")):
        if them:
            print(f"{parser.prog}: {len(them)} of {len(names)} {what}: {', '.join(them)}", file=sys.stderr)
    return bool(failed or broken)


def _draw(name: str, options: argparse.Namespace) -> None:
    """Draw one figure; of all, only those that the same code has not drawn before."""
    before = drawn(name, quick=options.quick, folder=options.folder) if options.all else None
    if before is None:
        draw(name, quick=options.quick, folder=options.folder)
    else:
        print("\n".join(map(str, before.headlines)) + f"\ndrawn by the same code on {before.versions['date']}")
        before.or_raise()


if __name__ == "__main__":
    status = main()
    if status == INTERRUPTED:  # in the middle of a compilation JAX may crash where Python ends
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)
