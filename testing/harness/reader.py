"""What arrived, as kcat reads it, which shares no code with the daemon. Does not know: what was committed.

Promises: keys and values byte for byte; None for what is null.
"""

import dataclasses
import re
import subprocess

from . import KAFKA


@dataclasses.dataclass
class Record:
    partition: int
    offset: int
    sent_ms: int
    value: bytes | None
    # The headers `id` and `eventType`.
    id: bytes
    key: bytes | None = None
    kind: bytes = b""
    # Which of several topics, where that matters.
    topic: int = 0


def read(bootstrap, topic):
    """All records of a topic by partition and offset."""
    command = ["kcat", "-C", "-b", bootstrap, "-t", topic, "-o", "beginning", "-e", "-q", "-X", "check.crcs=true"]
    done = subprocess.run([*command, "-f", "%p %o %T %K %S %h\\x1e\\n%k%s\\n"], capture_output=True)
    if done.returncode != 0:
        raise KAFKA.Failure(f"{' '.join(command)}: {done.stderr.decode(errors='replace')}")
    text, at, records = done.stdout, 0, []

    def take(length):
        nonlocal at
        begun, at = at, at + max(0, int(length))
        return None if int(length) < 0 else text[begun:at]

    while at < len(text):
        end = text.index(b"\x1e\n", at)
        partition, offset, sent_ms, key, value, headers = text[at:end].split(b" ", 5)
        at = end + 2
        names = re.match(rb"id=(.*?),eventType=(.*?),aggregateId=", headers, re.DOTALL)
        key, value = take(key), take(value)
        identity, kind = names.groups() if names else (b"", b"")
        records.append(Record(int(partition), int(offset), int(sent_ms), value, identity, key, kind))
        at += 1
    records.sort(key=lambda record: (record.partition, record.offset))
    return records
