"""The cells: what is killed, frozen and put back, and how often.

Each is a function of (matrix, folder, name, number of kills, seed) and returns a Count. The seed settles every instant and every
label; what the processes make of them is theirs.
"""

import dataclasses
import errno
import math
import os
import random
import re
import signal
import time
from pathlib import Path

from harness import KAFKA, ROOT

from .judge import Count
from .stage import KINDS, Stage, Start

# Of a label that is not come to again: then it is a kill at a random instant.
LABEL_DEADLINE_S = 1.5
STALE_EVENTS = 1_000


def labels():
    text = (ROOT / "crates" / "failpoint" / "src" / "lib.rs").read_text(encoding="utf-8")
    return re.findall(r'"(\w+)"', re.search(r"LABELS[^=]*= &\[(.*?)\];", text, re.DOTALL)[1])


class Aim:
    """At which label the next kill falls, and how often the daemon comes to it before. A label that is come to quickly is let pass
    more often, so that kills fall into all of a daemon's life."""

    def __init__(self, names, seed, offset, least):
        self.random = random.Random(seed)
        self.names, self.at, self.least, self.most = names, offset, least, dict.fromkeys(names, least + 4)

    def next(self):
        name = self.names[self.at % len(self.names)]
        self.at += 1
        return name, self.random.randrange(self.least, self.most[name])

    def reached(self, name, seconds):
        if seconds < 0.4:
            self.most[name] = min(256, self.most[name] * 2)

    def missed(self, name):
        self.most[name] = max(self.least + 1, self.most[name] // 4)


def kill_once(stage, aim, at_label, count):
    if at_label:
        label, passes = aim.next()
        stage.start(f"{label}={passes}*off->return" if passes else f"{label}=return")
        begun = time.monotonic()
        while stage.process.poll() is None and time.monotonic() < begun + LABEL_DEADLINE_S:
            time.sleep(0.003)
        if stage.kill():
            aim.missed(label)
            label = "random"
        else:
            aim.reached(label, time.monotonic() - begun)
        count.labels[label] += 1
    else:
        stage.start()
        # Into its start and its recovery, too.
        time.sleep(stage.random.uniform(0.005, 0.1) if stage.random.random() < 0.25 else stage.random.uniform(0.1, 0.8))
        stage.kill()
        count.labels["random"] += 1
    count.kills += 1


def ordinary(matrix, folder, name, number, seed):
    """A table in a journal mode, kills at labels and at random."""
    journal, kind = name.split("-", 1)
    whole = Count()
    parts = [("plain", number, False)]
    if KINDS[kind].bare:
        parts = [("plain", number - number // 3, False), ("alike", number // 3, True)]
    offset = list(CELLS).index(name) * 2
    for part, share, alike in parts:
        if share == 0:
            continue
        stage = Stage(matrix, folder / part, journal, kind, f"{seed} {part}", alike=alike)
        # A few kills are better spent on a daemon that is at work.
        few = share <= 6
        aim = Aim(labels(), f"{seed} {part} aim", offset, 2 if few else 0)
        count = Count()
        stage.begin()
        for kill in range(share):
            kill_once(stage, aim, kill % 2 == 0 if few else kill % 6 != 5, count)
        offset = aim.at
        judged, by_start = stage.finish()
        if stage.kind.exact:
            count.add(stage.explain(judged, by_start))
        else:
            count.add(stage.explain(judged, by_start, Start.unsure))
            renamed = sum(first is None or record.id != first.id for pairs in by_start.values() for record, first in pairs)
            if renamed:
                count.broken.append(f"{renamed} doubled records have another message id than the first")
            # Nothing but a kill between the note *deleting* and its removal may leave doubt.
            for start in stage.starts:
                if start.unsure() and "deleting" not in start.text():
                    count.broken.append(f"{start.log.name} is unsure of rows that were not being deleted")
        whole.add(count)
    if number >= 20 and whole.at_work < number // 3:
        whole.broken.append(f"only {whole.at_work} of {number} kills met a daemon that had published: this proves little")
    return whole


def with_broker(matrix, folder, name, number, seed):
    """Four databases, so that one broker serves for four kills of a daemon."""
    rng = random.Random(seed)
    frozen = name == "broker-frozen"
    tables = [("wal", "autoincrement"), ("delete", "event-id"), ("wal", "bare-table"), ("delete", "bare-table")]
    stages = [
        Stage(matrix, folder / f"{journal}-{kind}", journal, kind, f"{seed} {index}")
        for index, (journal, kind) in enumerate(tables)
    ]
    count = Count()
    for stage in stages:
        stage.begin(rate=100, pause_every=100, pause_ms=100)
    for _ in range(math.ceil(number / len(stages))):
        for stage in stages:
            stage.start()
            stage.progress(20)
        time.sleep(rng.uniform(0, 0.3))
        if frozen:
            matrix.kafka.freeze(1)
            time.sleep(rng.uniform(0, 0.3))
            for stage in stages:
                stage.kill("SIGKILL, broker frozen")
            early = rng.random() < 0.5
            if early:
                for stage in stages:
                    stage.start("" if rng.random() < 0.7 else "settled=return")
                time.sleep(rng.uniform(0.1, 1))
            matrix.kafka.thaw(1)
        else:
            for what in sorted(["broker", *stages], key=lambda _: rng.random()):
                if what == "broker":
                    matrix.kafka.kill(1)
                else:
                    what.kill("SIGKILL, broker too")
                time.sleep(rng.choice([0, 0, rng.uniform(0, 0.2)]))
            matrix.kafka.restart(1)
            early = rng.random() < 0.5
            if early:
                for stage in stages:
                    stage.start()
            matrix.kafka.ready()
        if early:
            # And once more, while it asks a broker that has just come back.
            time.sleep(rng.uniform(0, 0.4))
            for stage in stages:
                stage.kill("SIGKILL, soon after the broker came back")
        count.kills += len(stages)
    for stage in stages:
        judged, by_start = stage.finish()
        count.add(stage.explain(judged, by_start))
    return count


def explained(start):
    """What an old state file does not know of may be there twice: announced, or said of the file as a whole."""
    if re.search(r"state file\b.*\b(older|copied|restored|put back|another)\b", start.text()):
        return 1 << 31
    return start.unsure()


def plans_told(state):
    """How many plans there were, as it stands beside the state file; None where the file system has no such attributes."""
    try:
        return os.getxattr(state, "user.outboxd.plans")
    except OSError as error:
        return b"" if error.errno == errno.ENODATA else None


def old_state(matrix, folder, name, number, seed):
    del name
    rng = random.Random(seed)
    whole = Count()
    kinds = [("wal", "autoincrement"), ("delete", "bare-table"), ("wal", "bare"), ("delete", "event-id")]
    for index, (journal, kind) in enumerate(kinds):
        share = number // len(kinds) + (index < number % len(kinds))
        if share == 0:
            continue
        stage = Stage(matrix, folder / f"{journal}-{kind}", journal, kind, f"{seed} {index}")
        stage.begin(rate=600, pause_every=100, pause_ms=50)
        count = Count()
        for turn in range(share):
            stage.start()
            stage.progress(rng.randrange(20, 300))
            # Stands still while it is copied, so that the copy is one moment's.
            stage.process.send_signal(signal.SIGSTOP)
            copies = {}
            for suffix in ("", "-wal"):
                path = Path(f"{stage.state}{suffix}")
                copies[path] = path.read_bytes() if path.exists() else None
            told = plans_told(stage.state)
            stage.process.send_signal(signal.SIGCONT)
            stage.progress(STALE_EVENTS)
            # Once a second it is told how far the file has come: a copy that is younger is not known for one.
            deadline = time.monotonic() + 10
            while told is not None and plans_told(stage.state) == told and time.monotonic() < deadline:
                stage.progress(1)
            time.sleep(rng.uniform(0, 0.1))
            stage.kill("SIGKILL, old state put back")
            Path(f"{stage.state}-shm").unlink(missing_ok=True)
            for path, copy in copies.items():
                # As a snapshot of the disk would be (the same inode), and as a restored file would be.
                if copy is None or turn % 2:
                    path.unlink(missing_ok=True)
                if copy is not None:
                    path.write_bytes(copy)
            count.kills += 1
        judged, by_start = stage.finish()
        count.add(stage.explain(judged, by_start, explained))
        whole.add(count)
    return whole


def freeze_behind(kafka, stage, leader, others):
    """Freezes the followers and has the leader of partition 0 take what they have not: it is lost with the leader.

    A follower's request that waits on the leader would be answered with the next batch, to be read from the socket when the follower
    is thawed. Such a request waits for half a second at most (replica.fetch.wait.max.ms), and so long nothing is sent.
    """
    # A daemon that still asks what became of the last batch, or for a producer id, has nothing to send.
    end = kafka.end_offset(stage.topic, 0)
    stage.wait("partition 0 goes on", lambda: kafka.end_offset(stage.topic, 0) >= end + 100)
    stage.process.send_signal(signal.SIGSTOP)
    # What had been sent is replicated first; frozen followers could not tell the leader that they have it.
    KAFKA.until(10, "what was sent is replicated", lambda: not kafka.has_tail(leader, others, stage.topic))
    time.sleep(0.2)
    for node in others:
        kafka.freeze(node)
    time.sleep(0.8)
    stage.process.send_signal(signal.SIGCONT)
    KAFKA.until(10, "the leader has what its followers have not", lambda: kafka.has_tail(leader, others, stage.topic))


def leader_killed(matrix, folder, name, number, seed):
    del name
    rng = random.Random(seed)
    count = Count()
    stage = Stage(matrix, folder / "wal-autoincrement", "wal", "autoincrement", seed, topic_nodes=[[1, 2, 3], [2, 3, 1], [3, 1, 2]])
    stage.begin(rate=100, pause_every=1000, pause_ms=10)
    for _ in range(number):
        stage.start()
        stage.progress(40)
        leader = matrix.kafka.leaders(stage.topic)[0]
        others = [int(node) for node in matrix.kafka.broker.brokers() if int(node) != leader]
        freeze_behind(matrix.kafka, stage, leader, others)
        time.sleep(rng.uniform(0, 0.1))
        first = rng.random() < 0.5
        if first:
            stage.kill("SIGKILL before the leader's")
            time.sleep(rng.uniform(0, 0.1))
        matrix.kafka.kill(leader)
        if not first:
            time.sleep(rng.uniform(0, 0.2))
            stage.kill("SIGKILL after the leader's")
        stage.start()
        for node in others:
            matrix.kafka.thaw(node)
        count.kills += 1
        # The new leader without the tail is asked by the new daemon, which may be killed at that, too.
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, 3))
            stage.kill("SIGKILL while nobody leads")
            stage.start()
        KAFKA.until(60, "another node leads", lambda: matrix.kafka.leaders(stage.topic).get(0, leader) != leader)
        matrix.kafka.restart(leader)
        stage.progress(40)
        matrix.kafka.ready()
        KAFKA.until(60, "all replicas are in sync", lambda: matrix.kafka.in_sync(stage.topic))
        stage.kill("SIGKILL, whole again")
    judged, by_start = stage.finish()
    count.add(stage.explain(judged, by_start))
    return count


def follower_frozen(matrix, folder, name, number, seed):
    """Partition 0 lives on nodes 1 and 2, partition 1 on 1 and 3; node 3 freezes."""
    del name
    count = Count()
    stage = Stage(matrix, folder / "wal-autoincrement", "wal", "autoincrement", seed, topic_nodes=[[1, 2], [1, 3]])
    stage.begin(rate=100, pause_every=1000, pause_ms=10)
    stage.start()
    for turn in range(number):
        stage.progress(100)
        matrix.kafka.freeze(3)
        try:
            # What the follower had fetched may still be acknowledged; what is appended from now on not.
            held = matrix.kafka.end_offset(stage.topic, 1)
            free = matrix.kafka.end_offset(stage.topic, 0)
            time.sleep(0.2)
            held = matrix.kafka.end_offset(stage.topic, 1)
            stage.wait("the other lane goes on", lambda: matrix.kafka.end_offset(stage.topic, 0) >= free + 20)
            if matrix.kafka.end_offset(stage.topic, 1) > held:
                count.broken.append(f"turn {turn}: the other lane went on only after the frozen follower had been left behind")
            time.sleep(1)
        finally:
            matrix.kafka.thaw(3)
        KAFKA.until(60, "all replicas are in sync", lambda: matrix.kafka.in_sync(stage.topic))
    stage.progress(100)
    stage.kill("SIGKILL at the end")
    count.kills += 1
    judged, by_start = stage.finish()
    count.add(stage.explain(judged, by_start))
    return count


@dataclasses.dataclass
class Cell:
    function: object
    # By default, as the tests run it; and by --full.
    kills: int
    kills_full: int
    # Of its Kafka, which is its own to hurt if it does.
    nodes: int = 1
    hurts: bool = False
    session_ms: int = 3_000


CELLS = {
    **{f"{journal}-{kind}": Cell(ordinary, 5, 84) for kind in KINDS for journal in ("wal", "delete")},
    "old-state": Cell(old_state, 4, 20),
    "broker-killed": Cell(with_broker, 4, 100, hurts=True),
    "broker-frozen": Cell(with_broker, 8, 100, hurts=True),
    "leader-killed": Cell(leader_killed, 1, 20, nodes=3, hurts=True),
    # Long enough to see that the other lanes go on while it is still waited for.
    "follower-frozen": Cell(follower_frozen, 1, 3, nodes=3, hurts=True, session_ms=20_000),
}
