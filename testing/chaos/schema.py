"""Outbox tables of many shapes. Does not know: what is written into them, or done to them.

Every shape has the columns eventType (by which the judge knows a row), aggregateId and payload.
"""

import dataclasses
import json

# How the key of a table tells old rows from new ones: (column definition, trailing constraint, bare, event id).
KEYS = {
    "autoincrement": ("id INTEGER PRIMARY KEY AUTOINCREMENT", "", False, False),
    "autoincrement-named": ('"id" INTEGER NOT NULL CONSTRAINT "PK_o" PRIMARY KEY AUTOINCREMENT', "", False, False),
    "autoincrement-trailing": ("id INTEGER NOT NULL", 'CONSTRAINT "pk" PRIMARY KEY(id AUTOINCREMENT)', False, False),
    "plain": ("id INTEGER PRIMARY KEY", "", True, False),
    "trailing": ("id INTEGER NOT NULL", "PRIMARY KEY (id)", True, False),
    "text": ("id VARCHAR(36) NOT NULL PRIMARY KEY", "", False, True),
    "text-trailing": ("id TEXT NOT NULL", "CONSTRAINT pk PRIMARY KEY (id)", False, True),
    "text-bare": ("id TEXT NOT NULL", "PRIMARY KEY (id)", True, False),
}
TRAILING = ["CHECK (length(eventType) > 0)", "UNIQUE (id, eventType)", "FOREIGN KEY (owner) REFERENCES users (id) ON DELETE CASCADE"]
EXTRA = [
    "created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP",
    "note TEXT DEFAULT 'n'",
    "headers JSON",
    "size INTEGER AS (length(payload)) VIRTUAL",
    "upper_kind TEXT GENERATED ALWAYS AS (upper(eventType)) STORED",
]
AREAS = ["north", "south"]
NAMES = ["users_outbox", "outbox", "Outbox Messages", "event-log", "order", "django_outbox_message"]


@dataclasses.dataclass
class Table:
    name: str
    key: str
    columns: list
    trailing: list
    topics: list = dataclasses.field(default_factory=list)
    # The topic by the column `area`; a header by an expression, which fails on some rows.
    by_area: bool = False
    expression: bool = False
    partitions: int = 1
    max_message_bytes: int = 0
    # Written by a trigger on this table: after "insert" or "delete".
    source: str = ""
    when: str = ""
    # What is written: see application.py.
    load: dict = dataclasses.field(default_factory=dict)

    @property
    def quoted(self):
        return '"' + self.name + '"'

    @property
    def bare(self):
        return KEYS[self.key][2]

    @property
    def has_event_id(self):
        return KEYS[self.key][3]

    @property
    def text_key(self):
        return self.key.startswith("text")

    def ddl(self):
        return f"CREATE TABLE {self.quoted} ({', '.join([*self.columns, *self.trailing])})"

    def trigger(self):
        """On its source. A text key is made by the trigger, as applications do."""
        row = {"insert": "NEW", "delete": "OLD"}[self.when]
        prefix = {"insert": "x", "delete": "d"}[self.when]
        names, values = "aggregateId, eventType, payload", f"{row}.aggregateId, '{prefix}.' || {row}.eventType, 'by trigger'"
        if self.text_key:
            names, values = f"id, {names}", f"lower(hex(randomblob(16))), {values}"
        return (
            f'CREATE TRIGGER "t_{self.name}" AFTER {self.when.upper()} ON "{self.source}" BEGIN '
            f"INSERT INTO {self.quoted} ({names}) VALUES ({values}); END"
        )

    def config(self, database):
        """(lines of the outbox, its sub-tables)."""
        topic = self.topics[0].removesuffix(AREAS[0]) + "{area}" if self.by_area else self.topics[0]
        lines = ["[[outbox]]", f"database = {json.dumps(database)}", f"table = {json.dumps(self.name)}", f'topic = "{topic}"']
        more = ["[outbox.columns]", 'event_id = "id"'] if self.has_event_id else []
        if self.expression:
            more += ["[outbox.headers]", 'traceparent = "trace"']
        return lines, more


def make(rng, name, alike):
    """A table. `alike`: of rows that nothing but their ids tells apart."""
    key = rng.choice(["autoincrement", "autoincrement-named", "autoincrement-trailing"] if alike else list(KEYS))
    definition, trailing, _bare, _event_id = KEYS[key]
    columns = [definition]
    columns.append(rng.choice(["aggregateId TEXT", "aggregateId VARCHAR(255)", "aggregateId"]))
    columns.append(rng.choice(["eventType TEXT NOT NULL", "eventType VARCHAR NOT NULL"]))
    columns.append(rng.choice(["payload TEXT", "payload BLOB", "payload"]))
    columns += ["attempts INTEGER NOT NULL DEFAULT 0", "owner INTEGER"]
    by_area, expression = rng.random() < 0.12, rng.random() < 0.12
    if by_area:
        columns.append(f"area TEXT DEFAULT '{AREAS[0]}'")
    extra = rng.sample(EXTRA, rng.randrange(len(EXTRA)))
    if expression:
        extra = [column for column in extra if not column.startswith("headers")]
        extra += ["headers JSON", "trace TEXT AS (json_extract(headers, '$.traceparent')) VIRTUAL"]
    columns += extra
    first, rest = columns[:1], columns[1:]
    rng.shuffle(rest)
    table = Table(name, key, first + rest, [trailing] if trailing else [], by_area=by_area, expression=expression)
    table.trailing += rng.sample(TRAILING, rng.choice([0, 0, 1, 2, 3]))
    return table
