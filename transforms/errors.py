"""Every way in which a build stops, and the exit code of each.

    CounterpoiseError          1   a bug, unless a subclass says otherwise
    ├── ConfigError            2   the configuration; carries every problem found
    ├── InputError             3   input data beyond `limits`
    │   └── BadShard           3   one shard that cannot be read whole (counted against `limits.bad_shards`)
    ├── MixShortfall           4   the mix cannot be met from what there is
    ├── StorageError           5   storage or output
    │   ├── OutputConflict     5   a name that must be new holds other bytes
    │   └── InputChanged       5   an input is not what the plan was made from
    ├── Unaccounted            6   the equation does not close, or a dose is off
    └── DriftExceeded          7   the corpus moved more than the configured limit

`classifiers.model.ModelError` is exit code 8. A message has four parts: what, where, the value against
the rule, the way out.
"""

from collections.abc import Sequence


class CounterpoiseError(Exception):
    """Base of all errors that a user is meant to read; `exit_code` is what the process ends with."""

    exit_code = 1


class ConfigError(CounterpoiseError):
    """The configuration is wrong; `problems` holds one line for each finding."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        if isinstance(problems, str):  # Beam makes an error of a worker anew, from its message alone
            problems = problems.split("\n")
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class InputError(CounterpoiseError):
    """The input holds more bad records or bad shards than `limits` allows."""

    exit_code = 3


class BadShard(InputError):
    """A shard cannot be read whole, so nothing of it may be used.

    Attributes:
      reason: A `schema.ShardFault` value such as "truncated".
      offset: Compressed byte offset up to which the shard was good, or -1 where it is not known.
      detail: What was seen, for a person.
    """

    def __init__(self, reason: str, offset: int, detail: str) -> None:
        super().__init__(f"{reason} at byte {offset}: {detail}" if offset >= 0 else f"{reason}: {detail}")
        self.reason, self.offset, self.detail = reason, offset, detail

    def __reduce__(self) -> tuple[type["BadShard"], tuple[str, int, str]]:
        return type(self), (self.reason, self.offset, self.detail)


class MixShortfall(CounterpoiseError):
    """A dose, quota or refill needs more text than there is, `max_repeats` included."""

    exit_code = 4


class StorageError(CounterpoiseError):
    """Storage refused, failed past all retries, or holds something unexpected."""

    exit_code = 5


class OutputConflict(StorageError):
    """A name that must be new, or hold the same bytes, holds other bytes."""


class InputChanged(StorageError):
    """An input object is not the version that the plan was made from."""


class Unaccounted(CounterpoiseError):
    """The equation does not close, or a realised dose is outside the tolerance."""

    exit_code = 6


class DriftExceeded(CounterpoiseError):
    """A share moved by more than the configured limit since the previous build."""

    exit_code = 7
