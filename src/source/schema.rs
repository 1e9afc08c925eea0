//! What a table is, as the schema says it, and whether it can be an outbox.
//!
//! Promises: reads the schema only; whatever it refuses it names with the next thing to do. Does not know: rows.

use super::scan::LARGE_BYTES;
use super::{OutboxSpec, books, failure};
use crate::model::{Guard, Sameness, TableIdentity, TableTraits, Why, field};
use rusqlite::{Connection, OptionalExtension, Result};
use xxhash_rust::xxh3::xxh3_128;

/// A table that can be an outbox, and the statements to work on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// As the schema spells it, which is what the update hook reports.
    pub name: String,
    /// All of its columns, in order: name and type.
    pub shape: Vec<(String, String)>,
    pub traits: TableTraits,
    /// How many columns the statements below give after the rowid: those of the fingerprint, then others that a field needs.
    pub columns: usize,
    /// By [`field`]: the position among those columns.
    pub fields: Vec<Option<usize>>,
    /// `?1`: lowest rowid.
    pub scan: String,
    /// `?1`, `?2`: lowest and highest rowid.
    pub range: String,
    /// `?1`: rowid. Of all stored columns: type, size, and value unless it is large. Reads no overflow page of what is large.
    pub apart: String,
    /// Of those: whether it is in the fingerprint or in a record.
    pub apart_wanted: Vec<bool>,
    /// `?1`: lowest rowid. The first row's rowid alone.
    pub next: String,
    /// `?1`, `?2`: lowest and highest rowid.
    pub delete: String,
    /// `?1`: counted up to so many rows.
    pub count: String,
    /// `?1`: lowest rowid, `?2`: how many rows from there: how many there are, and the last one's rowid.
    pub stretch: String,
    /// Highest and lowest rowid: two subqueries, because SQLite answers min and max from the ends of the tree only one at a time.
    pub ends: String,
}

/// What lies under a table's name.
#[derive(Debug)]
pub(super) enum Found {
    Table(Box<Table>),
    NotThere(Why),
    Unfit(Why),
}

struct Column {
    name: String,
    kind: String,
    is_key: bool,
    is_stored: bool,
}

/// `first`: what fingerprints were made of at the first read, kept while all of it exists, so that an ADD COLUMN changes none.
pub(super) fn read(
    connection: &Connection,
    spec: &OutboxSpec,
    schema_version: i64,
    first: Option<&Guard>,
) -> Result<Found> {
    let Some((name, kind, without_rowid)) = table_kind(connection, &spec.table)? else {
        return Ok(Found::NotThere(Why::new(format!("there is no table {} yet", spec.table)).hint(format!(
            "waiting for the application to create it; the database's tables: {}",
            tables(connection)?
        ))));
    };
    if name.eq_ignore_ascii_case(books::TABLE) {
        return Ok(unfit(&name, "is where outboxd books its deletes", "name the application's own table"));
    }
    if kind == "view" {
        return Ok(unfit(
            &name,
            "is a view; an outbox must be a table, its rows are deleted",
            "name the table behind the view",
        ));
    }
    if kind != "table" {
        return Ok(unfit(&name, "is a virtual table; hooks don't report its deletes", "use an ordinary table"));
    }
    if without_rowid {
        return Ok(unfit(
            &name,
            "is a WITHOUT ROWID table; hooks don't report its deletes",
            "create it without the words WITHOUT ROWID",
        ));
    }
    let columns = columns(connection, &name)?;
    let indexes = indexes(connection, &name)?;

    let keys: Vec<&Column> = columns.iter().filter(|column| column.is_key).collect();
    let rowid_is_key = keys.len() == 1 && !indexes.iter().any(|index| index.origin == "pk");
    if !rowid_is_key && !indexes.iter().any(|index| index.unique && !index.partial) {
        return Ok(unfit(
            &name,
            "has neither an INTEGER PRIMARY KEY nor a unique column: after a VACUUM its rows could not be told apart",
            "add one, best: id INTEGER PRIMARY KEY AUTOINCREMENT",
        ));
    }
    let rowid = if rowid_is_key { Some(quote(&keys[0].name)) } else { free_rowid_name(&columns) };
    let Some(rowid) = rowid else {
        return Ok(unfit(
            &name,
            "has columns named rowid, oid and _rowid_, which hide the row's number",
            "rename one of them",
        ));
    };

    let mut sent: Vec<Option<&Column>> = Vec::with_capacity(spec.fields.len());
    for (position, wanted) in spec.fields.iter().enumerate() {
        match wanted.as_deref().map(|wanted| (wanted, find(&columns, wanted))) {
            None => sent.push(None),
            Some((_, Some(column))) => sent.push(Some(column)),
            Some((wanted, None)) => return Ok(missing(&name, &columns, wanted, position)),
        }
    }
    let counts_up = rowid_is_key && connection.column_metadata(Some("main"), &name, &keys[0].name)?.4;
    let bare = !counts_up && spec.fields.get(field::EVENT_ID).is_none_or(Option::is_none);
    let key = if keys.is_empty() { unique_columns(connection, &name)? } else { names_of(&keys) };
    let guard = guard(&columns, &sent, &key, bare, first);
    let mut selected = guard.columns.clone();
    let fields = sent.iter().map(|column| {
        let name = &column.as_ref()?.name;
        Some(selected.iter().position(|selected| selected == name).unwrap_or_else(|| {
            selected.push(name.clone());
            selected.len() - 1
        }))
    });
    let fields = fields.collect();
    let Some((_, identity)) = trace(connection, &name, schema_version, None)? else {
        return Err(rusqlite::Error::QueryReturnedNoRows);
    };

    let table = quote(&name);
    let list: String = selected.iter().flat_map(|name| [", ".to_owned(), quote(name)]).collect();
    // NOT INDEXED: the order is the rowid's, found in the table itself; a covering index would only bring a sort.
    // No LIMIT: its value would be planned for, and the statement prepared again whenever it is bound. The reader stops by itself.
    let scan = format!("SELECT {rowid}{list} FROM main.{table} NOT INDEXED WHERE {rowid} >= ?1 ORDER BY {rowid}");
    let range = format!(
        "SELECT {rowid}{list} FROM main.{table} NOT INDEXED WHERE {rowid} >= ?1 AND {rowid} <= ?2 ORDER BY {rowid}"
    );
    let count = format!("SELECT count(*) FROM (SELECT 1 FROM main.{table} NOT INDEXED LIMIT ?1)");
    let stretch = format!(
        "SELECT count(*), max(r) FROM (SELECT {rowid} AS r FROM main.{table} NOT INDEXED WHERE {rowid} >= ?1 \
         ORDER BY {rowid} LIMIT ?2)"
    );
    let ends = format!("SELECT (SELECT max({rowid}) FROM main.{table}), (SELECT min({rowid}) FROM main.{table})");
    let stored = || columns.iter().filter(|column| column.is_stored);
    let apart_wanted = stored().map(|column| selected.contains(&column.name)).collect();
    let each: Vec<String> = stored()
        .map(|column| {
            let name = quote(&column.name);
            format!(
                "typeof({name}), octet_length({name}), CASE WHEN octet_length({name}) <= {LARGE_BYTES} THEN {name} END"
            )
        })
        .collect();
    let apart = format!("SELECT {} FROM main.{table} NOT INDEXED WHERE {rowid} = ?1", each.join(", "));
    let next = format!("SELECT {rowid} FROM main.{table} NOT INDEXED WHERE {rowid} >= ?1 ORDER BY {rowid}");
    let delete = format!("DELETE FROM main.{table} NOT INDEXED WHERE {rowid} >= ?1 AND {rowid} <= ?2");
    for statement in [&scan, &range, &apart, &next, &delete] {
        if let Err(error) = connection.prepare(statement) {
            if failure::class(&error) != failure::Class::Statement {
                return Err(error);
            }
            // Found before the first row is published: otherwise it would be published and never deleted.
            return Ok(unfit(
                &name,
                &format!("can't be read and deleted from by outboxd: {}", failure::text(&error)),
                "a trigger, index, generated column or collation needs what only the application defines; \
                 make it use SQLite's own functions",
            ));
        }
    }
    Ok(Found::Table(Box::new(Table {
        name,
        shape: columns.into_iter().map(|column| (column.name, column.kind)).collect(),
        count,
        stretch,
        ends,
        columns: selected.len(),
        traits: TableTraits { bare, rowid_is_key, guard, identity, told: Sameness::Same },
        fields,
        scan,
        range,
        apart,
        apart_wanted,
        next,
        delete,
    })))
}

/// What a row's fingerprint is made of.
///
/// Where rows can come back alike every column helps to tell them apart. Elsewhere the key does, and what was sent is what has to be
/// the same: an application that counts `attempts` in a row on its way has written no new event.
fn guard(columns: &[Column], sent: &[Option<&Column>], key: &[String], bare: bool, first: Option<&Guard>) -> Guard {
    let sent = || sent.iter().flatten().copied();
    if let Some(first) = first {
        let is_sent = |name: &String| sent().any(|column| column.name == *name);
        let exists = |name: &String| {
            columns.iter().any(|column| column.name == *name && (column.is_stored || !bare || is_sent(name)))
        };
        // Of an older outboxd: a virtual column says nothing that the stored ones don't.
        let guarded = |column: &Column| first.columns.contains(&column.name) || (bare && !column.is_stored);
        if first.columns.iter().all(exists) && sent().all(guarded) {
            return first.clone();
        }
    }
    let mut guard = Guard { by_value: true, ..Guard::default() };
    let all = || columns.iter().filter(|column| bare && column.is_stored);
    // Of rows that are alike in what is sent the key tells which is which, in a table that may be renumbered.
    let keys = all().filter(|column| key.contains(&column.name));
    let sent = sent().chain(keys).map(|column| (column, 1));
    for (column, is_sent) in sent.chain(all().map(|column| (column, 0))) {
        if !guard.columns.contains(&column.name) {
            guard.columns.push(column.name.clone());
            guard.sent += is_sent;
        }
    }
    guard
}

/// What the operator should know of a table that can be an outbox.
pub(super) fn remarks(table: &Table, spec: &OutboxSpec, lost: bool) -> Vec<String> {
    let mut remarks = Vec::new();
    if table.traits.bare {
        let what = if lost { "has lost its AUTOINCREMENT" } else { "has no AUTOINCREMENT" };
        remarks.push(format!(
            "{} {what}: its rows can come back alike under their old ids, so that after some crashes rows are published twice; declare id INTEGER PRIMARY KEY \
             AUTOINCREMENT, or name a column whose values are never used again: outbox.columns.event_id",
            table.name
        ));
    }
    for position in [field::ID, field::AGGREGATE_ID, field::KEY, field::EVENT_ID] {
        let Some(Some(wanted)) = spec.fields.get(position) else { continue };
        let column = table.shape.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let Some((name, kind)) = column.filter(|(_, kind)| is_number_by_accident(kind)) else { continue };
        let remark = format!(
            "{}.{name} is declared {kind}, which is a number to SQLite: of a key like 12e4 or 1e999 only 120000.0 and Inf are kept; \
             declare it TEXT",
            table.name
        );
        if !remarks.contains(&remark) {
            remarks.push(remark);
        }
    }
    remarks
}

/// Whether values of this declared type have NUMERIC affinity, and nobody who reads the type would expect a number.
fn is_number_by_accident(kind: &str) -> bool {
    let kind = kind.to_ascii_uppercase();
    let otherwise = ["INT", "CHAR", "CLOB", "TEXT", "BLOB", "REAL", "FLOA", "DOUB"];
    let meant = ["NUM", "DEC", "BOOL", "DATE", "TIME", "MONEY"];
    !kind.is_empty() && !otherwise.iter().chain(&meant).any(|word| kind.contains(word))
}

/// A table's name and identity: of the one with this name, or of the one in this place, under whatever name.
pub(super) fn trace(
    connection: &Connection,
    table: &str,
    schema_version: i64,
    place: Option<(i64, i64)>,
) -> Result<Option<(String, TableIdentity)>> {
    let found = connection
        .query_row(
            "SELECT name, rowid, rootpage, coalesce(sql, '') FROM main.sqlite_schema WHERE type = 'table' \
             AND ((?2 IS NULL AND name = ?1 COLLATE NOCASE) OR (rowid = ?2 AND rootpage = ?3))",
            rusqlite::params![table, place.map(|place| place.0), place.map(|place| place.1)],
            |row| {
                let definition = xxh3_128(row.get_ref(3)?.as_bytes()?);
                Ok((row.get::<_, String>(0)?, (row.get(1)?, row.get(2)?), definition))
            },
        )
        .optional()?;
    let Some((name, place, definition)) = found else { return Ok(None) };
    let counted: bool =
        connection.query_row("SELECT count(*) FROM main.sqlite_schema WHERE name = 'sqlite_sequence'", [], |row| {
            row.get(0)
        })?;
    let sequence = if counted {
        let sql = "SELECT rowid, CAST(seq AS INTEGER) FROM main.sqlite_sequence WHERE name = ?1 AND seq IS NOT NULL";
        connection.query_row(sql, [&name], |row| Ok((row.get(0)?, row.get(1)?))).optional()?
    } else {
        None
    };
    Ok(Some((name, TableIdentity { schema_version, place, definition, sequence })))
}

fn unfit(table: &str, what: &str, hint: &str) -> Found {
    Found::Unfit(Why::new(format!("{table} {what}")).hint(hint))
}

fn missing(table: &str, columns: &[Column], wanted: &str, position: usize) -> Found {
    let nearest = columns
        .iter()
        .map(|column| (strsim::jaro_winkler(&column.name.to_lowercase(), &wanted.to_lowercase()), &column.name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let key = match position {
        field::ID => "outbox.columns.id",
        field::AGGREGATE_ID => "outbox.columns.aggregate_id",
        field::EVENT_TYPE => "outbox.columns.event_type",
        field::PAYLOAD => "outbox.columns.payload",
        field::KEY => "outbox.columns.key",
        field::EVENT_ID => "outbox.columns.event_id",
        _ => "outbox.headers or the topic's template",
    };
    let near = nearest.map_or_else(String::new, |(_, name)| format!("did you mean {name}? "));
    Found::NotThere(Why::new(format!("{table} has no column {wanted} yet")).hint(format!(
        "{near}waiting for the application to add it; its columns are {}; another one is named by {key}",
        names.join(", ")
    )))
}

/// Names match as in SQL: exactly, else without regard to ASCII case.
fn find<'a>(columns: &'a [Column], wanted: &str) -> Option<&'a Column> {
    columns
        .iter()
        .find(|column| column.name == wanted)
        .or_else(|| columns.iter().find(|column| column.name.eq_ignore_ascii_case(wanted)))
}

/// Name, type and whether it is WITHOUT ROWID; `None` when there is no such table.
fn table_kind(connection: &Connection, table: &str) -> Result<Option<(String, String, bool)>> {
    connection
        .query_row(
            "SELECT name, type, wr FROM pragma_table_list(?1) WHERE schema = 'main' AND type <> 'shadow'",
            [table],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()
}

fn tables(connection: &Connection) -> Result<String> {
    let mut statement = connection.prepare(
        "SELECT name FROM main.sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
         AND name <> '_outboxd' ORDER BY name LIMIT 20",
    )?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>>>()?;
    Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

fn columns(connection: &Connection, table: &str) -> Result<Vec<Column>> {
    let mut statement =
        connection.prepare("SELECT name, pk, hidden, type FROM pragma_table_xinfo(?1, 'main') ORDER BY cid")?;
    statement
        .query_map([table], |row| {
            let hidden: i64 = row.get(2)?;
            // 2 is a virtual generated column, 3 a stored one.
            Ok(Column {
                name: row.get(0)?,
                kind: row.get(3)?,
                is_key: row.get::<_, i64>(1)? > 0,
                is_stored: hidden == 0 || hidden == 3,
            })
        })?
        .collect()
}

struct Index {
    unique: bool,
    origin: String,
    partial: bool,
}

fn indexes(connection: &Connection, table: &str) -> Result<Vec<Index>> {
    let mut statement = connection.prepare("SELECT \"unique\", origin, partial FROM pragma_index_list(?1, 'main')")?;
    statement
        .query_map([table], |row| Ok(Index { unique: row.get(0)?, origin: row.get(1)?, partial: row.get(2)? }))?
        .collect()
}

fn names_of(columns: &[&Column]) -> Vec<String> {
    columns.iter().map(|column| column.name.clone()).collect()
}

/// The columns of its unique indexes.
fn unique_columns(connection: &Connection, table: &str) -> Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT DISTINCT c.name FROM pragma_index_list(?1, 'main') AS i, pragma_index_info(i.name, 'main') AS c \
         WHERE i.\"unique\" AND NOT i.partial AND c.name IS NOT NULL ORDER BY c.name",
    )?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

/// A name of the rowid that no column of the table hides.
fn free_rowid_name(columns: &[Column]) -> Option<String> {
    ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|name| !columns.iter().any(|column| column.name.eq_ignore_ascii_case(name)))
        .map(str::to_owned)
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
