"""A line of quarantine/records.jsonl: where a bad record was, why it is there, and its first bytes."""

import base64
import json

from transforms.schema import BadRecord


def quarantine_line(shard: str, record: BadRecord) -> bytes:
    """One line of quarantine/records.jsonl: where, why, and the first bytes as text and (exactly) as base64."""
    line = {
        "shard": shard,
        "position": record.position,
        "reason": record.reason,
        "length": record.length,
        "head": record.head.decode("utf-8", errors="replace"),
        "head_base64": base64.b64encode(record.head).decode(),
    }
    return json.dumps(line).encode() + b"\n"
