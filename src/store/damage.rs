//! Rows that are not as they were written: what of them can be said, and how they leave the table.

use rusqlite::Connection;
use rusqlite::types::Value;

/// A row that is not as it was written, or makes no sense.
#[derive(Debug, Clone, PartialEq)]
pub struct DamagedRow {
    table: &'static str,
    fields: Vec<(String, Value)>,
    why: String,
}

impl DamagedRow {
    pub(super) fn new(table: &'static str, fields: Vec<(String, Value)>, why: String) -> Self {
        Self { table, fields, why }
    }

    /// The table that it lies in.
    #[must_use]
    pub fn table(&self) -> &'static str {
        self.table
    }

    /// Why it is not believed.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// A field as it lies there: a hint, not to be relied on.
    #[must_use]
    pub fn hint(&self, field: &str) -> Option<String> {
        let (_, value) = self.fields.iter().find(|(name, _)| name == field)?;
        match value {
            Value::Text(text) => Some(text.clone()),
            Value::Integer(number) => Some(number.to_string()),
            Value::Null | Value::Real(_) | Value::Blob(_) => None,
        }
    }

    /// What it says, for people: one line.
    #[must_use]
    pub fn text(&self) -> String {
        let field = |(name, value): &(String, Value)| match value {
            Value::Null => None,
            Value::Integer(number) => Some(format!("{name}={number}")),
            Value::Real(number) => Some(format!("{name}={number}")),
            Value::Text(value) => Some(format!("{name}={value:?}")),
            Value::Blob(bytes) => Some(format!("{name}=x'{}'", Hex(bytes))),
        };
        let fields: Vec<String> = self.fields.iter().filter_map(field).collect();
        format!("{}: {}: {}", self.table, self.why, fields.join(" "))
    }

    pub(super) fn into_fields(self) -> Vec<(String, Value)> {
        self.fields
    }

    /// The first column, by which each table finds its rows.
    fn key(&self) -> (&str, &Value) {
        self.fields.first().map_or(("rowid", &Value::Null), |(name, value)| (name, value))
    }

    pub(super) fn key_text(&self) -> String {
        format!("{:?}", self.key().1)
    }

    /// Removes it from its table.
    pub(super) fn discard(&self, connection: &Connection) -> rusqlite::Result<()> {
        let (column, value) = self.key();
        let sql = format!("DELETE FROM {} WHERE {column} = ?1", self.table);
        connection.execute(&sql, [value]).map(|_rows| ())
    }
}

/// Bytes as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
