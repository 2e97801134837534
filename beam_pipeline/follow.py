"""Follow a job on Dataflow to its end: its state, our counters, and its error as an exit code of ours."""

import time
from typing import Any, Final

from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.runner import PipelineState

from transforms.counters import NAMESPACE, Counter
from transforms.storage import with_retries

POLL_SEC: Final = [10.0]  # in a list, so that a test need not wait
_SHOWN: Final = (
    Counter.SLICES_ANNOTATED, Counter.SLICES_REUSED, Counter.DOCUMENTS_READ, Counter.RECORDS_BAD, Counter.SHARDS_BAD,
    Counter.PARTS_WRITTEN, Counter.RECORDS_WRITTEN,
)  # fmt: skip


def follow(result: Any, client: Any, address: str, *, quiet: bool = False) -> int:
    """Print state and counters whenever they change; returns the exit code when the job has ended.

    0 for DONE; for FAILED that of the error in the job's messages, 1 where none is ours; 130 for a job that was
    cancelled or drained.
    """
    started, shown = time.monotonic(), ""
    while True:
        state = str(with_retries(lambda: result.state, address, "look at"))
        line = "  ".join([state, *(f"{name} {value:,}" for name, value in counters_of(result).items())])
        if line != shown and not quiet:
            print(f"{time.monotonic() - started:6.0f} s  {line}", flush=True)
            shown = line
        if PipelineState.is_terminal(state):
            return exit_code(state, "" if state == PipelineState.DONE else errors_of(client, result.job_id()), address)
        time.sleep(POLL_SEC[0])


def counters_of(result: Any) -> dict[str, int]:
    """Our counters as the service has added them up so far; nothing where it does not say."""
    from google.api_core.exceptions import GoogleAPICallError

    try:
        found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
    except (GoogleAPICallError, OSError, KeyError):  # Beam's reader wants two values of each
        return {}
    values = {c.key.metric.name: c.committed if c.committed is not None else c.attempted for c in found}
    return {c.value: int(values[c.value]) for c in _SHOWN if values.get(c.value)}


def errors_of(client: Any, job_id: str) -> str:
    """The job's error messages, one after the other."""
    from google.api_core.exceptions import GoogleAPICallError

    try:
        messages, _ = client.list_messages(job_id, minimum_importance="JOB_MESSAGE_ERROR")
    except (GoogleAPICallError, OSError):
        return ""
    return "\n".join(str(m.message_text) for m in messages)


def exit_code(state: str, errors: str, address: str) -> int:
    """The exit code of an ended job; says what went wrong."""
    from beam_pipeline.run import known_error

    if state == PipelineState.DONE:
        return 0
    if state != PipelineState.FAILED:
        print(f"counterpoise: the job ended as {state}; submit again, it goes on where it stopped: {address}")
        return 130
    code, message = known_error(RuntimeError(errors)) or (1, errors[-2000:] or "it left no message")
    print(f"counterpoise: the job failed: {message}\n  its log: {address}")
    return code
