"""Beam's own options: passed through, with the local runner named explicitly.

Beam's `DirectRunner` would first try to download a Prism binary and behave differently without a network, so it means
the local FnApiRunner here.
"""

import argparse
import functools
import os
from collections.abc import Sequence
from typing import Final

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from transforms.errors import ConfigError

LOCAL_RUNNER: Final = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
_LOCAL_NAMES: Final = ("", "DirectRunner", "FnApiRunner", "BundleBasedDirectRunner", LOCAL_RUNNER)


def beam_options(argv: Sequence[str]) -> PipelineOptions:
    """Options from the arguments that are not Counterpoise's own.

    Locally the work is done by as many worker processes as there are processor cores, unless --direct_num_workers or
    --direct_running_mode say otherwise.

    Raises:
      ConfigError: An unknown option, or a runner that is known to lose data.
    """
    try:
        options = PipelineOptions(list(argv))
        unknown = [a for a in argv if a.startswith("-") and not _is_known(a)]
    except SystemExit as error:
        raise ConfigError([f"Beam refuses the options {' '.join(argv)}"]) from error
    if unknown:
        raise ConfigError(
            [f"{a}: neither an option of Counterpoise nor of Beam; see counterpoise --help" for a in unknown]
        )
    standard = options.view_as(StandardOptions)
    runner = standard.runner or ""
    if runner.rsplit(".", 1)[-1] == "DaskRunner":
        why = "Beam 2.77's Dask runner loses the output of finish_bundle and mixes tagged outputs"
        raise ConfigError([f"--runner DaskRunner: {why}; leave --runner away for a local build, or use DataflowRunner"])
    if runner in _LOCAL_NAMES:
        standard.runner = LOCAL_RUNNER
        _local_workers(options, argv)
    return options


def is_local(options: PipelineOptions) -> bool:
    """Whether the build runs in this machine's own worker processes."""
    return bool(options.view_as(StandardOptions).runner == LOCAL_RUNNER)


def worker_count(options: PipelineOptions) -> int:
    """Local workers."""
    return int(options.view_as(DirectOptions).direct_num_workers or 1)


def _local_workers(options: PipelineOptions, argv: Sequence[str]) -> None:
    direct = options.view_as(DirectOptions)
    if not any(a.startswith("--direct_num_workers") for a in argv):
        direct.direct_num_workers = os.cpu_count() or 1
    if direct.direct_num_workers == 0:
        direct.direct_num_workers = os.cpu_count() or 1
    if not any(a.startswith("--direct_running_mode") for a in argv):
        direct.direct_running_mode = "multi_processing" if direct.direct_num_workers > 1 else "in_memory"


def _is_known(argument: str) -> bool:
    name = argument.lstrip("-").partition("=")[0].replace("-", "_")
    return name.removeprefix("no_") in _known_names() or name in _known_names()


@functools.cache
def _known_names() -> frozenset[str]:
    """Values' names, and the words themselves where they differ, such as --resource_hint for `resource_hints`."""
    words = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(words)  # noqa: SLF001 - Beam has no other list of its words
    spelt = {word.lstrip("-").replace("-", "_") for action in words._actions for word in action.option_strings}  # noqa: SLF001
    return frozenset(spelt | set(PipelineOptions([]).get_all_options(drop_default=False)))
