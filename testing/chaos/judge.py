"""Every row version that was committed, against what arrived.

Promises: whatever is not byte for byte what was committed, under its key, is counted. Does not know: the daemon; what it announced
is compared by whoever asks.

A version (an eventType) has to be published between `low` and `high` times: once, unless the application rewrote or removed it
while it waited (then it may have been published before, or not), a restored file brought it back, or a migration of several
transactions copied it while we were deleting it.
"""

import collections
import dataclasses
import hashlib
import json

from harness import KAFKA
from harness.reader import Record


# Of a record beside its key and its value: other headers, batch.
RECORD_OVERHEAD = 400


@dataclasses.dataclass
class Expected:
    key: str | None
    digest: str | None
    size: int
    # It may be in quarantine, whatever the topics take.
    refusable: bool = False
    low: int = 0
    high: int = 0
    # Its place among its key's is settled.
    ordered: bool = True

    def record_size(self):
        """At most: the key (in hex here) is in the record twice, as key and as header."""
        return self.size + len(self.key or "") // 2 + RECORD_OVERHEAD


@dataclasses.dataclass
class Verdict:
    events: int = 0
    records: int = 0
    lost: list = dataclasses.field(default_factory=list)
    doubled: list = dataclasses.field(default_factory=list)
    renewed: list = dataclasses.field(default_factory=list)
    reordered: list = dataclasses.field(default_factory=list)
    invented: list = dataclasses.field(default_factory=list)


class Account:
    """What one database's tables owe to their topics, by table's tag."""

    def __init__(self, triggers=()):
        """`triggers`: (tag of the source, tag of the table that is written, "insert" or "delete")."""
        self.versions = collections.defaultdict(dict)
        self.triggers = triggers
        # Versions that are the latest of their row, and not removed by the application.
        self.current = collections.defaultdict(collections.Counter)
        self.removed = collections.defaultdict(collections.Counter)

    def version(self, tag, token, key, digest, size, refusable=False):
        version = self.versions[tag].setdefault(token, Expected(key, digest, size, refusable))
        version.low += 1
        version.high += 1
        self.current[tag][token] += 1
        for source, target, when in self.triggers:
            if source == tag and when == "insert" and token.endswith(".0"):
                digest = hashlib.sha256(b"by trigger").hexdigest()[:16]
                self.version(target, f"x.{token}", key, digest, len(key or "") // 2 + 10)

    def gone(self, tag, token):
        version = self.versions[tag][token]
        version.low -= 1
        version.ordered = False
        self.current[tag][token] -= 1

    def apply(self, ops):
        for what, tag, token, *more in ops:
            if what == "insert":
                self.version(tag, token, *more)
            elif what == "update":
                self.gone(tag, token)
                self.version(tag, *more)
                self.versions[tag][more[0]].ordered = False
            elif what == "delete":
                self.gone(tag, token)
                self.removed[tag][token] += 1
            elif what == "touch":
                self.versions[tag][token].high += 1
                self.versions[tag][token].ordered = False

    def copied(self, tag, tokens):
        for token in tokens:
            version = self.versions[tag].get(token)
            if version:
                version.high += 1

    def swapped(self, tag, before, after):
        """The table held `before` and holds `after` now."""
        before, after = collections.Counter(before), collections.Counter(after)
        for token, count in after.items():
            version = self.versions[tag].get(token)
            if version:
                version.high += count
                version.low = max(version.low, count)
                self.current[tag][token] = count
        for token, count in (before - after).items():
            version = self.versions[tag].get(token)
            if version:
                version.low -= count
                self.current[tag][token] = 0

    def take(self, lines, facts):
        """The application's journal and what else was done, in the order of time; each fact is (time, function of self)."""
        committed, open_ops = [], {}
        for line in lines:
            if "ops" in line:
                open_ops[line["tx"]] = line["ops"]
            elif line["done"]:
                committed.append((line["at"], open_ops.pop(line["tx"])))
            else:
                open_ops.pop(line["tx"])
        steps = [(at, lambda ops=ops: self.apply(ops)) for at, ops in committed]
        steps += [(at, lambda fact=fact: fact(self)) for at, fact in facts]
        for _, step in sorted(steps, key=lambda step: step[0]):
            step()

    def settle(self, left):
        """`left`: {tag: tokens that are still in the table}, in quarantine as the caller knows. They may be unpublished."""
        for source, target, when in self.triggers:
            if when != "delete":
                continue
            still = collections.Counter(left.get(source, ()))
            for token, count in ((self.current[source] + self.removed[source]) - still).items():
                of = self.versions[source][token]
                digest = hashlib.sha256(b"by trigger").hexdigest()[:16]
                more = of.high - of.low if of.high > 1 else 0
                version = Expected(of.key, digest, len(of.key or "") // 2 + 10, False, count, count + more, False)
                self.versions[target][f"d.{token}"] = version
        for tag, tokens in left.items():
            for token in tokens:
                version = self.versions[tag].get(token)
                if version:
                    version.low -= 1

    def judge(self, tag, records, shared_ids):
        """`shared_ids`: the message id is the application's, and stays when a row is rewritten."""
        verdict, versions = Verdict(records=len(records)), self.versions[tag]
        verdict.events = sum(version.high for version in versions.values())
        seen = collections.defaultdict(list)
        place, last = {}, {}
        for record in records:
            token = record.kind.decode(errors="replace")
            version = versions.get(token)
            key = None if record.key is None else record.key.hex()
            digest = None if record.value is None else hashlib.sha256(record.value).hexdigest()[:16]
            if version is None or (key, digest) != (version.key, version.digest):
                verdict.invented.append(token)
                continue
            seen[token].append(record)
            number = number_of(token)
            if number is None or key is None:
                continue
            key = (record.topic, key)
            if place.setdefault(key, record.partition) != record.partition:
                verdict.reordered.append(token)
            if version.ordered and len(seen[token]) == 1:
                # Those of the trigger are counted by their source.
                source = (key, token.rsplit(".", 2)[0])
                if number < last.get(source, 0):
                    verdict.reordered.append(token)
                last[source] = max(number, last.get(source, 0))
        owners = {}
        for token, version in versions.items():
            copies = seen.get(token, [])
            if len(copies) < version.low:
                verdict.lost += [token] * (version.low - len(copies))
            if len(copies) > max(version.high, 0):
                verdict.doubled += [token] * (len(copies) - max(version.high, 0))
            ids = {record.id for record in copies}
            if len(ids) > max(version.high, 1):
                verdict.renewed.append(token)
            row = token.rsplit(".", 1)[0] if shared_ids else token
            for identity in ids:
                if owners.setdefault(identity, row) != row:
                    verdict.renewed.append(token)
        return verdict


def number_of(token):
    """Of a row as it was inserted: its place among those of its table; None for others."""
    parts = token.removeprefix("x.").split(".")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() and parts[2] == "0" else None


def read_journal(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prove():
    """The judge is given one fault of each kind before it is believed to see none."""
    digest = hashlib.sha256(b"v").hexdigest()[:16]

    def insert(number):
        return ["insert", "t", f"t.{number}.0", b"k".hex(), digest, 2]

    def record(kind, identity, value=b"v", partition=0):
        return Record(partition, 0, 0, value, identity, b"k", kind)

    base = [[insert(1)], [insert(2)], [insert(3)]]
    a, b, c = record(b"t.1.0", b"1"), record(b"t.2.0", b"2"), record(b"t.3.0", b"3")
    for told, expected, transactions, arrived in (
        ("nothing", (0, 0, 0, 0, 0), base, [a, b, c]),
        ("one lost", (1, 0, 0, 0, 0), base, [a, c]),
        ("one doubled", (0, 1, 0, 0, 0), base, [a, b, b, c]),
        ("one doubled under a new id", (0, 1, 1, 0, 0), base, [a, b, record(b"t.2.0", b"9"), c]),
        ("one id for two", (0, 0, 1, 0, 0), base, [a, record(b"t.2.0", b"1"), c]),
        ("one reordered", (0, 0, 0, 1, 0), base, [b, a, c]),
        ("one in another partition", (0, 0, 0, 1, 0), base, [a, b, record(b"t.3.0", b"3", partition=1)]),
        ("one invented", (0, 0, 0, 0, 1), base, [a, b, c, record(b"t.4.0", b"4")]),
        ("one with another value", (1, 0, 0, 0, 1), base, [a, b, record(b"t.3.0", b"3", value=b"w")]),
        ("a rewritten row, only the new version", (0, 0, 0, 0, 0), [*base, [["update", "t", "t.1.0", "t.1.1", b"k".hex(), digest, 2]]], [record(b"t.1.1", b"5"), b, c]),
        ("a rewritten row, the new version lost", (1, 0, 0, 0, 0), [*base, [["update", "t", "t.1.0", "t.1.1", b"k".hex(), digest, 2]]], [a, b, c]),
        ("a removed row", (0, 0, 0, 0, 0), [*base, [["delete", "t", "t.1.0"]]], [b, c]),
    ):  # fmt: skip
        account = Account()
        for ops in transactions:
            account.apply(ops)
        account.settle({})
        seen = account.judge("t", arrived, False)
        seen = tuple(len(part) for part in (seen.lost, seen.doubled, seen.renewed, seen.reordered, seen.invented))
        if seen != expected:
            raise KAFKA.Failure(f"the judge sees {seen} where {told} was planted: {expected}")
