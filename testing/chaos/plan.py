"""What a seed settles: the files, the tables, the application, the hurts and when. Does not know: how any of it is done."""

import dataclasses
import random

from . import schema

MB = 1 << 20

# What is hurt, by whom it concerns: two hurts of one victim don't overlap. A full disk would leave a migration half done.
MIGRATIONS = [
    "alembic", "django", "rails", "prisma", "sequelize", "efcore", "add-column", "drop-column", "rename-column", "rename-payload",
    "rename-table", "broken-trigger", "add-index", "rebuild-users",
]  # fmt: skip
# Of several transactions: the application stands still meanwhile, and what we delete in between comes back.
IN_PIECES = {"prisma", "sequelize", "efcore"}
FILE = ["vacuum", "checkpoint", "journal-mode", "reader", "writer", "application-killed"]
SWAPS = ["swap-rename", "swap-restore", "swap-symlink"]
BROKER = ["broker-killed", "broker-frozen", "limit-lowered"]
DAEMON = ["daemon-killed", "daemon-ended", "daemon-stopped"]


@dataclasses.dataclass
class Hurt:
    kind: str
    at: float
    lasts: float
    database: int = 0
    table: int = 0
    number: int = 0
    # The daemon is stopped for it.
    stopped: bool = False


@dataclasses.dataclass
class Database:
    number: int
    journal: str
    page_size: int
    auto_vacuum: int
    durability: str
    bookkeeping: str
    connection: str
    begin: str
    rate: float
    tables: list
    symlink: bool = False


@dataclasses.dataclass
class Plan:
    seed: int
    lasts: float
    databases: list
    hurts: list
    # Bytes of the file system of the databases; 0: the ordinary one.
    disk: int
    state_on_disk: bool
    late_start: float
    drain_timeout_ms: int
    kafka: dict
    max_attempts: int
    # In the end: limits are raised, and what is in quarantine is tried again.
    retry: bool
    again: bool
    # In the end: after some idle seconds the journal mode can be switched.
    idle: bool

    def cell(self):
        told = []
        for database in self.databases:
            keys = "+".join(f"{table.key}{'>' + table.when if table.when else ''}" for table in database.tables)
            told.append(f"{database.journal}:{keys}")
        return " ".join(told)

    def hurt_names(self):
        return ",".join(f"{hurt.kind}@{hurt.at:.1f}" for hurt in self.hurts)


def load(rng, table):
    """Which keys, which sizes, which transactions."""
    size = rng.choices(["tiny", "small", "mixed", "large", "huge"], [2, 6, 4, 2, 2])[0]
    keys = rng.choices(["none", "one", "few", "many", "odd"], [1, 1, 4, 2, 2])[0]
    table.load = {"size": size, "keys": keys, "rewrite": rng.choice([0, 0, 0.05, 0.2]), "alike": 0}
    table.partitions = rng.choice([1, 1, 3, 12, 50])
    if size == "huge":
        table.max_message_bytes = rng.choice([0, 10 * MB, 10 * MB, 4 * MB])
    elif rng.random() < 0.2:
        table.max_message_bytes = rng.choice([2_000, 20_000, 100_000])


def make_database(rng, number, alike):
    database = Database(
        number=number,
        journal=rng.choices(["wal", "delete", "truncate", "persist"], [6, 3, 1, 1])[0],
        page_size=rng.choice([512, 4096, 4096, 4096, 16384, 65536]),
        auto_vacuum=rng.choice([0, 0, 0, 1, 2]),
        durability=rng.choice(["power-loss", "power-loss", "commit"]),
        bookkeeping=rng.choice(["none", "none", "table"]),
        connection=rng.choice(["kept", "kept", "per-burst", "per-transaction"]),
        begin=rng.choice(["IMMEDIATE", "IMMEDIATE", "DEFERRED"]),
        rate=rng.choice([5, 50, 100, 200]),
        tables=[],
    )
    names = rng.sample(schema.NAMES, 3)
    for at in range(rng.choices([1, 2, 3], [5, 3, 1])[0]):
        table = schema.make(rng, names[at], alike and at == 0)
        load(rng, table)
        if alike and at == 0:
            table.load = {"size": "tiny", "keys": "few", "rewrite": 0, "alike": rng.choice([1, 3])}
        elif at and rng.random() < 0.5 and not alike:
            # Events of rows that are alike would be alike, and nobody knows how many there must be.
            table.source, table.when = names[0], rng.choice(["insert", "insert", "delete"])
        database.tables.append(table)
    return database


def make(seed):
    rng = random.Random(f"chaos {seed}")
    alike = rng.random() < 0.15
    databases = [make_database(rng, number, alike) for number in range(rng.choices([1, 2], [4, 1])[0])]
    lasts = rng.uniform(5, 9)
    disk = rng.choice([0, 0, 0, 16 * MB])
    if disk:
        # A -wal of a thousand pages, which is when it is checkpointed, must find room.
        for database in databases:
            database.page_size = min(database.page_size, 4096)
        for table in (table for database in databases for table in database.tables):
            table.load["size"] = min(table.load["size"], "small", key=["tiny", "small", "mixed", "large", "huge"].index)
    plan = Plan(
        seed=seed,
        lasts=lasts,
        databases=databases,
        hurts=[],
        disk=disk,
        state_on_disk=rng.random() < 0.5,
        late_start=rng.choice([0, 0, 0.5, 2]),
        drain_timeout_ms=rng.choice([500, 3_000, 8_000]),
        kafka={"request_timeout_ms": rng.choice([1_000, 3_000, 30_000]), "senders_per_broker": rng.choice([1, 2, 2])},
        max_attempts=rng.choice([1, 1, 3]),
        retry=rng.random() < 0.5,
        again=rng.random() < 0.25,
        idle=rng.random() < 0.1,
    )
    swap = rng.random() < 0.15 and not disk
    if swap and any(table.when == "delete" for database in databases for table in database.tables):
        swap = False
    kinds = [kind for kind in (["disk-full"] if disk else [])]
    for group, weight in ((MIGRATIONS, 3), (FILE, 2), (BROKER, 2), (DAEMON, 2)):
        kinds += [rng.choice(group) for _ in range(weight) if rng.random() < 0.45]
    rng.shuffle(kinds)
    kinds = kinds[: rng.randrange(1, 5)] or [rng.choice(DAEMON)]
    if disk and "disk-full" not in kinds:
        kinds[0] = "disk-full"
    if swap:
        kinds[-1] = rng.choice(SWAPS)
    if "swap-symlink" in kinds:
        for database in databases:
            database.symlink = True
    for number, kind in enumerate(kinds):
        hurt = Hurt(kind, rng.uniform(0.3, lasts - 0.5), rng.choice([0.1, 0.5, 1, 2, 4]), number=number)
        hurt.database = rng.randrange(len(databases))
        database = databases[hurt.database]
        hurt.table = rng.randrange(len(database.tables))
        if any(table.when for table in database.tables) and kind in IN_PIECES:
            hurt.kind = "django"
        if kind == "disk-full":
            # Until what is allocated already is used up.
            hurt.lasts = max(hurt.lasts, 1)
        hurt.stopped = kind in SWAPS and rng.random() < 0.3
        plan.hurts.append(hurt)
    plan.hurts.sort(key=lambda hurt: hurt.at)
    return plan
