"""One round: a plan is carried out, and then everything is accounted for.

Promises: whatever happens, what was started ends, frozen brokers thaw, and limits are put back. Does not know: how many rounds.
"""

import collections
import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness import KAFKA, unsure_rows
from harness.reader import read

from . import plan as plans
from .judge import Account, read_journal
from .schema import AREAS

HERE = Path(__file__).resolve().parent
CPU_AT_REST_PERCENT = 3.0
RSS_BASE_MB = 48
# A debug build, a daemon of two databases: so many copies of the largest row may be resident at once.
RSS_LARGEST_ROWS = 4
DEFAULT_LIMIT = 1 << 20
HIGHEST_LIMIT = 12 << 20


@dataclasses.dataclass
class Result:
    events: int = 0
    records: int = 0
    lost: int = 0
    doubled: int = 0
    unsure: int = 0
    renewed: int = 0
    reordered: int = 0
    quarantine: int = 0
    settled_s: float = 0.0
    rss_mb: float = 0.0
    cpu: float = 0.0
    log_lines: int = 0
    broken: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)


class Application:
    """A child that plays the application of one database; see application.py."""

    def __init__(self, round_, database):
        self.round, self.number, self.starts = round_, database.number, 0
        self.journal = round_.folder / f"journal-{database.number}"
        self.journal.touch()
        self.spec = round_.folder / f"application-{database.number}.json"
        self.child = None
        tables = [
            {
                "name": table.name,
                "tag": round_.tag(database, table),
                "load": table.load,
                "text_key": table.text_key,
                "by_area": table.by_area,
                "expression": table.expression,
                # It is written by one, it has one.
                "when": table.when,
                "triggers": any(other.source == table.name for other in database.tables),
            }
            for table in database.tables
        ]
        self.spec.write_text(
            json.dumps(
                {
                    "database": str(round_.path(database)),
                    "journal": str(self.journal),
                    "seed": f"{round_.plan.seed} {database.number}",
                    "timeout": 5,
                    "begin": database.begin,
                    "connection": database.connection,
                    "rate": database.rate,
                    "tables": tables,
                }
            ),
            encoding="utf-8",
        )

    def start(self):
        self.starts += 1
        base = self.round.folder / f"application-{self.number}-{self.starts}"
        command = [sys.executable, HERE / "application.py", self.spec]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.child = self.round.children.spawn(command, base, **pipes)

    def tell(self, command):
        try:
            self.child.stdin.write(f"{command}\n".encode())
            self.child.stdin.flush()
            if self.child.stdout.readline().decode().strip() != command:
                raise OSError("it ended")
        except OSError as error:
            raise KAFKA.Failure(f"the application of database {self.number} does not {command}: {error}") from None

    def kill(self):
        self.child.kill()
        self.child.wait()

    def end(self):
        with contextlib.suppress(OSError):
            self.child.stdin.close()
        try:
            code = self.child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            raise KAFKA.Failure(f"the application of database {self.number} does not end") from None
        if code:
            raise KAFKA.Failure(f"the application of database {self.number} ended with {code}")


class Daemon:
    """The daemon, played systemd for: each start has its log, and an end that nobody asked for is a fault."""

    def __init__(self, round_, config):
        self.round, self.config, self.logs, self.child = round_, config, [], None
        self.lock = threading.RLock()
        self.high_water_mb = 0.0
        # Set while a start may fail, for the disk is full.
        self.excused = 0

    def start(self):
        with self.lock:
            base = self.round.folder / f"daemon-{len(self.logs):02}"
            self.logs.append(base.with_suffix(".err"))
            environment = {**os.environ, "RUST_LOG": "info", "RUST_BACKTRACE": "1"}
            for name in ("NOTIFY_SOCKET", "STATE_DIRECTORY", "FAILPOINTS"):
                environment.pop(name, None)
            self.child = self.round.children.spawn([self.round.binary, "run", "--config", self.config], base, environment)

    def look_after(self):
        """Notes its memory, and starts it again where it may have ended by itself."""
        with self.lock:
            if self.child is None:
                return
            code = self.child.poll()
            if code is None:
                self.note_memory()
            elif code == 1 and self.excused:
                time.sleep(0.5)
                self.start()
            else:
                self.child = None
                self.round.broken(f"the daemon ended by itself with {code}, see {self.logs[-1].name}: {self.tail()}")

    def note_memory(self):
        with contextlib.suppress(OSError, ValueError, IndexError):
            status = Path(f"/proc/{self.child.pid}/status").read_text(encoding="ascii")
            self.high_water_mb = max(self.high_water_mb, int(status.split("VmHWM:")[1].split()[0]) / 1024)

    def kill(self):
        with self.lock:
            self.look_after()
            if self.child:
                self.child.kill()
                self.child.wait()
                self.child = None

    def end(self, limit_s):
        """By SIGTERM, which promises exit code 0 within the drain's time."""
        with self.lock:
            self.look_after()
            if self.child is None:
                return
            begun = time.monotonic()
            self.child.send_signal(signal.SIGTERM)
            try:
                code = self.child.wait(timeout=limit_s)
                # Before its first line it has not begun: nothing is there to be drained.
                if code != 0 and not (code == -signal.SIGTERM and not self.logs[-1].stat().st_size):
                    self.round.broken(f"exit code {code} after SIGTERM, see {self.logs[-1].name}: {self.tail()}")
            except subprocess.TimeoutExpired:
                self.round.broken(f"still there {limit_s:.0f} s after SIGTERM, see {self.logs[-1].name}: {self.tail()}")
                self.child.kill()
                self.child.wait()
            self.child = None
            return time.monotonic() - begun

    def cpu(self):
        """Seconds on a processor, ended threads included."""
        # What clock_getcpuclockid(3) makes of a process id: its complement, shifted, and CPUCLOCK_SCHED.
        return time.clock_gettime((~self.child.pid << 3) | 2)

    def text(self):
        return "".join(log.read_text(encoding="utf-8", errors="replace") for log in self.logs)

    def tail(self):
        lines = self.logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(lines[-3:])[-600:]


class Round:
    def __init__(self, options, kafka, children, folder, plan):
        self.options, self.kafka, self.children, self.folder, self.plan = options, kafka, children, folder, plan
        self.binary, self.result, self.facts = options.binary, Result(), {}
        self.lock = threading.Lock()
        self.disk = folder / "disk"
        self.disk.mkdir(parents=True)
        self.mounted = False
        self.limits = {}
        self.lowest = {}
        self.applications = []
        self.database_locks = [threading.Lock() for _ in plan.databases]
        self.broker_lock = threading.Lock()
        self.all_databases = threading.Lock()
        self.frozen = self.broker_down = False
        self.finals = {}

    # --- names

    def tag(self, database, table):
        return f"{'ab'[database.number]}{database.tables.index(table)}"

    def path(self, database):
        """As the application and the configuration name it."""
        return self.disk / f"app-{database.number}.db"

    def tables(self):
        for database in self.plan.databases:
            for table in database.tables:
                yield database, table, self.tag(database, table)

    def broken(self, text):
        with self.lock:
            self.result.broken.append(text)

    def note(self, text):
        with self.lock:
            self.result.notes.append(f"{time.monotonic() - self.begun:.1f} s: {text}")

    def fact(self, database, at, apply):
        with self.lock:
            self.facts.setdefault(database.number, []).append((at, apply))

    # --- the beginning

    def set_up(self):
        if self.plan.disk and self.options.can_mount:
            size = self.plan.disk
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "outboxd-chaos", self.disk], check=True)
            self.mounted = True
        for database in self.plan.databases:
            path = self.path(database)
            if database.symlink:
                (self.disk / "files").mkdir(exist_ok=True)
                path.symlink_to(f"files/{path.name}")
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute(f"PRAGMA page_size = {database.page_size}")
                db.execute(f"PRAGMA auto_vacuum = {database.auto_vacuum}")
                db.execute(f"PRAGMA journal_mode = {database.journal}")
                db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
                for table in database.tables:
                    db.execute(table.ddl())
                for table in database.tables:
                    if table.when:
                        db.execute(table.trigger())
        state = (self.disk if self.plan.state_on_disk else self.folder) / "state.db"
        config = []
        for database, table, tag in self.tables():
            configs = {}
            if table.max_message_bytes:
                configs["max.message.bytes"] = str(table.max_message_bytes)
            for part in [f".{area}" for area in AREAS] if table.by_area else [""]:
                name = f"{self.folder.name}-{tag}{part}"
                table.topics.append(self.kafka.topic(name, partitions=table.partitions, configs=configs))
            self.limits[tag] = table.max_message_bytes or DEFAULT_LIMIT
            self.lowest[tag] = self.limits[tag]
            lines, columns = table.config(str(self.path(database)))
            lines.append(f'name = "{tag}"')
            lines.append(f'durability = "{database.durability}"')
            lines.append(f'bookkeeping = "{database.bookkeeping}"')
            lines.append(f"max_attempts = {self.plan.max_attempts}")
            config += [*lines, *columns]
        config += ["[kafka]", f"bootstrap_servers = {json.dumps(self.kafka.bootstrap.split(','))}"]
        config += [f"{name} = {value}" for name, value in self.plan.kafka.items()]
        config += ["[state]", f'path = "{state}"', "[daemon]", f"drain_timeout_ms = {self.plan.drain_timeout_ms}"]
        path = self.folder / "config.toml"
        path.write_text("\n".join(config) + "\n", encoding="utf-8")
        self.daemon = Daemon(self, path)
        self.applications = [Application(self, database) for database in self.plan.databases]

    # --- the hurts

    def tool(self, database, kind, table="users", number=0, seconds=0.0, path=None):
        """(exit code, what it told)."""
        command = [sys.executable, HERE / "tool.py", path or self.path(database), kind, table, str(number), str(seconds)]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        try:
            told = json.loads(done.stdout)
        except ValueError:
            raise KAFKA.Failure(f"tool {kind}: {done.stderr[-600:]}") from None
        if done.returncode:
            self.note(f"{kind} on {table}: {told['error']} after {told['took']:.1f} s")
        return done.returncode, told.get("told")

    def rows(self, database, path=None):
        """{table: [(rowid, eventType)]}, users."""
        code, told = self.tool(database, "look", path=path)
        if code:
            raise KAFKA.Failure(f"{path or self.path(database)} can't be read")
        return told["rows"], told["users"]

    def hurt(self, hurt):
        database = self.plan.databases[hurt.database]
        table = database.tables[hurt.table]
        application = self.applications[hurt.database]
        if hurt.kind in plans.MIGRATIONS or hurt.kind in plans.FILE:
            with self.database_locks[hurt.database]:
                if hurt.kind == "application-killed":
                    application.kill()
                    time.sleep(hurt.lasts)
                    application.start()
                else:
                    self.migrate(hurt, database, table, application)
        elif hurt.kind in plans.SWAPS:
            with self.database_locks[hurt.database]:
                self.swap(hurt, database, application)
        elif hurt.kind == "disk-full":
            with contextlib.ExitStack() as stack:
                for lock in self.database_locks:
                    stack.enter_context(lock)
                self.fill_disk(hurt)
        elif hurt.kind in plans.BROKER:
            with self.broker_lock:
                self.hurt_broker(hurt, table, self.tag(database, table))
        else:
            self.hurt_daemon(hurt)

    def migrate(self, hurt, database, table, application):
        in_pieces = hurt.kind in plans.IN_PIECES
        if in_pieces:
            application.tell("pause")
        try:
            code, seen = self.tool(database, hurt.kind, table.name, hurt.number, hurt.lasts)
        finally:
            if in_pieces:
                application.tell("resume")
        if code and hurt.kind in plans.MIGRATIONS:
            self.note(f"{hurt.kind} was not done")
        tag = self.tag(database, table)
        # Rows that we deleted between the copy and the drop come back; VACUUM may number those of a text key anew (docs/guarantees.md).
        if in_pieces or (hurt.kind == "vacuum" and table.text_key):
            self.fact(database, math.inf, lambda account: account.copied(tag, seen or ()))

    def swap(self, hurt, database, application):
        path = self.path(database)
        backup = self.disk / f"backup-{hurt.number}.{'vacuumed' if hurt.number % 2 else 'copied'}"
        if database.symlink:
            backup = self.disk / "files" / backup.name
        code, _ = self.tool(database, "backup", number=backup)
        if code:
            return
        time.sleep(hurt.lasts)
        application.tell("pause")
        with contextlib.ExitStack() as stack:
            if hurt.stopped:
                stack.enter_context(self.daemon.lock)
                self.daemon.end(self.drain_limit_s())
            before, _ = self.rows(database)
            after, users = self.rows(database, backup)
            # What docs/operating.md asks for between the last close and the rename.
            time.sleep(0.3)
            at = time.monotonic()
            if hurt.kind == "swap-restore":
                code, _ = self.tool(database, "restore", number=backup)
                if code:
                    raise KAFKA.Failure("the backup could not be restored")
            elif hurt.kind == "swap-symlink":
                link = self.disk / "link"
                link.symlink_to(f"files/{backup.name}")
                link.rename(path)
            else:
                backup.rename(path)
            self.note(f"{hurt.kind}: {sum(map(len, before.values()))} rows made place for {sum(map(len, after.values()))}")
            now, now_users = self.rows(database)
            code, integrity = self.tool(database, "integrity")
            if integrity != "ok":
                self.broken(f"{hurt.kind}: integrity_check: {integrity}")
            stray = [name for name in now if not {tuple(row) for row in now[name]} <= {tuple(row) for row in after.get(name, ())}]
            if now_users != users or stray:
                self.broken(f"{hurt.kind}: the file that took the name has other contents: users {now_users} for {users}; {stray}")
            for table in database.tables:
                tag = self.tag(database, table)
                tokens = [[row[1] for row in rows.get(table.name, ())] for rows in (before, after)]
                self.fact(database, at, lambda account, tag=tag, tokens=tokens: account.swapped(tag, *tokens))
            if hurt.stopped:
                self.daemon.start()
        application.tell("resume")

    def fill_disk(self, hurt):
        if not self.mounted:
            return
        self.daemon.excused += 1
        filler = self.disk / "filler"
        try:
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                for size in (1 << 16, 1 << 12, 1):
                    with contextlib.suppress(OSError):
                        while True:
                            file.write(bytes(size))
            time.sleep(hurt.lasts)
        finally:
            filler.unlink(missing_ok=True)
            time.sleep(0.5)
            self.daemon.excused -= 1

    def hurt_broker(self, hurt, table, tag):
        if hurt.kind == "limit-lowered":
            low = [1_000, 5_000, 100_000][hurt.number % 3]
            self.lowest[tag] = min(self.lowest[tag], low)
            for topic in table.topics:
                self.kafka.configure(topic, "max.message.bytes", low)
            time.sleep(hurt.lasts)
            for topic in table.topics:
                self.kafka.configure(topic, "max.message.bytes", self.limits[tag])
        elif hurt.kind == "broker-frozen":
            self.kafka.freeze(1)
            self.frozen = True
            time.sleep(hurt.lasts)
            self.kafka.thaw(1)
            self.frozen = False
        else:
            self.broker_down = True
            self.kafka.kill(1)
            time.sleep(hurt.lasts)
            self.restart_broker()

    def restart_broker(self):
        """One that does not get up is no fault of the daemon: it is given a second start."""
        self.kafka.restart(1)
        try:
            self.kafka.ready()
        except KAFKA.Failure:
            self.kafka.kill(1)
            self.kafka.restart(1)
            self.kafka.ready()
        self.broker_down = False

    def drain_limit_s(self):
        return self.plan.drain_timeout_ms / 1000 + 10

    def hurt_daemon(self, hurt):
        with self.daemon.lock:
            if hurt.kind == "daemon-killed":
                self.daemon.kill()
                time.sleep(hurt.lasts / 2)
                self.daemon.start()
            elif hurt.kind == "daemon-ended":
                self.daemon.end(self.drain_limit_s())
                time.sleep(hurt.lasts / 2)
                self.daemon.start()
            elif self.daemon.child:
                self.daemon.child.send_signal(signal.SIGSTOP)
                time.sleep(hurt.lasts)
                self.daemon.child.send_signal(signal.SIGCONT)

    # --- the end

    def left(self):
        """{tag: [(rowid, eventType)]} of tables that are not empty; None: can't be read just now."""
        left = {}
        for database in self.plan.databases:
            try:
                reader = sqlite3.connect(f"file:{self.path(database)}?mode=ro", uri=True, isolation_level=None, timeout=2)
                with contextlib.closing(reader):
                    for table in database.tables:
                        rows = reader.execute(f"SELECT rowid, eventType FROM {table.quoted}").fetchall()
                        if rows:
                            left[self.tag(database, table)] = rows
            except sqlite3.Error:
                return None
        return left

    def quarantine(self):
        """{tag: {rowid: entry}}."""
        command = [self.binary, "dead", "list", "--json", "--config", self.daemon.config]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise KAFKA.Failure(f"dead list: {done.stderr}")
        listed = {}
        for line in done.stdout.splitlines():
            entry = json.loads(line)
            listed.setdefault(entry["outbox"], {})[entry["rowid"]] = entry
        return listed

    def settle(self, deadline_s):
        """Waits until the tables are empty, or what is there is in quarantine. Returns what is there: ({tag: rows}, {tag: listed})."""
        begun, last, since = time.monotonic(), None, 0.0
        while True:
            self.daemon.look_after()
            left = self.left()
            now = time.monotonic()
            if left == {}:
                return {}, {}
            if left != last:
                last, since = left, now
            if left is not None and now - since > 1:
                listed = self.quarantine()
                if all(rowid in listed.get(tag, ()) for tag, rows in left.items() for rowid, _ in rows):
                    return left, listed
                since = now
            if now - begun > deadline_s or self.daemon.child is None:
                listed = self.quarantine()
                waiting = {
                    tag: [row for row in rows if row[0] not in listed.get(tag, ())] for tag, rows in (left or {}).items()
                }
                told = ", ".join(
                    f"{len(rows)} of {tag} (rowid {rows[0][0]}: {rows[0][1]})" for tag, rows in waiting.items() if rows
                )
                self.broken(f"after {now - begun:.0f} s rows are neither published nor in quarantine: {told or 'can not be read'}")
                return left or {}, listed
            time.sleep(0.3)

    def rest(self):
        """CPU in percent over 3 s in which nothing happens; the best of three."""
        best = math.inf
        for _ in range(3):
            time.sleep(1)
            if self.daemon.child is None or self.daemon.child.poll() is not None:
                return 0.0
            before, begun = self.daemon.cpu(), time.monotonic()
            time.sleep(3)
            best = min(best, 100 * (self.daemon.cpu() - before) / (time.monotonic() - begun))
            if best <= CPU_AT_REST_PERCENT:
                break
        return best

    def switch_when_idle(self):
        """After 6 s in which nothing happens nobody else holds the file, also when it is opened anew for that."""
        time.sleep(6)
        for database in self.plan.databases:
            for mode in ("delete", "wal"):
                code, told = self.tool(database, "switch", number=mode)
                if code or told != mode:
                    self.broken(f"idle, and the journal mode of database {database.number} could not be switched to {mode}: {told}")
                    return
                # The daemon looks at what was changed, on a busy machine too, and lets go.
                time.sleep(3)

    def run(self):
        self.begun = time.monotonic()
        try:
            self.set_up()
            self.load()
            self.account()
        except (KAFKA.Failure, OSError, sqlite3.Error, ValueError, subprocess.SubprocessError) as failure:
            self.broken(f"could not be judged: {failure!r}")
        finally:
            self.clean_up()
        return self.result

    def load(self):
        for application in self.applications:
            application.start()
        time.sleep(self.plan.late_start)
        self.daemon.start()
        threads, begun = [], time.monotonic()

        def at_its_time(hurt):
            time.sleep(max(0, begun + hurt.at - time.monotonic()))
            try:
                self.hurt(hurt)
            except Exception as failure:  # noqa: BLE001: of a thread; the round hears of it
                self.broken(f"{hurt.kind} could not be done: {failure!r}")

        for hurt in self.plan.hurts:
            threads.append(threading.Thread(target=at_its_time, args=(hurt,)))
            threads[-1].start()
        while time.monotonic() < begun + self.plan.lasts or any(thread.is_alive() for thread in threads):
            self.daemon.look_after()
            time.sleep(0.1)
        for application in self.applications:
            application.end()

    def account(self):
        begun = time.monotonic()
        left, listed = self.settle(self.options.settle)
        self.result.settled_s = time.monotonic() - begun
        self.result.quarantine = sum(map(len, left.values()))
        accounts = self.accounts()
        self.judge_quarantine(accounts, left, listed)
        if left and self.plan.retry and not self.result.broken:
            self.retry(accounts)
        # What still waits is no rest.
        if not self.result.broken:
            self.result.cpu = self.rest()
            if self.result.cpu > CPU_AT_REST_PERCENT:
                self.broken(f"{self.result.cpu:.1f} % of a processor at rest")
            if self.plan.idle:
                self.switch_when_idle()
        self.daemon.end(self.drain_limit_s())
        if self.plan.again and not self.result.broken:
            self.daemon.start()
            time.sleep(1.5)
            self.daemon.end(self.drain_limit_s())
        left = self.left()
        if left is None:
            raise KAFKA.Failure("a database can't be read in the end")
        self.judge_records(accounts, left)
        self.judge_daemon()

    def accounts(self):
        accounts = []
        for database, application in zip(self.plan.databases, self.applications):
            names = {table.name: self.tag(database, table) for table in database.tables}
            triggers = [(names[table.source], names[table.name], table.when) for table in database.tables if table.when]
            account = Account(triggers)
            account.take(read_journal(application.journal), self.facts.get(database.number, ()))
            accounts.append(account)
        return accounts

    def judge_quarantine(self, accounts, left, listed):
        for tag, rows in left.items():
            versions = accounts["ab".index(tag[0])].versions[tag]
            for rowid, token in rows:
                entry = listed.get(tag, {}).get(rowid)
                version = versions.get(token)
                if not entry or not version or version.refusable:
                    continue
                if version.record_size() < self.lowest[tag]:
                    self.broken(f"{tag} rowid {rowid} ({token}, {version.size} B) is in quarantine: {entry['fault']}: {entry['reason']}")
                    return

    def retry(self, accounts):
        for _database, table, _tag in self.tables():
            for topic in table.topics:
                self.kafka.configure(topic, "max.message.bytes", HIGHEST_LIMIT)
        done = subprocess.run(
            [str(part) for part in (self.binary, "dead", "retry", "--all", "--config", self.daemon.config)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            self.note(f"dead retry --all: {done.stdout[-200:]} {done.stderr[-300:]}")
        left, _ = self.settle(self.options.settle)
        again = [
            (tag, token)
            for tag, rows in left.items()
            for _, token in rows
            if token in (of := accounts["ab".index(tag[0])].versions[tag]) and not of[token].refusable
        ]
        if again and not self.result.broken:
            self.broken(f"{len(again)} rows are in quarantine again, though the topics take them now: {again[:3]}")

    def judge_records(self, accounts, left):
        result = self.result
        result.unsure = unsure_rows(self.daemon.text())
        for database, account in zip(self.plan.databases, accounts):
            account.settle(
                {
                    tag: [token for _, token in rows]
                    for tag, rows in left.items()
                    if "ab".index(tag[0]) == database.number
                }
            )
            for table in database.tables:
                tag = self.tag(database, table)
                # What a topic may have refused has been in quarantine, perhaps.
                for version in account.versions[tag].values():
                    version.ordered &= version.record_size() < self.lowest[tag] and not version.refusable
                records = [
                    dataclasses.replace(record, topic=number)
                    for number, topic in enumerate(table.topics)
                    for record in read(self.kafka.bootstrap, topic)
                ]
                verdict = account.judge(tag, records, table.has_event_id)
                result.events += verdict.events
                result.records += verdict.records
                result.lost += len(verdict.lost)
                result.doubled += len(verdict.doubled)
                result.renewed += len(verdict.renewed)
                result.reordered += len(verdict.reordered)
                for what in ("lost", "renewed", "reordered", "invented"):
                    tokens = getattr(verdict, what)
                    if tokens:
                        told = {"renewed": "under a new message id, or that of another"}.get(what, what)
                        self.broken(f"{tag}: {len(tokens)} {told}: {', '.join(tokens[:5])}")
                if verdict.doubled:
                    self.note(f"{tag}: {len(verdict.doubled)} doubled: {', '.join(verdict.doubled[:5])}")
        if result.doubled > result.unsure:
            self.broken(f"{result.doubled} doubled, of which {result.unsure} were counted as unsure")

    def judge_daemon(self):
        result = self.result
        result.rss_mb = self.daemon.high_water_mb
        result.log_lines = sum(log.read_bytes().count(b"\n") for log in self.daemon.logs)
        largest = max((version.size for account in self.accounts() for of in account.versions.values() for version in of.values()), default=0)
        bound = RSS_BASE_MB + RSS_LARGEST_ROWS * largest / (1 << 20)
        if result.rss_mb > bound:
            self.broken(f"{result.rss_mb:.0f} MB resident, more than {bound:.0f} MB (largest row {largest} B)")
        seconds = time.monotonic() - self.begun
        lines = 40 * len(self.daemon.logs) + 20 * len(self.plan.hurts) + 2 * seconds + 3 * result.quarantine
        if result.log_lines > lines:
            often, count = self.most_frequent_line()
            self.broken(f"{result.log_lines} lines of log, more than {lines:.0f}; {count} times such as: {often}")

    def most_frequent_line(self):
        """(the first of those that differ in numbers only, how many there are)."""
        alike = collections.defaultdict(list)
        for line in self.daemon.text().splitlines():
            text = line.partition("] ")[2]
            alike[re.sub(r"\d+", "0", text)].append(text)
        lines = max(alike.values(), key=len)
        return lines[0][:300], len(lines)

    def clean_up(self):
        self.children.end(self.folder)
        if self.frozen:
            self.kafka.thaw(1)
        if self.broker_down:
            with contextlib.suppress(KAFKA.Failure):
                self.restart_broker()
        if self.mounted:
            if self.result.broken or self.options.keep:
                shutil.copytree(self.disk, self.folder / "disk-kept", symlinks=True, dirs_exist_ok=True)
            subprocess.run(["umount", self.disk], check=False)
        with contextlib.suppress(KAFKA.Failure, OSError):
            self.kafka.remove_topics()
            self.kafka.topics.clear()
