//! Tables and the checksum that each of their rows carries.
//!
//! A row's `sum` covers its other fields by name, but for those that are null or 0: so a column that
//! a later schema adds changes nothing in older rows. A row without `sum` was written before there
//! were any, and is believed. A schema step that changes existing rows otherwise sets their `sum`
//! null.

use std::sync::OnceLock;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Row as SqlRow, Statement, ToSql};

use crate::checksum::Checksum;

/// The column that holds the checksum of the others.
const SUM: &str = "sum";

/// A table that rows are put into.
pub(super) struct Table {
    /// Its name.
    pub(super) name: &'static str,
    /// The columns that are written, without the checksum.
    pub(super) columns: &'static [&'static str],
    /// What is made of them once.
    made: OnceLock<Made>,
}

struct Made {
    sql: String,
    places: Vec<Checksum>,
}

impl Table {
    pub(super) const fn new(name: &'static str, columns: &'static [&'static str]) -> Self {
        Self { name, columns, made: OnceLock::new() }
    }

    fn made(&self) -> &Made {
        self.made.get_or_init(|| {
            let columns = self.columns.join(", ");
            let marks: Vec<String> =
                (1..=self.columns.len() + 1).map(|n| format!("?{n}")).collect();
            let (name, marks) = (self.name, marks.join(","));
            Made {
                sql: format!("INSERT OR REPLACE INTO {name}({columns}, {SUM}) VALUES ({marks})"),
                places: self.columns.iter().map(|column| Checksum::of(column.as_bytes())).collect(),
            }
        })
    }

    /// Inserts or replaces a row; `fields` are in the order of the columns.
    pub(super) fn put(
        &self,
        connection: &Connection,
        fields: &[&dyn ToSql],
    ) -> rusqlite::Result<()> {
        let made = self.made();
        let mut statement = connection.prepare_cached(&made.sql)?;
        let mut sums = Vec::with_capacity(fields.len());
        for (at, (field, place)) in fields.iter().zip(&made.places).enumerate() {
            let value = field.to_sql()?;
            let value = match &value {
                ToSqlOutput::Borrowed(value) => *value,
                ToSqlOutput::Owned(value) => ValueRef::from(value),
                // Of the other kinds there are none without features that are off.
                _ => ValueRef::Null,
            };
            sums.extend(sum_of(value, *place));
            statement.raw_bind_parameter(at + 1, field)?;
        }
        statement.raw_bind_parameter(fields.len() + 1, sql_sum(Checksum::of_all(sums)))?;
        statement.raw_execute().map(|_rows| ())
    }
}

/// The checksum of a field; those that are null or 0 have none.
fn sum_of(value: ValueRef<'_>, place: Checksum) -> Option<Checksum> {
    match value {
        ValueRef::Null | ValueRef::Integer(0) => None,
        ValueRef::Integer(number) => Some(Checksum::of_field(&number.to_le_bytes(), place)),
        ValueRef::Real(number) => Some(Checksum::of_field(&number.to_le_bytes(), place)),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(Checksum::of_field(bytes, place)),
    }
}

/// A checksum as SQLite's signed integer.
#[allow(clippy::cast_possible_wrap, reason = "only round-trips")]
pub(super) fn sql_sum(sum: Checksum) -> i64 {
    sum.number() as i64
}

/// Compares rows of one query with their checksums.
pub(super) struct Check {
    places: Vec<Checksum>,
    names: Vec<String>,
    sum: Option<usize>,
}

impl Check {
    /// For the rows that `statement` gives. All columns must be among them.
    pub(super) fn of(statement: &Statement<'_>) -> Self {
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        Self {
            places: names.iter().map(|name| Checksum::of(name.as_bytes())).collect(),
            sum: names.iter().position(|name| name == SUM),
            names,
        }
    }

    /// Whether the row is as it was written.
    pub(super) fn holds(&self, row: &SqlRow<'_>) -> rusqlite::Result<bool> {
        let Some(at) = self.sum else { return Ok(true) };
        let Some(written) = row.get::<_, Option<i64>>(at)? else { return Ok(true) };
        let mut sums = Vec::with_capacity(self.places.len());
        for (column, place) in self.places.iter().enumerate().filter(|(column, _)| *column != at) {
            sums.extend(sum_of(row.get_ref(column)?, *place));
        }
        Ok(sql_sum(Checksum::of_all(sums)) == written)
    }

    /// The fields of a row as they lie there, for people.
    pub(super) fn fields(&self, row: &SqlRow<'_>) -> Vec<(String, Value)> {
        let value = |column| row.get_ref(column).ok().and_then(|value| Value::try_from(value).ok());
        let named = self.names.iter().enumerate();
        named.map(|(at, name)| (name.clone(), value(at).unwrap_or(Value::Null))).collect()
    }
}
