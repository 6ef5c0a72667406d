//! From a request's schema to a command's arguments, and back to the request.
//!
//! | field | argument |
//! | --- | --- |
//! | text, number, word | `--field VALUE` |
//! | size in bytes | `--field 2GiB`, or a number |
//! | yes or no | `--field`, or `--field false` |
//! | list of those | `--field A --field B` |
//! | secret (`format: password`) | `--field-file FILE`, `-` for standard input: arguments are seen by all |
//! | anything larger | `--field JSON`; `--field-file FILE` if there is a secret in it |
//!
//! A request that cannot do without something larger takes a file, too, which holds all of it; the
//! arguments lie over it.

use std::collections::BTreeMap;

use berth_model::ByteSize;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde_json::{Map, Value, json};

use super::{CliError, run};

/// How deep in a field a secret is looked for.
const SECRET_DEPTH_MAX: usize = 6;

/// How a field is given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    Text,
    Secret,
    Words(Vec<String>),
    Integer,
    Size,
    Switch,
    List(Box<Shape>),
    Json,
    SecretJson,
}

/// A field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    name: String,
    help: String,
    shape: Shape,
    is_required: bool,
}

/// The arguments of a request.
#[derive(Debug, Clone, Default)]
pub struct Words {
    fields: Vec<Field>,
    takes_file: bool,
}

impl Words {
    /// Reads a schema; `schemas` holds what it refers to.
    pub fn new(schema: Option<&Value>, schemas: &BTreeMap<String, Value>) -> Self {
        let Some(schema) = schema else { return Self::default() };
        let schema = resolve(schema, schemas);
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let fields: Vec<Field> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, field)| Field {
                name: name.clone(),
                help: help(field, schemas),
                shape: shape(field, schemas),
                is_required: required.contains(&name.as_str()),
            })
            .collect();
        let takes_file = fields.iter().any(|field| field.is_required && field.shape.is_json());
        Self { fields, takes_file }
    }

    /// The arguments.
    pub fn args(&self) -> Vec<Arg> {
        let file = self.takes_file.then(|| {
            Arg::new("FILE").required(true).help("The request in JSON; - reads it from standard input")
        });
        file.into_iter().chain(self.fields.iter().map(|field| field.arg(self.takes_file))).collect()
    }

    /// The request.
    pub fn request(&self, words: &ArgMatches) -> Result<Value, CliError> {
        let mut request = Map::new();
        if self.takes_file
            && let Some(file) = words.get_one::<String>("FILE")
        {
            // Sent as it is, so that the agent names what is wrong with it.
            let text = run::read_text_or_stdin(file.as_ref())?;
            request = serde_json::from_str(&text)
                .map_err(|e| CliError::Usage(format!("{file} is not a JSON object: {e}.")))?;
        }
        for field in &self.fields {
            if let Some(value) = field.value(words)? {
                request.insert(field.name.clone(), value);
            }
        }
        Ok(Value::Object(request))
    }
}

impl Field {
    fn flag(&self) -> String {
        let name = self.name.replace('_', "-");
        if matches!(self.shape, Shape::Secret | Shape::SecretJson) { name + "-file" } else { name }
    }

    fn arg(&self, has_file: bool) -> Arg {
        let arg = Arg::new(self.name.clone()).long(self.flag()).help(self.help.clone());
        let arg = arg.required(self.is_required && !has_file);
        self.shape.of(arg)
    }

    fn value(&self, words: &ArgMatches) -> Result<Option<Value>, CliError> {
        let wrong = |text: &str| CliError::Usage(format!("--{}: “{text}” is not JSON.", self.flag()));
        let parse = |shape: &Shape, text: &String| match shape {
            Shape::Json => serde_json::from_str(text).map_err(|_| wrong(text)),
            Shape::SecretJson => {
                let read = run::read_text_or_stdin(text.as_ref())?;
                serde_json::from_str(&read).map_err(|_| CliError::Usage(format!("{text} is not JSON.")))
            }
            Shape::Integer => text.parse::<i64>().map(Value::from).map_err(|_| wrong(text)),
            Shape::Size => size(text).map(|size| json!(size)).map_err(CliError::Usage),
            Shape::Switch => Ok(Value::Bool(text == "true")),
            Shape::Secret => run::read_text_or_stdin(text.as_ref()).map(|text| Value::from(text.trim_end())),
            _ => Ok(Value::String(text.clone())),
        };
        let Some(mut given) = words.get_many::<String>(&self.name) else { return Ok(None) };
        match &self.shape {
            Shape::List(of) => {
                given.map(|text| parse(of, text)).collect::<Result<Vec<_>, _>>().map(|v| Some(v.into()))
            }
            shape => given.next().map(|text| parse(shape, text)).transpose(),
        }
    }
}

impl Shape {
    fn is_json(&self) -> bool {
        matches!(self, Self::Json | Self::SecretJson)
    }

    fn of(&self, arg: Arg) -> Arg {
        match self {
            Self::Text => arg.value_name("TEXT"),
            Self::Secret | Self::SecretJson => arg.value_name("FILE"),
            Self::Words(words) => arg.value_parser(PossibleValuesParser::new(words.clone())),
            Self::Integer => arg.value_name("N").allow_negative_numbers(true),
            Self::Size => arg.value_name("SIZE"),
            Self::Switch => arg
                .value_name("BOOL")
                .num_args(0..=1)
                .default_missing_value("true")
                .value_parser(PossibleValuesParser::new(["true", "false"])),
            Self::List(of) => of.of(arg).action(ArgAction::Append),
            Self::Json => arg.value_name("JSON").value_parser(value_parser!(String)),
        }
    }
}

/// What a schema says in the end: references followed, `null` taken out of a choice.
pub fn resolve(schema: &Value, schemas: &BTreeMap<String, Value>) -> Value {
    if let Some(name) = reference(schema) {
        return schemas.get(name).map_or(Value::Null, |schema| resolve(schema, schemas));
    }
    let choices = ["oneOf", "anyOf", "allOf"].iter().find_map(|key| schema[key].as_array());
    let real: Vec<&Value> =
        choices.into_iter().flatten().filter(|choice| choice["type"] != json!("null")).collect();
    match real.as_slice() {
        [one] => resolve(one, schemas),
        _ => schema.clone(),
    }
}

/// The name of the schema that it refers to.
pub fn reference(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

/// Is it the named schema, perhaps with `null` beside it?
pub fn is(schema: &Value, name: &str) -> bool {
    let choices = ["oneOf", "anyOf", "allOf"].iter().find_map(|key| schema[key].as_array());
    reference(schema) == Some(name) || choices.into_iter().flatten().any(|choice| is(choice, name))
}

fn shape(schema: &Value, schemas: &BTreeMap<String, Value>) -> Shape {
    if is(schema, "ByteSize") {
        return Shape::Size;
    }
    let schema = resolve(schema, schemas);
    if let Some(words) = schema["enum"].as_array() {
        return Shape::Words(words.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    }
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        kind => kind.as_str(),
    };
    match kinds {
        Some("string") if schema["format"] == "password" => Shape::Secret,
        Some("string") => Shape::Text,
        Some("integer") => Shape::Integer,
        Some("boolean") => Shape::Switch,
        Some("array") => match shape(&schema["items"], schemas) {
            json @ (Shape::Json | Shape::SecretJson) => json,
            Shape::List(_) => Shape::Json,
            of => Shape::List(Box::new(of)),
        },
        _ if has_secret(&schema, schemas, 0) => Shape::SecretJson,
        _ => Shape::Json,
    }
}

/// Is there a secret in what this schema describes? Schemas that hold themselves end somewhere.
fn has_secret(schema: &Value, schemas: &BTreeMap<String, Value>, depth: usize) -> bool {
    let schema = resolve(schema, schemas);
    let choices = ["oneOf", "anyOf", "allOf"].iter().filter_map(|key| schema[key].as_array()).flatten();
    let fields = schema["properties"].as_object().into_iter().flat_map(|fields| fields.values());
    let below = choices.chain(fields).chain(schema.get("items"));
    schema["format"] == "password"
        || depth < SECRET_DEPTH_MAX && below.into_iter().any(|part| has_secret(part, schemas, depth + 1))
}

fn help(schema: &Value, schemas: &BTreeMap<String, Value>) -> String {
    let own = schema["description"].as_str().map(str::to_owned);
    let text = own.or_else(|| resolve(schema, schemas)["description"].as_str().map(str::to_owned));
    text.unwrap_or_default().lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

/// `2GiB`, `512 MiB`, `1000`.
fn size(text: &str) -> Result<ByteSize, String> {
    let digits = text.trim().bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.trim().split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => 64,
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1_u64.checked_shl(shift)?));
    bytes.map(ByteSize).ok_or_else(|| format!("“{text}” is not a size, like 512MiB or 20GiB."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size("2GiB"), Ok(ByteSize::gib(2)));
        assert_eq!(size("512 MiB"), Ok(ByteSize::mib(512)));
        assert_eq!(size("1000"), Ok(ByteSize(1000)));
        for bad in ["", "GiB", "2XB", "-1", "99999999999TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_kind_of_field_becomes_an_argument_and_comes_back() {
        let schemas = BTreeMap::from([
            ("ByteSize".to_owned(), json!({"type": "integer"})),
            ("Kind".to_owned(), json!({"type": "string", "enum": ["full", "thin"]})),
        ]);
        let schema = json!({"type": "object", "required": ["size"], "properties": {
            "size": {"$ref": "#/components/schemas/ByteSize", "description": "How large."},
            "kind": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/Kind"}]},
            "is_thin": {"type": "boolean"},
            "count": {"type": ["integer", "null"]},
            "names": {"type": "array", "items": {"type": "string"}},
            "key": {"type": ["string", "null"], "format": "password"},
            "more": {"type": "object"},
            "store": {"type": "object", "properties": {"secret": {"type": "string", "format": "password"}}},
        }});
        let words = Words::new(Some(&schema), &schemas);
        let command = clap::Command::new("t").no_binary_name(true).args(words.args());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a secret\n").unwrap();
        let given =
            "--size 1GiB --kind thin --is-thin --count 3 --names a --names b --more {\"x\":1} --key-file";
        let store = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(store.path(), "{\"secret\": \"another\"}").unwrap();
        let files = [file.path().to_str(), Some("--store-file"), store.path().to_str()];
        let given = given.split(' ').chain(files.into_iter().flatten());
        let matches = command.clone().try_get_matches_from(given).unwrap();
        let expected = json!({"size": 1_u64 << 30, "kind": "thin", "is_thin": true, "count": 3, "names": ["a", "b"], "more": {"x": 1}, "key": "a secret",
            "store": {"secret": "another"}});
        assert_eq!(words.request(&matches).unwrap(), expected);
        assert!(command.clone().try_get_matches_from(["--kind", "thin"]).is_err(), "the size is required");
        assert!(command.try_get_matches_from(["--size", "1", "--kind", "odd"]).is_err());
    }

    /// A value as it is typed; nothing for those that are read from files.
    fn typed(shape: &Shape, value: &Value) -> Option<Vec<String>> {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match shape {
            Shape::Secret => None,
            Shape::List(of) => {
                let items = value.as_array()?.iter().map(|item| typed(of, item)?.pop());
                items.collect()
            }
            Shape::Json => Some(vec![value.to_string()]),
            _ => Some(vec![plain(value)]),
        }
    }

    #[test]
    fn what_is_typed_for_any_function_is_what_is_asked() {
        let list = crate::functions::List::new();
        let mut asked = 0;
        for function in &list.functions {
            let Some(schema) = &function.request else { continue };
            let words = Words::new(Some(schema), &list.schemas);
            let command = clap::Command::new("t").no_binary_name(true).args(words.args());
            for round in 1..30 {
                let mut number = crate::fuzz::numbers(round * 0x51_7cc1);
                let wanted = crate::fuzz::value_of(schema, &list.schemas, 0, &mut number);
                let (mut line, mut expected) = (Vec::new(), Map::new());
                let nothing = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(nothing.path(), "{}").unwrap();
                if words.takes_file {
                    line.push(nothing.path().to_str().unwrap().to_owned());
                }
                for field in &words.fields {
                    let value = &wanted[&field.name];
                    let Some(all) = typed(&field.shape, value).filter(|_| !value.is_null()) else { continue };
                    // A size or a number may be one that no line can say.
                    let is_fine = all.iter().all(|text| match &field.shape {
                        Shape::Size => size(text).is_ok(),
                        Shape::Integer => text.parse::<i64>().is_ok(),
                        Shape::List(of) if matches!(**of, Shape::Size | Shape::Integer) => {
                            text.parse::<i64>().is_ok_and(|n| n >= 0)
                        }
                        _ => true,
                    });
                    if !is_fine || all.is_empty() {
                        continue;
                    }
                    line.extend(all.into_iter().map(|text| format!("--{}={text}", field.flag())));
                    expected.insert(field.name.clone(), value.clone());
                }
                let Ok(matches) = command.clone().try_get_matches_from(&line) else { continue };
                assert_eq!(
                    words.request(&matches).unwrap(),
                    Value::Object(expected),
                    "{}: {line:?}",
                    function.name
                );
                asked += 1;
            }
        }
        assert!(asked > 300, "{asked}");
    }

    proptest::proptest! {
        #[test]
        fn no_line_breaks_the_command(
            which in 0_usize..1000,
            line in proptest::collection::vec("(--)?[a-z-]{0,12}(=\\PC{0,12})?|[0-9]{1,22}[a-zA-Z]{0,4}|\\{\\PC{0,6}", 0..6),
            text in "\\PC{0,20}|[0-9]{0,22} ?[kKmMgGtTiIbB]{0,4}",
        ) {
            let list = crate::functions::List::new();
            let function = &list.functions[which % list.functions.len()];
            let words = Words::new(function.request.as_ref(), &list.schemas);
            let command = clap::Command::new("t").no_binary_name(true).args(words.args());
            // Those that name files are left out: nobody types here.
            let line: Vec<_> = line.iter().filter(|word| !word.contains("-file") && *word != "-").collect();
            if let Ok(matches) = command.try_get_matches_from(&line)
                && !words.takes_file
            {
                let _request = words.request(&matches);
            }
            let _size = size(&text);
        }
    }
}
