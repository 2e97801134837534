"""What a job on Dataflow will cost, with the arithmetic in the open; every number of it can be replaced.

The prices are a list from memory of one region, the rates those of one core in our own measurements: a pilot over one
part in a hundred replaces both (docs/dataflow.md).
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from transforms.errors import ConfigError

ASSUMPTIONS: Final[Mapping[str, float]] = {
    "annotate_mb": 6.0,  # MB of compressed input a second and core: decompression and both models
    "mix_mb": 25.0,  # MB of compressed input a second and core: read once more, copied, compressed
    "gb_per_core": 4.0,
    "disk_gb_per_core": 25.0,
    "core_hour": 0.056,
    "memory_gb_hour": 0.003557,
    "disk_gb_hour": 0.000054,
    "start_minutes": 4.0,  # a machine's minutes before its first slice: boot, image, compiled kernels
    "cores": 64.0,  # only for the time it takes and for the minutes of starting
}
"""Names that `--assume NAME=VALUE` knows; money is in US dollars."""


class Estimate(NamedTuple):
    """What a job costs.

    Attributes:
      dollars, core_hours: In all.
      hours: From submission to the end, on as many cores as assumed.
      lines: The arithmetic, a step each.
    """

    dollars: float
    core_hours: float
    hours: float
    lines: tuple[str, ...]


def assumptions(given: Sequence[str]) -> dict[str, float]:
    """The defaults with "name=number" replacements.

    Raises:
      ConfigError: An unknown name, or no positive number.
    """
    values, problems = dict(ASSUMPTIONS), []
    for pair in given:
        name, _, number = pair.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in values:
            problems.append(f"--assume {pair}: known names are {', '.join(values)}")
        elif not 0 < value < float("inf"):
            problems.append(f"--assume {pair}: write {name}=NUMBER with a positive number")
        else:
            values[name] = value
    if problems:
        raise ConfigError(problems)
    return values


def estimate(input_bytes: int, assumed: Mapping[str, float]) -> Estimate:
    """Cost of annotating and mixing that much compressed input, nothing reused.

    >>> round(estimate(1_000_000_000_000, ASSUMPTIONS).core_hours, 1)
    61.7
    """
    a, size = assumed, input_bytes / 1e6
    annotate, mix = size / a["annotate_mb"] / 3600, size / a["mix_mb"] / 3600
    start = a["cores"] * a["start_minutes"] / 60
    hours = annotate + mix + start
    core_price = a["core_hour"] + a["gb_per_core"] * a["memory_gb_hour"] + a["disk_gb_per_core"] * a["disk_gb_hour"]
    wall = (annotate + mix) / a["cores"] + a["start_minutes"] / 60
    disk = f"{a['disk_gb_per_core']:g} GB of disk × {a['disk_gb_hour']:g}"
    memory = f"{a['gb_per_core']:g} GB × {a['memory_gb_hour']:g}"
    lines = (
        f"input {input_bytes / 1e9:,.3f} GB, every byte read twice (annotations that exist make the first half free)",
        f"annotate {size:,.0f} MB / {a['annotate_mb']:g} MB per core and second / 3600 = {annotate:,.2f} core hours",
        f"mix      {size:,.0f} MB / {a['mix_mb']:g} MB per core and second / 3600 = {mix:,.2f} core hours",
        f"start    {a['cores']:g} cores × {a['start_minutes']:g} min / 60 = {start:,.2f} core hours",
        f"price    {a['core_hour']:g} + {memory} + {disk} = ${core_price:.4f} for a core hour",
        f"total    {hours:,.2f} core hours × ${core_price:.4f} = ${hours * core_price:,.2f}; storage is not in it",
        f"time     ({annotate:,.2f} + {mix:,.2f}) / {a['cores']:g} cores + the start = {wall:,.2f} h",
    )
    return Estimate(hours * core_price, hours, wall, lines)
