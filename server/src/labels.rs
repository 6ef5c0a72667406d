//! Names and labels of any resource: what is wrong with them, and selectors as SQL.
//!
//! A resource's labels stand in a `jsonb` column `labels`. A key with a value becomes `@>`, which a
//! GIN index serves where a project may have many of the resource.

use berth_model::FieldError;
use berth_model::error::ApiError;
use berth_model::label::{Condition, LABELS_MAX, Labels, Selector, key_fault, value_fault};
use serde_json::Value;
use sqlx::{Postgres, QueryBuilder};

/// Longest name of a resource that is no host name, in characters.
pub const NAME_MAX: usize = 64;

/// What is wrong with the name of a resource that is no host name.
pub fn name_fault(name: &str) -> Option<String> {
    name_fault_over(name, NAME_MAX)
}

/// [`name_fault`] with another longest name.
pub fn name_fault_over(name: &str, most: usize) -> Option<String> {
    if name.trim().is_empty() {
        return Some("Enter a name.".to_owned());
    }
    if name.chars().count() > most {
        return Some(format!("A name has at most {most} characters."));
    }
    name.chars().any(char::is_control).then(|| "A name is one line.".to_owned())
}

/// Everything that is wrong with a resource's `name` and `labels`; what is `None` is not looked at.
pub fn named_faults(name: Option<&str>, labels: Option<&Labels>) -> Vec<FieldError> {
    let message = name.and_then(name_fault);
    let fault = message.map(|message| FieldError { name: "name".to_owned(), messages: vec![message] });
    fault.into_iter().chain(labels.into_iter().flat_map(|labels| faults("labels", labels))).collect()
}

/// Refuses a change of a resource's `name` and `labels`; what is `None` is not looked at.
///
/// # Errors
/// `invalid_input` that names what is wrong.
pub fn check_named(name: Option<&str>, labels: Option<&Labels>) -> Result<(), ApiError> {
    let faults = named_faults(name, labels);
    if faults.is_empty() { Ok(()) } else { Err(ApiError::fields(faults)) }
}

/// Everything that is wrong with the labels in `field`, by key: `labels.env`.
pub fn faults(field: &str, labels: &Labels) -> Vec<FieldError> {
    let fault = |name: String, message: String| FieldError { name, messages: vec![message] };
    let mut faults = Vec::new();
    if labels.len() > LABELS_MAX {
        faults.push(fault(field.to_owned(), format!("At most {LABELS_MAX} labels.")));
    }
    faults.extend(labels.iter().take(LABELS_MAX).filter_map(|(key, value)| {
        let message = key_fault(key).or_else(|| value_fault(value))?;
        Some(fault(format!("{field}.{key}"), message.to_owned()))
    }));
    faults
}

/// Reads the parameter `label_selector`; without one, everything is selected.
///
/// # Errors
/// `invalid_input` naming `label_selector`.
pub fn selector(text: Option<&str>) -> Result<Selector, ApiError> {
    Selector::parse(text.unwrap_or_default()).map_err(|message| ApiError::field("label_selector", message))
}

/// Labels as PostgreSQL keeps them.
pub fn to_json(labels: &Labels) -> Value {
    labels.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect()
}

/// Labels as PostgreSQL kept them.
pub fn from_json(value: Value) -> Labels {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter_map(|(key, value)| value.as_str().map(|text| (key, text.to_owned())))
            .collect(),
        _ => Labels::new(),
    }
}

/// Adds ` and …` for every condition of the selector, on the column `labels`.
pub fn push_selector(sql: &mut QueryBuilder<Postgres>, selector: &Selector) {
    let pair = |key: &str, value: &str| Value::from_iter([(key.to_owned(), Value::from(value))]);
    for condition in &selector.0 {
        match condition {
            Condition::Exists(key) => {
                sql.push(" and labels ? ").push_bind(key.clone());
            }
            Condition::Missing(key) => {
                sql.push(" and not labels ? ").push_bind(key.clone());
            }
            Condition::In(key, values) => {
                let pairs: Vec<Value> = values.iter().map(|value| pair(key, value)).collect();
                // `@> any (array)` uses the GIN index, one scan for each element.
                sql.push(" and labels @> any (").push_bind(pairs).push(")");
            }
            Condition::NotIn(key, values) => {
                sql.push(" and not coalesce(labels ->> ").push_bind(key.clone());
                sql.push(" = any (").push_bind(values.clone()).push("), false)");
            }
        }
    }
}
