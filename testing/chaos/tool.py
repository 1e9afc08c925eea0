"""Whoever else opens the database, a program of its own: `tool.py DATABASE KIND TABLE [NUMBER] [SECONDS]`.

Migration tools with the statements that they send, in their transactions; VACUUM, readers, writers. Prints, as JSON, which rows
it saw (by eventType), and whether it got through. Stands aside (exit code 3) where the database is locked for longer than it waits.
"""

import json
import re
import sqlite3
import sys
import time

# What is half done must be finished: longer than any lock that a round holds.
PATIENCE_S = 20


class Tool:
    def __init__(self, database, table):
        self.db = sqlite3.connect(f"file:{database}?mode=rw", uri=True, isolation_level=None, timeout=PATIENCE_S)
        self.table = table

    def run(self, *statements):
        for statement in statements:
            self.db.execute(statement)

    def all(self, sql, *values):
        return self.db.execute(sql, values).fetchall()

    def seen(self, table=None):
        return [row[0] for row in self.all(f'SELECT eventType FROM "{table or self.table}"')]

    def ddl(self, name, front=""):
        """The table's CREATE under another name, perhaps with a column more."""
        text = self.all("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", self.table)[0][0]
        rest = re.sub(r'^CREATE TABLE\s+("(?:[^"]|"")*"|\S+?)\s*\(', "", text, count=1, flags=re.IGNORECASE)
        return f'CREATE TABLE "{name}" ({front}{rest}'

    def names(self):
        return ", ".join(f'"{row[1]}"' for row in self.all(f'PRAGMA table_xinfo("{self.table}")') if row[6] == 0)

    def others(self):
        """Indexes of the table, and triggers that name it: (drops, creates). A rename fails beside a trigger without its table."""
        rows = self.all(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND "
            "((type = 'index' AND tbl_name = ?1) OR (type = 'trigger' AND (tbl_name = ?1 OR instr(sql, ?1))))",
            self.table,
        )
        return [f'DROP {kind} "{name}"' for kind, name, _ in rows], [sql for _, _, sql in rows]

    # --- migrations

    def rebuild(self, scratch, front, before, opening, middle, closing):
        """`before`, create, `opening`, copy, `middle`, drop, rename, `closing`."""
        names = self.names()
        drops, creates = self.others()
        self.run(*before, self.ddl(scratch, front), *opening)
        self.run(f'INSERT INTO "{scratch}" ({names}) SELECT {names} FROM "{self.table}"')
        seen = self.seen(scratch)
        self.run(*middle, *drops, f'DROP TABLE "{self.table}"', f'ALTER TABLE "{scratch}" RENAME TO "{self.table}"')
        self.run(*creates, *closing)
        return seen

    def alembic(self, number):
        # CREATE by itself, as Python's sqlite3 does it; then one transaction.
        return self.rebuild(f"_alembic_tmp_{self.table}", f"m{number} VARCHAR, ", [], ["BEGIN"], [], ["COMMIT"])

    def django(self, number):
        before, closing = ["PRAGMA foreign_keys = OFF", "BEGIN"], ["COMMIT", "PRAGMA foreign_keys = ON"]
        return self.rebuild(f"new__{self.table}", f"m{number} TEXT NULL, ", before, [], [], closing)

    def prisma(self, number):
        before = ["PRAGMA defer_foreign_keys=ON", "PRAGMA foreign_keys=OFF"]
        return self.rebuild(f"new_{self.table}", f"m{number} TEXT, ", before, [], [], ["PRAGMA foreign_keys=ON"])

    def efcore(self, number):
        middle, closing = ["COMMIT", "PRAGMA foreign_keys = 0", "BEGIN"], ["COMMIT", "PRAGMA foreign_keys = 1"]
        return self.rebuild(f"ef_temp_{self.table}", f'"M{number}" TEXT NULL, ', ["BEGIN"], [], middle, closing)

    def rails(self, _number):
        scratch, names = f"a{self.table}", self.names()
        drops, creates = self.others()
        plain = self.ddl(self.table)
        self.run("PRAGMA foreign_keys = OFF", "BEGIN IMMEDIATE")
        self.run(f'CREATE TEMPORARY TABLE "{scratch}" AS SELECT {names} FROM "{self.table}"')
        seen = self.seen(scratch)
        self.run(*drops, f'DROP TABLE "{self.table}"', plain)
        self.run(f'INSERT INTO "{self.table}" ({names}) SELECT {names} FROM "{scratch}"', f'DROP TABLE temp."{scratch}"')
        self.run(*creates, "COMMIT", "PRAGMA foreign_keys = ON")
        return seen

    def sequelize(self, _number):
        scratch, names = f"{self.table}_backup", self.names()
        drops, creates = self.others()
        plain = self.ddl(self.table)
        self.run(self.ddl(scratch), f'INSERT INTO "{scratch}" ({names}) SELECT {names} FROM "{self.table}"')
        seen = self.seen(scratch)
        self.run(*drops, f'DROP TABLE "{self.table}"', plain)
        self.run(f'INSERT INTO "{self.table}" ({names}) SELECT {names} FROM "{scratch}"', f'DROP TABLE "{scratch}"', *creates)
        return seen

    def add_column(self, number):
        self.run(f"ALTER TABLE \"{self.table}\" ADD COLUMN traceparent{number} VARCHAR DEFAULT 'none'")

    def drop_column(self, number):
        self.run(f'ALTER TABLE "{self.table}" ADD COLUMN gone{number} TEXT')
        time.sleep(0.2)
        self.run(f'ALTER TABLE "{self.table}" DROP COLUMN gone{number}')

    def rename_column(self, number):
        self.run(f'ALTER TABLE "{self.table}" RENAME COLUMN owner TO owner{number}')
        time.sleep(0.2)
        self.run(f'ALTER TABLE "{self.table}" RENAME COLUMN owner{number} TO owner')

    def rename_payload(self, _number, seconds):
        self.run(f'ALTER TABLE "{self.table}" RENAME COLUMN payload TO body')
        time.sleep(seconds)
        self.run(f'ALTER TABLE "{self.table}" RENAME COLUMN body TO payload')

    def rename_table(self, number, seconds):
        self.run(f'ALTER TABLE "{self.table}" RENAME TO "away {number}"')
        time.sleep(seconds)
        self.run(f'ALTER TABLE "away {number}" RENAME TO "{self.table}"')

    def broken_trigger(self, number, seconds):
        """A trigger whose table is missing for a while: no row can be deleted."""
        self.run(
            f'CREATE TRIGGER "archive {number}" AFTER DELETE ON "{self.table}" BEGIN '
            f'INSERT INTO "archive of {number}" VALUES (OLD.rowid); END'
        )
        time.sleep(seconds)
        self.run(f'DROP TRIGGER "archive {number}"')

    def add_index(self, number):
        self.run(f'CREATE INDEX "i{number}" ON "{self.table}" (aggregateId)', "ANALYZE", f'REINDEX "i{number}"')

    def rebuild_users(self, number):
        """Another table of the database: no affair of the outbox."""
        self.run("PRAGMA foreign_keys = OFF", "BEGIN", "CREATE TABLE new__users (id INTEGER PRIMARY KEY, name TEXT, more TEXT)")
        self.run("INSERT INTO new__users (id, name) SELECT id, name FROM users", "DROP TABLE users")
        self.run("ALTER TABLE new__users RENAME TO users", "COMMIT", f"CREATE INDEX by_name_{number} ON users (name)")

    # --- others

    def vacuum(self, _number):
        seen = self.seen()
        self.run("VACUUM")
        return seen

    def checkpoint(self, _number):
        self.run("PRAGMA wal_checkpoint(TRUNCATE)")

    def journal_mode(self, _number):
        before = self.all("PRAGMA journal_mode")[0][0]
        self.run(f"PRAGMA journal_mode = {'delete' if before == 'wal' else 'wal'}")
        time.sleep(0.3)
        self.run(f"PRAGMA journal_mode = {before}")

    def reader(self, _number, seconds):
        self.run("BEGIN", f'SELECT count(*) FROM "{self.table}"')
        time.sleep(seconds)
        self.run("COMMIT")

    def writer(self, _number, seconds):
        self.run("BEGIN IMMEDIATE", "INSERT INTO users (name) VALUES ('slow')")
        time.sleep(seconds)
        self.run("ROLLBACK")

    # --- for the judge and the swaps

    def look(self, _number):
        """Every outbox's rows, as (rowid, eventType)."""
        tables = [row[0] for row in self.all("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'")]
        rows = {}
        for table in tables:
            if "eventType" in {row[1] for row in self.all(f'PRAGMA table_xinfo("{table}")')}:
                rows[table] = self.all(f'SELECT rowid, eventType FROM "{table}"')
        return {"rows": rows, "users": self.all("SELECT count(*), max(id) FROM users")[0]}

    def backup(self, target):
        """By VACUUM INTO, or by the backup API: the copy then has the journal mode too."""
        if target.endswith(".vacuumed"):
            self.run(f"VACUUM INTO '{target}'")
        else:
            with sqlite3.connect(target) as other:
                self.db.backup(other)

    def restore(self, source):
        with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as other:
            other.backup(self.db)

    def switch(self, mode):
        # At once or not at all.
        self.run("PRAGMA busy_timeout = 0")
        return self.all(f"PRAGMA journal_mode = {mode}")[0][0]

    def integrity(self, _number):
        return self.all("PRAGMA integrity_check")[0][0]


LASTING = {"rename_payload", "rename_table", "broken_trigger", "reader", "writer"}


def main():
    database, kind, table, number, seconds = sys.argv[1:6]
    kind = kind.replace("-", "_")
    begun = time.monotonic()
    try:
        tool = Tool(database, table)
        told = getattr(tool, kind)(number, *([float(seconds)] if kind in LASTING else []))
    except sqlite3.OperationalError as error:
        # Half done is worse than not done: the caller hears of it.
        print(json.dumps({"error": str(error), "took": time.monotonic() - begun}))
        return 3 if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) else 1
    print(json.dumps({"told": told, "took": time.monotonic() - begun}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
