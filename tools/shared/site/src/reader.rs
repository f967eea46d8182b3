//! Reads one table: each key once, with its type; what is left over at the end is unknown.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use indexmap::IndexMap;

use crate::names::{AbsolutePath, DatasetName, LogicalVolumeName, Malformed, Name, PoolName, Size};
use crate::nearest::nearest;
use crate::report::{Finding, Place};
use crate::scope::{Kind, Scope};
use crate::tree::{Entry, Node, Table, Value};

/// A value with its place, for checks that come later.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

/// A value that can be read from a node; what is wrong with it is reported.
pub(crate) trait Decode: Sized {
    fn decode(node: &Node, scope: &Scope) -> Option<Self>;
}

/// Reports that a node is of another type than wanted; `example` shows how it is written.
pub(crate) fn wrong_type<T>(node: &Node, wanted: &str, example: &str, scope: &Scope) -> Option<T> {
    let kind = node.value.kind();
    let finding = Finding::at(&node.place, format!("`{}` must be {wanted}, and is {kind}", node.key));
    scope.report(finding.label(format!("is {kind}")).help(format!("write it as {example}")));
    None
}

impl Decode for String {
    fn decode(node: &Node, scope: &Scope) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text.is_empty() => {
                let finding = Finding::at(&node.place, format!("`{}` must not be empty", node.key)).label("is empty");
                scope.report(finding.help("write something between the quotes, or remove the key"));
                None
            }
            Value::Text(text) => Some(text.clone()),
            _ => wrong_type(node, "a text", "a text in quotes, as \"text\"", scope),
        }
    }
}

impl Decode for bool {
    fn decode(node: &Node, scope: &Scope) -> Option<Self> {
        match &node.value {
            Value::Boolean(value) => Some(*value),
            _ => wrong_type(node, "true or false", "true or false without quotes", scope),
        }
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, scope: &Scope) -> Option<Self> {
        let Value::Array(items) = &node.value else { return wrong_type(node, "a list", "[\"a\", \"b\"]", scope) };
        let read: Vec<T> = items.iter().filter_map(|item| T::decode(item, scope)).collect();
        (read.len() == items.len()).then_some(read)
    }
}

impl<T: Decode> Decode for At<T> {
    fn decode(node: &Node, scope: &Scope) -> Option<Self> {
        Some(Self { value: T::decode(node, scope)?, place: node.place.clone() })
    }
}

impl<T: Decode> Decode for BTreeMap<String, T> {
    fn decode(node: &Node, scope: &Scope) -> Option<Self> {
        let Value::Table(table) = &node.value else {
            return wrong_type(node, "a table", "{ key = \"value\" }", scope);
        };
        let read = |entry: &Entry| Some((entry.key.clone(), T::decode(&entry.node, scope)?));
        let map: Self = table.entries.iter().filter_map(read).collect();
        (map.len() == table.entries.len()).then_some(map)
    }
}

fn parsed<T: FromStr>(
    node: &Node,
    (wanted, example): (&str, &str),
    shape: impl Fn(T::Err) -> String,
    scope: &Scope,
) -> Option<T> {
    let Value::Text(text) = &node.value else { return wrong_type(node, wanted, example, scope) };
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            let message = format!("'{text}' is not {wanted}");
            scope.report(Finding::at(&node.place, message).help(shape(error)));
            None
        }
    }
}

macro_rules! decode_text {
    ($($type:ty: $wanted:literal, $example:literal;)*) => {
        $(impl Decode for $type {
            fn decode(node: &Node, scope: &Scope) -> Option<Self> {
                parsed(node, ($wanted, $example), |error: Malformed| error.0, scope)
            }
        })*
    };
}

decode_text! {
    Name: "a name", "\"web\"";
    PoolName: "a pool's name", "\"tank\"";
    DatasetName: "a dataset's name", "\"tank/media\"";
    LogicalVolumeName: "a logical volume's name", "\"pve/fast\"";
    AbsolutePath: "an absolute path", "\"/mnt/media\"";
    Size: "a size", "\"15G\"";
}

impl Decode for Ipv4Addr {
    fn decode(node: &Node, scope: &Scope) -> Option<Self> {
        let shape =
            |_| "an address has four numbers from 0 to 255, as 192.168.1.101; the prefix is in [network]".to_owned();
        parsed(node, ("an IPv4 address", "\"192.168.1.101\""), shape, scope)
    }
}

/// Reads one table.
pub(crate) struct Reader<'a> {
    pub(crate) table: &'a Table,
    pub(crate) scope: &'a Scope,
    /// What the table is, as `guest 'vm-intranet'`.
    pub(crate) what: String,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(table: &'a Table, what: impl Into<String>, scope: &'a Scope) -> Self {
        Self { table, scope, what: what.into(), known: Vec::new() }
    }

    /// Looks a key up and takes note that it is known.
    pub(crate) fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.entry(key)
    }

    /// Reads a key that need not be there.
    pub(crate) fn optional<T: Decode>(&mut self, key: &'static str) -> Option<T> {
        let entry = self.entry(key)?;
        T::decode(&entry.node, self.scope)
    }

    /// Reads a key that must be there; `example` shows how.
    pub(crate) fn required<T: Decode>(&mut self, key: &'static str, example: &str) -> Option<T> {
        if self.entry(key).is_none() {
            self.missing(key, example);
            return None;
        }
        T::decode(&self.table.entry(key)?.node, self.scope)
    }

    pub(crate) fn missing(&self, key: &str, example: &str) {
        let finding = Finding::at(&self.table.place, format!("{} has no `{key}`", self.what));
        // The inventory as a whole has no header to point at.
        let finding =
            if self.table.place.start < self.table.place.end { finding.label("is missing it") } else { finding };
        self.scope.report(finding.help(format!("add {example}")));
    }

    /// Reads a whole number within bounds.
    pub(crate) fn number<T: TryFrom<i64>>(&mut self, key: &'static str, bounds: &RangeInclusive<i64>) -> Option<T> {
        let node = &self.entry(key)?.node;
        let Value::Integer(number) = node.value else {
            return wrong_type(node, "a whole number", "digits without quotes, as 12", self.scope);
        };
        let value = bounds.contains(&number).then(|| T::try_from(number).ok()).flatten();
        if value.is_none() {
            let message = format!("`{key}` must be from {} to {}, and is {number}", bounds.start(), bounds.end());
            let help = format!("choose a number from {} to {}", bounds.start(), bounds.end());
            self.scope.report(Finding::at(&node.place, message).label("out of bounds").help(help));
        }
        value
    }

    /// Reads the name of something that must be there.
    pub(crate) fn reference(&mut self, key: &'static str, kind: Kind, example: &str) -> Option<Name> {
        let name: At<Name> = self.required(key, example)?;
        self.scope.refer(kind, name.value.as_str(), &name.place);
        Some(name.value)
    }

    /// Reads a list of names of things that must be there.
    pub(crate) fn references(&mut self, key: &'static str, kind: Kind) -> Option<Vec<Name>> {
        if self.entry(key).is_none() {
            return Some(Vec::new());
        }
        let names: Vec<At<Name>> = self.optional(key)?;
        for name in &names {
            self.scope.refer(kind, name.value.as_str(), &name.place);
        }
        Some(names.into_iter().map(|name| name.value).collect())
    }

    /// Reads a path, absolute afterwards.
    pub(crate) fn path(&mut self, key: &'static str) -> Option<At<PathBuf>> {
        let text: At<String> = self.optional(key)?;
        let value = self.scope.path(&text.value, &text.place)?;
        Some(At { value, place: text.place })
    }

    /// Reads a table of free keys, in the inventory's order.
    pub(crate) fn pairs<T: Decode>(&mut self, key: &'static str) -> Option<IndexMap<String, T>> {
        let table = self.table(key)?.table;
        let read = |entry: &Entry| Some((entry.key.clone(), T::decode(&entry.node, self.scope)?));
        let map: IndexMap<String, T> = table.entries.iter().filter_map(read).collect();
        (map.len() == table.entries.len()).then_some(map)
    }

    /// Opens a table below; an error where it is something else.
    pub(crate) fn table(&mut self, key: &'static str) -> Option<Reader<'a>> {
        let entry = self.entry(key)?;
        let what = format!("`{key}` of {}", self.what);
        match &entry.node.value {
            Value::Table(table) => Some(Reader::new(table, what, self.scope)),
            _ => wrong_type(&entry.node, "a table", "{ key = value } or below a header in brackets", self.scope),
        }
    }

    /// Reads the tables `[KEY.NAME]`, each with its own reader. A table that is wrong is left out and reported.
    pub(crate) fn named<K, V>(
        &mut self,
        key: &'static str,
        noun: &str,
        mut read: impl FnMut(&K, &mut Reader<'a>) -> Option<V>,
    ) -> IndexMap<K, V>
    where
        K: FromStr<Err = Malformed> + std::hash::Hash + Eq,
    {
        let mut map = IndexMap::new();
        let Some(table) = self.table(key) else { return map };
        for entry in &table.table.entries {
            let name = parse_key::<K>(entry, noun, self.scope);
            let Value::Table(below) = &entry.node.value else {
                let example = format!("a table [{key}.{}]", entry.key);
                let _: Option<()> = wrong_type(&entry.node, "a table", &example, self.scope);
                continue;
            };
            let mut reader = Reader::new(below, format!("{noun} '{}'", entry.key), self.scope);
            match name {
                Some(name) => map.extend(read(&name, &mut reader).map(|value| (name, value))),
                // What else is wrong with the table is worth knowing at once; the value itself goes nowhere.
                None => drop(mended(&entry.key).and_then(|name| read(&name, &mut reader))),
            }
            reader.finish();
        }
        map
    }

    /// Reports the keys that nobody asked for.
    pub(crate) fn finish(self) {
        for entry in &self.table.entries {
            if self.known.contains(&entry.key.as_str()) {
                continue;
            }
            let finding =
                Finding::at(&entry.place, format!("{} has no key `{}`", self.what, entry.key)).label("unknown");
            let known = if self.known.is_empty() { "none".to_owned() } else { self.known.join(", ") };
            let near = nearest(&entry.key, self.known.iter().copied());
            self.scope.report(match near {
                Some(near) => finding.help(format!("did you mean `{near}`? Known here: {known}")),
                None => finding.help(format!("known here: {known}")),
            });
        }
    }
}

/// Parses a key that is a name.
pub(crate) fn parse_key<K: FromStr<Err = Malformed>>(entry: &Entry, noun: &str, scope: &Scope) -> Option<K> {
    match entry.key.parse() {
        Ok(key) => Some(key),
        Err(error) => {
            let message = format!("'{}' can't be the name of a {noun}", entry.key);
            scope.report(Finding::at(&entry.place, message).help(error.0));
            None
        }
    }
}

/// Makes a malformed name into one of the wanted shape, so that its table can be read all the same.
fn mended<K: FromStr>(text: &str) -> Option<K> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let plain: String = text.chars().map(plain).collect();
    let plain = plain.trim_matches('-');
    [plain.to_owned(), format!("x{plain}"), format!("x/{plain}")].iter().find_map(|name| name.parse().ok())
}
