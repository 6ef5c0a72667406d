//! Answers that have no form of their own on the screen: in the agent's order, and in units as their
//! schema names them.

use std::collections::BTreeMap;

use berth_model::{ByteSize, Timestamp};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::print::{NONE, harmless, size, table, time};
use super::words::{is, resolve};

/// An answer as it came, fields in the order in which the agent names them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Shown {
    /// A list.
    List(Vec<Self>),
    /// A thing.
    Fields(IndexMap<String, Self>),
    /// Anything else.
    Leaf(Value),
}

type Schemas = BTreeMap<String, Value>;

impl Shown {
    /// A list of things as a table, one thing a field a line.
    pub fn text(&self, schema: &Value, schemas: &Schemas) -> String {
        let schema = resolve(schema, schemas);
        let Self::Fields(fields) = self else { return self.cell(&schema, schemas) };
        if fields.len() == 1
            && let Some((name, Self::List(list))) = fields.first()
        {
            return rows(list, &resolve(&schema["properties"][name], schemas)["items"], schemas);
        }
        let row = |(name, field): (&String, &Self)| {
            vec![name.replace('_', " "), field.cell(&schema["properties"][name], schemas)]
        };
        table(&[], &fields.iter().map(row).collect::<Vec<_>>())
    }

    fn cell(&self, schema: &Value, schemas: &Schemas) -> String {
        let real = resolve(schema, schemas);
        match self {
            Self::Leaf(Value::Number(number)) if is(schema, "ByteSize") => {
                number.as_u64().map_or_else(|| number.to_string(), |bytes| size(ByteSize(bytes)))
            }
            Self::Leaf(at @ Value::String(text)) if is(schema, "Timestamp") => {
                Timestamp::deserialize(at).map_or_else(|_| harmless(text), time)
            }
            Self::Leaf(Value::Null) => "-".to_owned(),
            Self::Leaf(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
            Self::Leaf(Value::String(text)) => harmless(text),
            Self::Leaf(other) => other.to_string(),
            Self::List(list) if list.is_empty() => NONE.to_owned(),
            Self::List(list) => {
                let cells = list.iter().map(|one| one.cell(&real["items"], schemas));
                cells.collect::<Vec<_>>().join(", ")
            }
            Self::Fields(fields) => {
                let there = fields.iter().filter(|(_, field)| !matches!(field, Self::Leaf(Value::Null)));
                let cell = |(name, field): (&String, &Self)| {
                    format!("{} {}", name.replace('_', " "), field.cell(&real["properties"][name], schemas))
                };
                there.map(cell).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

fn rows(list: &[Shown], schema: &Value, schemas: &Schemas) -> String {
    let properties = &resolve(schema, schemas)["properties"];
    // A field may be left out where it says nothing, so every row has its say.
    let mut names: Vec<&str> = Vec::new();
    for row in list {
        let Shown::Fields(fields) = row else { continue };
        names.extend(
            fields.keys().map(String::as_str).filter(|name| !names.contains(name)).collect::<Vec<_>>(),
        );
    }
    if names.is_empty() {
        let cells: Vec<_> = list.iter().map(|row| row.cell(schema, schemas)).collect();
        return if cells.is_empty() { NONE.to_owned() } else { cells.join("\n") };
    }
    let head: Vec<String> = names.iter().map(|name| name.replace('_', " ").to_uppercase()).collect();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let cell = |row: &Shown, name: &str| match row {
        Shown::Fields(fields) => {
            fields.get(name).map_or_else(|| "-".to_owned(), |field| field.cell(&properties[name], schemas))
        }
        _ => "-".to_owned(),
    };
    let rows: Vec<Vec<String>> =
        list.iter().map(|row| names.iter().map(|name| cell(row, name)).collect()).collect();
    table(&head, &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(answer: &str, schema: &Value) -> String {
        let schemas = BTreeMap::from([
            ("ByteSize".to_owned(), json!({"type": "integer"})),
            ("Timestamp".to_owned(), json!({"type": "string"})),
            ("Part".to_owned(), json!({"properties": {"used": {"$ref": "#/components/schemas/ByteSize"}}})),
        ]);
        serde_json::from_str::<Shown>(answer).unwrap().text(schema, &schemas)
    }

    #[test]
    fn fields_keep_their_order_and_have_units() {
        let schema = json!({"properties": {
            "size": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/ByteSize"}]},
            "made": {"$ref": "#/components/schemas/Timestamp"},
            "part": {"$ref": "#/components/schemas/Part"},
        }});
        let answer = "{\"size\":1048576,\"made\":\"2026-11-20T02:14:00.123Z\",\"part\":{\"used\":2048,\"none\":null},\"count\":7}";
        let text = "size   1.0 MiB\nmade   2026-11-20 02:14:00Z\npart   used 2.0 KiB\ncount  7";
        assert_eq!(shown(answer, &schema), text);
    }

    #[test]
    fn a_list_of_things_is_a_table_with_all_their_fields() {
        let schema = json!({"properties": {"things": {"type": "array", "items": {"$ref": "#/components/schemas/Part"}}}});
        let answer =
            "{\"things\":[{\"name\":\"b\",\"used\":1},{\"name\":\"a\",\"used\":1024,\"note\":\"x\"}]}";
        assert_eq!(shown(answer, &schema), "NAME  USED     NOTE\nb     1 B      -\na     1.0 KiB  x");
        assert_eq!(shown("{\"things\":[]}", &schema), "none");
        assert_eq!(shown("{\"things\":[],\"count\":0}", &schema), "things  none\ncount   0");
        assert_eq!(shown("{\"things\":[\"a\",\"b\"]}", &schema), "a\nb");
    }
}
