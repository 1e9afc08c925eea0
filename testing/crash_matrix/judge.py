"""What arrived, against what was committed.

Promises: whatever is not the same byte for byte is counted.
Does not know: who was killed when, and which doubled record is forgiven.
"""

import collections
import dataclasses

from harness import KAFKA
from harness.reader import Record


@dataclasses.dataclass
class Count:
    kills: int = 0
    events: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    unsure: int = 0
    broken: list = dataclasses.field(default_factory=list)
    # Message ids that two events have.
    renewed: int = 0
    # Starts of the daemon that published something before they were killed.
    at_work: int = 0
    labels: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, other):
        for name in ("kills", "events", "lost", "doubled", "reordered", "unsure", "renewed", "at_work"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.broken += other.broken
        self.labels += other.labels


class Ledger:
    """What the application committed, line by line (see testing/app/src/ledger.rs, and its command `same`)."""

    def __init__(self, path):
        self.path, self.at, self.lines = path, 0, 0

    def count(self):
        """Lines so far, while it grows."""
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

    def turns(self):
        """Of an application whose events are all alike: (begin, end, rows) of each transaction."""
        return [tuple(map(int, line.split())) for line in self.path.read_text(encoding="ascii").splitlines()]


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
    count.renewed = len(first) - len({record.id for record in first.values()})
    return count, doubled


def judge_alike(records, turns):
    """Events that nothing tells apart but when they were sent: in each turn (begin, end, rows) of the application, between its
    commit and the empty table, each of its rows. What is there once more carries the message id of another of the same turn."""
    count = Count(events=sum(rows for _, _, rows in turns))
    doubled, at = [], 0
    records = sorted(records, key=lambda record: (record.sent_ms, record.offset))
    for begin, end, rows in turns:
        of_this_turn = []
        while at < len(records) and records[at].sent_ms <= end:
            of_this_turn.append(records[at])
            at += 1
        stray = sum(record.sent_ms < begin for record in of_this_turn)
        if stray:
            count.broken.append(f"{stray} records were sent when nothing was in the table")
        count.lost += max(0, rows - len(of_this_turn))
        known = {}
        for record in of_this_turn[:rows]:
            known.setdefault(record.id, record)
        doubled += [(record, known.get(record.id)) for record in of_this_turn[rows:]]
    doubled += [(record, None) for record in records[at:]]
    count.doubled = len(doubled)
    # Rows of which a kill left in doubt whether they are new keep the message id of the old ones.
    count.renewed = len(records) - len({record.id for record in records}) - count.doubled
    return count, doubled


def prove():
    """The judge is given one fault of each kind before it is believed to see none."""
    events = {b"a1": ("a", 1), b"a2": ("a", 2), b"a3": ("a", 3), b"b1": ("b", 1), b"b2": ("b", 2)}

    def seen(*arrived):
        records = [Record(partition, at, at, value, name) for at, (partition, value, name) in enumerate(arrived)]
        count, doubled = judge(records, events)
        return count.lost, count.doubled, count.reordered, len(count.broken) + count.renewed, [one.id for _, one in doubled]

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
    for told, expected, arrived in (
        ("nothing", (0, 0, 0), ((1, "1"), (2, "2"), (5, "3"), (6, "4"))),
        ("one lost", (1, 0, 0), ((1, "1"), (2, "2"), (6, "4"))),
        ("one doubled", (0, 1, 0), ((1, "1"), (2, "2"), (3, "2"), (5, "3"), (6, "4"))),
        ("one lost, later one doubled", (1, 1, 0), ((1, "1"), (5, "3"), (6, "4"), (6, "4"))),
        ("an old message id", (0, 0, 1), ((1, "1"), (2, "2"), (5, "2"), (6, "4"))),
    ):
        records = [Record(0, at, sent, b"", name.encode()) for at, (sent, name) in enumerate(arrived)]
        count, doubled = judge_alike(records, [(0, 3, 2), (5, 8, 2)])
        if (count.lost, count.doubled, count.renewed) != expected or len(doubled) != expected[1]:
            raise KAFKA.Failure(f"the judge of like events sees {count} where {told} was planted")
