//! The TOML files of one folder as one tree, in which every key and value knows its place.

use toml::de::{DeTable, DeValue};

use crate::report::{Finding, Place};

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node {
    /// The key that the value belongs to; an item of a list has the list's.
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What the inventory is made of. Floats and dates have no use in it, so only their type's name is kept.
#[derive(Debug)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Table),
    Other(&'static str),
}

/// A table, in the order of the file.
#[derive(Debug)]
pub(crate) struct Table {
    /// The header, or the key where there is no header.
    pub(crate) place: Place,
    pub(crate) entries: Vec<Entry>,
    /// Written as `{ … }`, so that nothing can be added to it elsewhere.
    inline: bool,
}

/// A key with its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Value {
    /// Returns what the value is, with its article.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Boolean(_) => "true or false",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

impl Table {
    /// Returns an empty table that stands for a whole file.
    pub(crate) fn root() -> Self {
        Self { place: Place::new(0, 0..0), entries: Vec::new(), inline: false }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Returns the table below a key; none where it is missing or no table.
    pub(crate) fn table(&self, key: &str) -> Option<&Self> {
        match &self.entry(key)?.node.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// Returns the place of the value at a path of keys, or of the nearest table above that is there.
    pub(crate) fn find(&self, path: &[&str]) -> Place {
        let Some((key, rest)) = path.split_first() else { return self.place.clone() };
        match self.entry(key) {
            Some(Entry { node: Node { value: Value::Table(table), .. }, .. }) => table.find(rest),
            Some(entry) => entry.node.place.clone(),
            None => self.place.clone(),
        }
    }
}

/// Returns the place of a text in the list at a path, or of the list.
pub(crate) fn find_item(root: &Table, path: &[&str], text: &str) -> Place {
    let Some((last, above)) = path.split_last() else { return root.place.clone() };
    let table = above.iter().try_fold(root, |table, key| table.table(key));
    let item = table.and_then(|table| match &table.entry(last)?.node.value {
        Value::Array(items) => items.iter().find(|item| matches!(&item.value, Value::Text(own) if own == text)),
        _ => None,
    });
    item.map_or_else(|| root.find(path), |item| item.place.clone())
}

/// Parses one file.
pub(crate) fn parse(file: usize, text: &str) -> Result<Table, Vec<Finding>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(table(file, text, 0..0, document.get_ref()));
    }
    let finding = |error: &toml::de::Error| {
        let place = Place::new(file, error.span().unwrap_or(0..0));
        let finding = Finding::at(&place, format!("this is no TOML: {}", error.message()));
        match error.message() {
            "duplicate key" => finding.help("remove one of the two, or rename it"),
            _ => finding.help("mend this first: the rest of the inventory is checked when every file can be read"),
        }
    };
    Err(errors.iter().map(finding).collect())
}

fn table(file: usize, text: &str, span: std::ops::Range<usize>, table: &DeTable<'_>) -> Table {
    let entry = |(key, value): (&toml::Spanned<toml::de::DeString<'_>>, &toml::Spanned<DeValue<'_>>)| Entry {
        key: key.get_ref().to_string(),
        place: Place::new(file, key.span()),
        node: node(file, text, key.get_ref(), value),
    };
    let inline = text[span.clone()].starts_with('{');
    Table { place: Place::new(file, span), entries: table.iter().map(entry).collect(), inline }
}

fn node(file: usize, text: &str, key: &str, value: &toml::Spanned<DeValue<'_>>) -> Node {
    let own = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number too large"),
        },
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| node(file, text, key, item)).collect()),
        DeValue::Table(below) => Value::Table(table(file, text, value.span(), below)),
    };
    Node { key: key.to_owned(), place: Place::new(file, value.span()), value: own }
}

/// Adds a file's table to the tree. Tables with a header grow together; any other key may be in one file only.
pub(crate) fn merge(into: &mut Table, from: Table, above: &str, findings: &mut Vec<Finding>) {
    for entry in from.entries {
        let path = if above.is_empty() { entry.key.clone() } else { format!("{above}.{}", entry.key) };
        let Some(present) = into.entries.iter_mut().find(|present| present.key == entry.key) else {
            into.entries.push(entry);
            continue;
        };
        match (&mut present.node.value, entry.node.value) {
            (Value::Table(present), Value::Table(more)) if !present.inline && !more.inline => {
                merge(present, more, &path, findings);
            }
            _ => findings.push(
                Finding::at(&entry.place, format!("`{path}` is in two files"))
                    .label("here again")
                    .also(&present.place, "it is here already")
                    .help("keep one of the two"),
            ),
        }
    }
}
