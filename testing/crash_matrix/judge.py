"""What arrived, against what was committed.

Promises: every record is read by kcat, which shares no code with the daemon; whatever is not the same byte for byte is counted.
Does not know: who was killed when, and which doubled record is forgiven.
"""

import collections
import dataclasses
import re
import subprocess

from . import KAFKA


@dataclasses.dataclass
class Record:
    partition: int
    offset: int
    sent_ms: int
    value: bytes
    id: bytes


@dataclasses.dataclass
class Count:
    kills: int = 0
    events: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    unsure: int = 0
    broken: list = dataclasses.field(default_factory=list)
    # Starts of the daemon that published something before they were killed.
    at_work: int = 0
    labels: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, other):
        for name in ("kills", "events", "lost", "doubled", "reordered", "unsure", "at_work"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.broken += other.broken
        self.labels += other.labels


def read(bootstrap, topic):
    """All records of a topic by partition and offset; kcat shares no code with the daemon."""
    command = ["kcat", "-C", "-b", bootstrap, "-t", topic, "-o", "beginning", "-e", "-q", "-X", "check.crcs=true"]
    done = subprocess.run([*command, "-f", "%p %o %T %K %S %h\\x1e\\n%k%s\\n"], capture_output=True)
    if done.returncode != 0:
        raise KAFKA.Failure(f"{' '.join(command)}: {done.stderr.decode(errors='replace')}")
    text, at, records = done.stdout, 0, []
    while at < len(text):
        end = text.index(b"\x1e\n", at)
        partition, offset, sent_ms, key, value, headers = text[at:end].split(b" ", 5)
        at = end + 2 + max(0, int(key))
        identity = re.match(rb"id=(.*?),eventType=", headers)
        size = max(0, int(value))
        records.append(
            Record(int(partition), int(offset), int(sent_ms), text[at : at + size], identity[1] if identity else b"")
        )
        at += size + 1
    records.sort(key=lambda record: (record.partition, record.offset))
    return records


class Ledger:
    """What the application committed, line by line (see testing/app/src/ledger.rs); may be read while it grows."""

    def __init__(self, path):
        self.path, self.at, self.lines = path, 0, 0

    def count(self):
        try:
            with open(self.path, "rb") as file:
                file.seek(self.at)
                more = file.read()
        except FileNotFoundError:
            return 0
        self.at += len(more)
        self.lines += more.count(b"\n")
        return self.lines

    def events(self):
        """{payload: (aggregate, sequence)}; no two payloads are alike."""
        events = {}
        for line in self.path.read_text(encoding="ascii").splitlines():
            aggregate, sequence, _kind, payload = line.split(" ")
            events[bytes.fromhex(payload)] = (aggregate, int(sequence))
        return events


def judge(records, events):
    """`doubled`: every further copy, with the message id of the first one."""
    count = Count(events=len(events))
    first, doubled, last, invented, partitions = {}, [], {}, 0, {}
    for record in records:
        if record.value not in events:
            invented += 1
            continue
        if record.value in first:
            doubled.append((record, first[record.value]))
            continue
        first[record.value] = record
        aggregate, sequence = events[record.value]
        partitions.setdefault(aggregate, record.partition)
        if sequence < last.get(aggregate, 0) or partitions[aggregate] != record.partition:
            count.reordered += 1
        last[aggregate] = max(sequence, last.get(aggregate, 0))
    count.lost = len(events) - len(first)
    count.doubled = len(doubled)
    if invented:
        count.broken.append(f"{invented} records that nobody committed")
    if len({record.id for record in first.values()}) != len(first):
        count.broken.append("two events have one message id")
    return count, doubled


def judge_alike(records, inserted):
    """Events that nothing but their number tells apart. A copy that carries the message id of another is known to be doubled;
    what is there beyond the number of inserts is too."""
    count = Count(events=inserted)
    first, doubled = {}, []
    for record in records:
        if record.id in first:
            doubled.append((record, first[record.id]))
        else:
            first[record.id] = record
    more = sorted(first.values(), key=lambda record: record.sent_ms)[inserted:]
    count.lost = max(0, inserted - len(first))
    count.doubled = len(doubled) + len(more)
    return count, doubled + [(record, None) for record in more]


def prove():
    """The judge is given one fault of each kind before it is believed to see none."""
    events = {b"a1": ("a", 1), b"a2": ("a", 2), b"a3": ("a", 3), b"b1": ("b", 1), b"b2": ("b", 2)}

    def seen(*arrived):
        records = [Record(partition, at, at, value, name) for at, (partition, value, name) in enumerate(arrived)]
        count, doubled = judge(records, events)
        return count.lost, count.doubled, count.reordered, len(count.broken), [first.id for _, first in doubled]

    a1, a2, a3, b1, b2 = (0, b"a1", b"1"), (0, b"a2", b"2"), (0, b"a3", b"3"), (1, b"b1", b"4"), (1, b"b2", b"5")
    for told, expected, arrived in (
        ("nothing", (0, 0, 0, 0, []), (a1, b1, a2, b2, a3)),
        ("one lost", (1, 0, 0, 0, []), (a1, b1, a2, a3)),
        ("one doubled", (0, 1, 0, 0, [b"2"]), (a1, a2, b1, b2, a3, a2)),
        ("one reordered", (0, 0, 1, 0, []), (a1, a3, a2, b1, b2)),
        ("one in another partition", (0, 0, 1, 0, []), (a1, a2, (1, b"a3", b"3"), b1, b2)),
        ("one invented", (0, 0, 0, 1, []), (a1, a2, a3, b1, b2, (0, b"x", b"9"))),
        ("one message id for two", (0, 0, 0, 1, []), (a1, a2, a3, b1, (1, b"b2", b"4"))),
    ):
        if seen(*arrived) != expected:
            raise KAFKA.Failure(f"the judge sees {seen(*arrived)} where {told} was planted: {expected}")
    for told, expected, names in (
        ("nothing", (0, 0), "123"),
        ("one lost", (1, 0), "12"),
        ("one lost and one doubled", (1, 1), "122"),
        ("one doubled under a name of its own", (0, 1), "1234"),
    ):
        count, doubled = judge_alike([Record(0, at, at, b"", name.encode()) for at, name in enumerate(names)], 3)
        if (count.lost, count.doubled) != expected or len(doubled) != expected[1]:
            raise KAFKA.Failure(f"the judge of like events sees {count} where {told} was planted")
