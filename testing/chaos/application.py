"""The application of a round, a program of its own: `application.py SPEC`. It commits events and knows nothing of outboxd.

Each transaction is in the journal before it begins to commit, and what became of it after. Where COMMIT leaves that open, the row
that every transaction puts into `users` tells. On its standard input: `pause` (closes the database), `resume`; its end is the end.

A transaction is settled by the seed and its number; which waiting row it rewrites depends on what is still there.
"""

import contextlib
import hashlib
import json
import random
import select
import sqlite3
import sys
import time
from pathlib import Path

EVENTS_MAX, BYTES_MAX = 3_000, 64 << 20
KEYS_ODD = ["", " ", "ключ", "k" * 1000, "a,b=c", "'quoted\"", "line\tend", "0", "\U0001f600"]


class Application:
    def __init__(self, spec):
        self.spec, self.db, self.events, self.bytes, self.tx = spec, None, 0, 0, 0
        self.rows = dict.fromkeys((table["name"] for table in spec["tables"]), 0)
        self.journal = open(spec["journal"], "a", encoding="utf-8")
        self.commands = b""
        self.paused = False

    # --- the journal

    def write(self, line):
        self.journal.write(json.dumps({"at": time.monotonic(), **line}) + "\n")
        self.journal.flush()

    def take_up(self):
        """After a kill: goes on behind what is there, and settles what was left open."""
        last = None
        for text in Path(self.spec["journal"]).read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            last = line
            if "ops" in line:
                self.tx = line["tx"]
                self.rows.update(line["rows"])
                self.events += len(line["ops"])
        if last and "ops" in last:
            self.write({"tx": self.tx, "done": self.is_committed()})

    def is_committed(self):
        """Whether the last transaction is there, asked until the database answers."""
        while True:
            try:
                self.close()
                return self.open().execute("SELECT 1 FROM users WHERE id = ?", (self.tx,)).fetchone() is not None
            except sqlite3.Error:
                # Not `listen`: a pause must find the journal settled.
                time.sleep(0.05)

    # --- the database

    def open(self):
        if self.db is None:
            path = f"file:{self.spec['database']}?mode=rw"
            self.db = sqlite3.connect(path, uri=True, isolation_level=None, timeout=self.spec["timeout"])
        return self.db

    def close(self):
        if self.db is not None:
            self.db.close()
            self.db = None

    def commit(self, ops):
        self.write({"tx": self.tx, "ops": ops, "rows": self.rows})
        deadline = time.monotonic() + 10
        while True:
            try:
                self.db.execute("COMMIT")
                done = True
                break
            except sqlite3.Error:
                if not self.db.in_transaction:
                    done = self.is_committed()
                    break
                if time.monotonic() > deadline:
                    self.db.execute("ROLLBACK")
                    done = False
                    break
                time.sleep(0.002)
        self.write({"tx": self.tx, "done": done})

    # --- transactions

    def content(self, rng, table):
        """(key, payload) of a new row."""
        load = table["load"]
        keys, size = load["keys"], load["size"]
        key = {
            "none": lambda: None,
            "one": lambda: "the one",
            "few": lambda: f"k{rng.randrange(10)}",
            "many": lambda: f"user-{rng.randrange(1000)}",
            "odd": lambda: rng.choice([*KEYS_ODD, None, 7, -(1 << 40), b"\x00\xff\x01"]),
        }[keys]()
        luck = rng.random()
        if size == "huge" and luck < 0.02:
            length = rng.randrange(500_000, 8 << 20)
        elif size in ("large", "huge") and luck < 0.2:
            length = rng.randrange(10_000, 900_000 if size == "large" else 100_000)
        elif size != "tiny" and luck < 0.5:
            length = rng.randrange(0, 10_000 if size == "mixed" else 500)
        else:
            length = rng.randrange(0, 40)
        if self.bytes + length > BYTES_MAX:
            length = min(length, 100)
        self.bytes += length
        kind = rng.random()
        if kind < 0.03:
            return key, None
        if kind < 0.06:
            return key, ""
        if kind < 0.09:
            return key, rng.randrange(1 << 40)
        if kind < 0.25:
            return key, rng.randbytes(length)
        return key, json.dumps({"pad": "x" * max(0, length - 10)})

    def insert(self, rng, table, ops):
        name = table["name"]
        self.rows[name] += 1
        number = self.rows[name]
        alike = table["load"]["alike"]
        if alike:
            token, key, payload = f"{table['tag']}.alike.{number % alike}", "k", "same"
        else:
            token, (key, payload) = f"{table['tag']}.{number}.0", self.content(rng, table)
        names, values, refusable = ["eventType", "aggregateId", "payload"], [token, key, payload], False
        if table["by_area"]:
            area = rng.choices(["north", "south", "no such/topic"], [20, 20, 1])[0]
            if alike and area == "no such/topic":
                # Which of them may be in quarantine nothing tells.
                area = "north"
            refusable |= area not in ("north", "south")
            names.append("area")
            values.append(area)
        if table["expression"]:
            headers = rng.choices(['{"traceparent":"1"}', "{}", None, "oops"], [10, 10, 10, 1])[0]
            refusable |= headers == "oops"
            names.append("headers")
            values.append(headers)
        if table["text_key"]:
            names.append("id")
            values.append(f"{rng.getrandbits(64):016x}-{number}")
        marks = ", ".join("?" * len(values))
        self.db.execute(f'INSERT INTO "{name}" ({", ".join(names)}) VALUES ({marks})', values)
        # One that was never committed is never seen.
        luck = rng.random() if not table["triggers"] and not alike else 1
        if luck < 0.02:
            self.db.execute(f'DELETE FROM "{name}" WHERE eventType = ?', (token,))
            return
        if luck < 0.04:
            before, token = token, f"{table['tag']}.{number}.1"
            self.db.execute(f'UPDATE "{name}" SET eventType = ? WHERE eventType = ?', (token, before))
        ops.append(["insert", table["tag"], token, *told(key, payload), refusable])

    def rewrite(self, rng, table, ops):
        """UPDATEs or DELETEs a row that waits, if one does."""
        name = table["name"]
        row = self.db.execute(
            f'SELECT rowid, eventType FROM "{name}" LIMIT 1 OFFSET ?', (rng.choice([0, 0, rng.randrange(30)]),)
        ).fetchone()
        if row is None or not row[1].startswith(f"{table['tag']}."):
            return
        rowid, token = row
        what = rng.choice(["update", "update", "delete", "touch"])
        if what == "delete":
            self.db.execute(f'DELETE FROM "{name}" WHERE rowid = ?', (rowid,))
            ops.append(["delete", table["tag"], token])
        elif what == "touch":
            self.db.execute(f'UPDATE "{name}" SET attempts = attempts + 1 WHERE rowid = ?', (rowid,))
            ops.append(["touch", table["tag"], token])
        else:
            tag, number, version = token.split(".")
            # A file that is put back has old versions in it: a number that only counted them would come again.
            new = f"{tag}.{number}.{max(self.tx, int(version) + 1)}"
            key, payload = self.content(rng, table)
            mends = ", area = 'north'" * table["by_area"] + ", headers = '{}'" * table["expression"]
            self.db.execute(
                f'UPDATE "{name}" SET eventType = ?, aggregateId = ?, payload = ?{mends} WHERE rowid = ?',
                (new, key, payload, rowid),
            )
            ops.append(["update", table["tag"], token, new, *told(key, payload), False])

    def transaction(self):
        self.tx += 1
        rng = random.Random(f"{self.spec['seed']} {self.tx}")
        written = [table for table in self.spec["tables"] if table["load"] and not (table["when"] and rng.random() < 0.7)]
        ops = []
        try:
            self.open().execute(f"BEGIN {self.spec['begin']}")
            self.db.execute("INSERT INTO users (id, name) VALUES (?, ?)", (self.tx, f"user {self.tx}"))
            for table in rng.sample(written, rng.randrange(1, len(written) + 1)) if written else []:
                rows = rng.choices([1, 2, 40, 300], [60, 30, 4, 1])[0]
                for _ in range(rows):
                    self.insert(rng, table, ops)
                if rng.random() < 0.08:
                    # A part that is taken back.
                    self.db.execute("SAVEPOINT part")
                    dropped = []
                    for _ in range(rng.randrange(1, 5)):
                        self.insert(rng, table, dropped)
                    self.db.execute("ROLLBACK TO part")
                    self.db.execute("RELEASE part")
                if not table["load"]["alike"] and rng.random() < table["load"]["rewrite"]:
                    self.rewrite(rng, table, ops)
            if rng.random() < 0.05:
                self.db.execute("ROLLBACK")
                return
            self.commit(ops)
            self.events += len(ops)
        except sqlite3.Error as error:
            print(f"{time.monotonic():.3f} transaction {self.tx}: {error}", file=sys.stderr, flush=True)
            with contextlib.suppress(sqlite3.Error):
                if self.db is not None and self.db.in_transaction:
                    self.db.execute("ROLLBACK")
            self.close()
            self.listen(0.02)

    # --- the loop

    def listen(self, seconds):
        """Waits, and does what it is told meanwhile. False: the end."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([0], [], [], None if self.paused else max(0, left))
            if not ready:
                return True
            more = sys.stdin.buffer.raw.read(4096)
            if not more:
                raise EOFError
            self.commands += more
            while b"\n" in self.commands:
                command, self.commands = self.commands.split(b"\n", 1)
                self.paused = command == b"pause"
                if self.paused:
                    self.close()
                print(command.decode(), flush=True)

    def run(self):
        self.take_up()
        rng = random.Random(f"{self.spec['seed']} pauses {self.tx}")
        while self.events < EVENTS_MAX:
            for _ in range(rng.choice([1, 10, 50])):
                if self.events >= EVENTS_MAX:
                    break
                self.transaction()
                if self.spec["connection"] == "per-transaction":
                    self.close()
                self.listen(1 / self.spec["rate"])
            if self.spec["connection"] == "per-burst":
                self.close()
            self.listen(rng.choice([0, 0.1, 0.6]))
        self.close()
        while True:
            self.listen(60)


def as_bytes(value):
    """What a record is made of it, or None."""
    if value is None:
        return None
    return value if isinstance(value, bytes) else str(value).encode()


def told(key, payload):
    key, payload = as_bytes(key), as_bytes(payload)
    return [
        None if key is None else key.hex(),
        None if payload is None else hashlib.sha256(payload).hexdigest()[:16],
        len(key or b"") + len(payload or b""),
    ]


if __name__ == "__main__":
    application = Application(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        application.run()
    except EOFError:
        application.close()
