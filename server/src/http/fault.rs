//! Turns what serde says of a wrong request into a sentence that names the field.

use berth_model::error::ApiError;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads `value` as a `T`; an error names the field.
pub(super) fn read<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    if let Some(path) = nul_in(&value, String::new()) {
        return Err(ApiError::field(path, "The character NUL is not allowed."));
    }
    serde_path_to_error::deserialize(value)
        .map_err(|error| of_field(&error.path().to_string(), &error.inner().to_string()))
}

/// The error for the field at `path` of which serde says `message`.
pub(super) fn of_field(path: &str, message: &str) -> ApiError {
    // serde_path_to_error writes "." for the root.
    let parent = if path == "." { "" } else { path };
    for (prefix, sentence) in [
        ("missing field `", "This is needed."),
        ("unknown field `", "There is no such field."),
        ("duplicate field `", "This may be given once only."),
    ] {
        if let Some(field) = message.strip_prefix(prefix).and_then(|rest| rest.split('`').next()) {
            return ApiError::field(join(parent, field), format!("{}: {sentence}", join(parent, field)));
        }
    }
    let sentence = sentence(message);
    if parent.is_empty() { ApiError::field("body", sentence) } else { ApiError::field(parent, sentence) }
}

fn join(parent: &str, field: &str) -> String {
    let ends_with_it = parent == field || parent.strip_suffix(field).is_some_and(|rest| rest.ends_with('.'));
    match parent {
        "" => field.to_owned(),
        _ if ends_with_it => parent.to_owned(),
        _ => format!("{parent}.{field}"),
    }
}

/// serde's `invalid type: integer `5`, expected a string` as a sentence. What our own types say is
/// one already.
fn sentence(message: &str) -> String {
    let found_and_expected = ["invalid type: ", "invalid value: ", "invalid length "]
        .iter()
        .find_map(|prefix| message.strip_prefix(prefix))
        .and_then(|rest| rest.split_once(", expected "));
    if let Some((found, expected)) = found_and_expected {
        return format!("Expected {expected}, not {found}.");
    }
    if let Some((_, allowed)) =
        message.strip_prefix("unknown variant ").and_then(|m| m.split_once(", expected "))
    {
        return format!("Expected {allowed}.");
    }
    if message.ends_with('.') { message.to_owned() } else { format!("Expected {message}.") }
}

/// The path of the first text with a NUL in it: PostgreSQL cannot keep one.
fn nul_in(value: &Value, path: String) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then_some(path),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| nul_in(item, format!("{path}[{index}]")))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, item)| {
            if name.contains('\0') { Some(path.clone()) } else { nul_in(item, join(&path, name)) }
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        #[allow(dead_code)]
        name: String,
        #[allow(dead_code)]
        inner: Option<Box<Order>>,
        #[serde(default)]
        #[allow(dead_code)]
        keys: Vec<Kind>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Small,
        Large,
    }

    fn fault(value: Value) -> (String, String) {
        let error = read::<Order>(value).expect_err("this is wrong");
        let field = &error.details.as_ref().expect("a field is named").fields[0];
        (field.name.clone(), field.messages[0].clone())
    }

    #[test]
    fn every_fault_names_its_field() {
        let said = fault(json!({}));
        assert_eq!(said, ("name".into(), "name: This is needed.".into()));
        let said = fault(json!({"name": 5}));
        assert_eq!(said, ("name".into(), "Expected a string, not integer `5`.".into()));
        let said = fault(json!({"name": "a", "nmae": 1}));
        assert_eq!(said, ("nmae".into(), "nmae: There is no such field.".into()));
        let said = fault(json!({"name": "a", "inner": {"name": "b", "x": 1}}));
        assert_eq!(said.0, "inner.x");
        let said = fault(json!({"name": "a", "inner": {}}));
        assert_eq!(said.0, "inner.name");
        let said = fault(json!({"name": "a", "keys": ["small", "tiny"]}));
        assert_eq!(said, ("keys[1]".into(), "Expected `small` or `large`.".into()));
        let said = fault(json!({"name": "a", "inner": {"name": "a\0"}}));
        assert_eq!(said.0, "inner.name");
        let said = fault(json!(5));
        assert_eq!(said.0, "body");
    }
}
