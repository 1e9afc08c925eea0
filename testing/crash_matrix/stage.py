"""One database, one topic, one application, and one daemon after another.

Promises: each start of the daemon has its log, and each doubled record is laid to the start that sent it. Does not know: when the
daemon is killed, and what is done to the broker.
"""

import bisect
import collections
import contextlib
import dataclasses
import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

from harness import KAFKA, run, unsure_rows
from harness.reader import read

from .judge import Ledger, judge, judge_alike

TABLE = "users_outbox"
PROGRESS_DEADLINE_S = 90
DRAIN_DEADLINE_S = 120


class Kind:
    """A table, and what tells its old rows from new ones."""

    def __init__(self, schema, config="", bare=False, exact=True):
        self.schema, self.config, self.bare, self.exact = schema, config, bare, exact


KINDS = {
    "autoincrement": Kind("autoincrement"),
    "event-id": Kind("event-id", '[outbox.columns]\nevent_id = "eventId"\n'),
    "bare-table": Kind("bare", 'bookkeeping = "table"\n', bare=True),
    "bare": Kind("bare", bare=True, exact=False),
}


@dataclasses.dataclass
class Start:
    at_ms: int
    log: Path
    how: str = ""

    def unsure(self):
        """Rows that it announced."""
        return unsure_rows(self.text())

    def text(self):
        return self.log.read_text(encoding="utf-8", errors="replace")


class Stage:
    def __init__(self, matrix, folder, journal, kind, seed, *, alike=False, topic_nodes=None):
        self.matrix, self.folder, self.journal, self.kind = matrix, folder, journal, KINDS[kind]
        self.alike, self.random = alike, random.Random(seed)
        self.seed = self.random.randrange(1, 1 << 31)
        (folder / "data").mkdir(parents=True)
        self.database, self.state = folder / "data" / "app.db", folder / "state.db"
        self.enough, self.ledger = folder / "enough", Ledger(folder / "ledger")
        self.starts, self.process, self.application = [], None, None
        self.topic = matrix.kafka.topic(f"{folder.parent.name}-{folder.name}", topic_nodes)
        create = [matrix.binary("outbox-app"), "create", "--db", self.database, "--journal", journal]
        run([*create, "--schema", self.kind.schema])
        self.config = folder / "config.toml"
        self.config.write_text(
            f'[[outbox]]\ndatabase = "{self.database}"\ntable = "{TABLE}"\ntopic = "{self.topic}"\n{self.kind.config}'
            f"[kafka]\nbootstrap_servers = {json.dumps(matrix.kafka.bootstrap.split(','))}\n"
            f'[state]\npath = "{self.state}"\n',
            encoding="utf-8",
        )

    # --- the application

    def begin(self, rate=300, pause_every=60, pause_ms=400):
        if self.alike:
            arguments = ["same", "--rows", self.random.choice([1, 3, 40]), "--times", 1, "--patience-s", DRAIN_DEADLINE_S]
            arguments += ["--ledger", self.ledger.path, "--pause-every", 3, "--pause-ms", 200]
        else:
            # Bursts and pauses: in a pause the table becomes empty, its ids are used again, and plans are forgotten.
            arguments = ["write", "--transactions", 1, "--events", 2, "--rate", rate, "--ledger", self.ledger.path]
            arguments += ["--pause-every", pause_every, "--pause-ms", pause_ms, "--seed", self.seed]
        command = [self.matrix.binary("outbox-app"), *arguments, "--until", self.enough, "--db", self.database]
        self.application = self.matrix.children.spawn(command, self.folder / "application")

    def end(self):
        self.enough.touch()
        try:
            code = self.application.wait(timeout=DRAIN_DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise KAFKA.Failure(f"the application does not end:\n{self.tail()}") from None
        if code != 0:
            said = (self.folder / "application.err").read_text(encoding="utf-8")
            raise KAFKA.Failure(f"the application ended with {code}: {said}\n{self.tail()}")

    def published(self):
        """Committed events that are no longer in the table."""
        # In this order: what is committed in between must not look published.
        committed = self.ledger.count()
        return committed - self.left()

    def left(self):
        """Rows in the table."""
        reader = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, isolation_level=None, timeout=20)
        with contextlib.closing(reader):
            return reader.execute(f"SELECT count(*) FROM {TABLE}").fetchone()[0]

    # --- the daemon

    def start(self, failpoints=""):
        log = self.folder / f"daemon-{len(self.starts):03}"
        self.starts.append(Start(time.time_ns() // 1_000_000, log.with_suffix(".err"), failpoints))
        environment = {**os.environ, "RUST_LOG": "info", "RUST_BACKTRACE": "1", "FAILPOINTS": failpoints}
        for name in ("NOTIFY_SOCKET", "STATE_DIRECTORY"):
            environment.pop(name, None)
        command = [self.matrix.binary("outboxd"), "run", "--config", self.config]
        self.process = self.matrix.children.spawn(command, log, environment)

    def kill(self, how="SIGKILL"):
        """False: it had ended before, by its failpoint."""
        ended = self.process.poll()
        if ended is None:
            self.process.kill()
            self.process.wait()
        elif ended != -signal.SIGKILL:
            raise KAFKA.Failure(f"the daemon ended by itself with {ended}:\n{self.tail()}")
        if ended is None:
            self.starts[-1].how += f", not reached: {how}" if self.starts[-1].how else how
        return ended is None

    def wait(self, what, holds, deadline_s=PROGRESS_DEADLINE_S):
        deadline = time.monotonic() + deadline_s
        while not holds():
            if self.process.poll() is not None:
                raise KAFKA.Failure(f"the daemon ended by itself with {self.process.returncode}:\n{self.tail()}")
            if self.application.poll() not in (None, 0):
                raise KAFKA.Failure(f"the application ended with {self.application.returncode}")
            if time.monotonic() > deadline:
                raise KAFKA.Failure(f"not within {deadline_s} s: {what}\n{self.tail()}")
            time.sleep(0.01)

    def progress(self, events):
        wanted = self.published() + events
        self.wait(f"{events} more events are published", lambda: self.published() >= wanted)

    def tail(self):
        return "".join(f"--- {start.log}\n{start.text()[-2500:]}" for start in self.starts[-2:])

    def finish(self):
        """Drains, reads back, compares."""
        self.start()
        self.end()
        self.wait("the table is empty", lambda: self.left() == 0, DRAIN_DEADLINE_S)
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            raise KAFKA.Failure(f"the daemon does not end after SIGTERM:\n{self.tail()}") from None
        if code != 0:
            raise KAFKA.Failure(f"the daemon ended with {code} after SIGTERM:\n{self.tail()}")
        records = read(self.matrix.kafka.bootstrap, self.topic)
        if self.alike:
            count, doubled = judge_alike(records, self.ledger.turns())
        else:
            count, doubled = judge(records, self.ledger.events())
        begun = [start.at_ms for start in self.starts]
        count.unsure = sum(start.unsure() for start in self.starts)
        working = {bisect.bisect_right(begun, record.sent_ms) - 1 for record in records}
        count.at_work = len(working - {len(begun) - 1})
        by_start = collections.defaultdict(list)
        for record, first in doubled:
            by_start[bisect.bisect_right(begun, record.sent_ms) - 1].append((record, first))
        return count, by_start

    def explain(self, count, by_start, forgiven=lambda start: 0):
        """Notes what broke a promise. `forgiven`: how many rows a start, by its log, may send that are there already. One that is
        killed before it has sent them leaves that to the next."""
        if count.lost:
            count.broken.append(f"{count.lost} of {count.events} events are lost")
        if count.reordered:
            count.broken.append(f"{count.reordered} events are out of order")
        if count.renewed > sum(forgiven(start) for start in self.starts):
            count.broken.append(f"{count.renewed} events have the message id of another")
        allowed = 0
        for number, start in enumerate(self.starts):
            allowed += forgiven(start)
            pairs = by_start.get(number, ())
            if not pairs:
                continue
            first = pairs[0][0]
            told = (
                f"{len(pairs)} records are doubled by {start.log.name} after a kill at {self.starts[number - 1].how!r}, the first at "
                f"{self.topic}-{first.partition} offset {first.offset}"
            )
            if len(pairs) > allowed:
                count.broken.append(told if allowed == 0 else f"{told}; not more than {allowed} were announced")
            allowed = max(0, allowed - len(pairs))
        return count
