"""The command line: parse, check, build, and an exit code.

0 done                        4 the mix cannot be met          8 model
2 configuration               5 storage or output              130/143 interrupted
3 input beyond `limits`       6 equation or dose is off        1 anything else (a bug)
                              7 drift beyond the limit
"""

import argparse
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final

from beam_pipeline import __version__, commands
from beam_pipeline.workers import end_process
from classifiers import model
from transforms import errors
from transforms.errors import CounterpoiseError

_DESCRIPTION: Final = """\
Rebalance how AI is portrayed in a pretraining corpus, and prove it.

Counterpoise reads compressed shards, identifies language and stance of every document,
takes down the share of misaligned text, mixes in synthetic counter-narratives at an exact
dose, and writes the corpus with a manifest that adds up."""

_EXAMPLES: Final = """\
examples:
  counterpoise demo                                   the whole job on sample input, in a minute
  counterpoise plan build.yaml                        what would be kept, dropped, repeated, mixed in
  counterpoise build build.yaml                       do it, on all processor cores
  counterpoise build build.yaml --set seed=7 --direct_num_workers 4
  counterpoise verify /data/rebalanced                read everything again and prove it

Options that are not listed go to Beam (--runner, --project, --temp_location, --direct_num_workers …)."""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="counterpoise",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"counterpoise {__version__}")
    words = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in commands.COMMANDS.items():
        sub = words.add_parser(
            name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.arguments(sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=command.run, takes_beam_options=command.takes_beam_options)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code and prints errors as one clear message."""
    top = parser()
    args, rest = top.parse_known_args(argv)
    if rest and not args.takes_beam_options:
        top.error(f"{args.command} does not know {' '.join(rest)}; see counterpoise {args.command} --help")
    args.beam_options = rest
    logging.basicConfig(
        level=logging.INFO if args.debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    if not args.debug:
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # errors are ours to tell, once
    with _Signals():
        try:
            return int(args.run(args) or 0)
        except KeyboardInterrupt:
            print("counterpoise: interrupted; the same command goes on where it stopped", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of our output went away, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as error:  # noqa: BLE001 - the one boundary where every error becomes an exit code
            return explain(error, debug=args.debug)


def explain(error: BaseException, *, debug: bool) -> int:
    """Print an error as a user is meant to read it; returns its exit code."""
    known = known_error(error)
    if debug or known is None:
        traceback.print_exception(error)
    if known is None:
        print("counterpoise: this is a bug; please report it with the lines above", file=sys.stderr)
        return 1
    code, message = known
    lines = message.split("\n")
    print("counterpoise: " + ("\n  ".join(["", *lines]) if len(lines) > 1 else lines[0]), file=sys.stderr)
    return code


_WORKER_DIED: Final = (
    "a worker process died (out of memory?); run the same command again, with fewer --direct_num_workers"
)
_IN_TRACEBACK: Final = re.compile(
    r"(?:transforms\.errors|classifiers\.model)\.(\w+): (.*?)"
    r"(?=\s*\[while running|\n\nDuring handling|\n\nThe above exception|\Z)",
    re.DOTALL,
)


def known_error(error: BaseException) -> tuple[int, str] | None:
    """Exit code and message, also of an error that a runner turned into the text of a RuntimeError; None for a bug."""
    if isinstance(error, CounterpoiseError | model.ModelError):
        return error.exit_code, _without_step(str(error))
    found = _IN_TRACEBACK.findall(str(error))
    for name, message in reversed(found):
        kind: Any = getattr(errors, name, None) or getattr(model, name, None)
        if kind is not None:
            return int(kind.exit_code), _without_step(message.strip())
    if "Channel closed prematurely" in str(error):
        return 1, _WORKER_DIED
    return None


def _without_step(message: str) -> str:
    return re.sub(r"\s*\[while running '[^']*'\]", "", message)


class _Signals:
    """Within it, SIGINT and SIGTERM end the workers and the process at once, with 130 or 143.

    Beam's local runner does not: a worker that never returns makes Ctrl-C do nothing, and SIGTERM leaves it alive. No
    half corpus can look whole, since `_SUCCESS` comes last, so there is nothing to wait for.
    """

    def __enter__(self) -> None:
        self.previous: dict[int, Any] = {}
        self.hook = threading.excepthook
        if threading.current_thread() is threading.main_thread():
            self.previous = {s: signal.signal(s, _interrupted) for s in (signal.SIGINT, signal.SIGTERM)}
        threading.excepthook = _thread_failed

    def __exit__(self, *_: object) -> None:
        threading.excepthook = self.hook
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _interrupted(number: int, _: FrameType | None) -> None:
    end_process(128 + number, "interrupted; the same command goes on where it stopped")


def _thread_failed(args: "threading.ExceptHookArgs") -> None:
    """A worker process that dies in a stage without outputs would hang the local runner for ever."""
    if args.thread is not None and "run_worker" in args.thread.name:
        end_process(1, _WORKER_DIED)
    threading.__excepthook__(args)


if __name__ == "__main__":
    sys.exit(main())
