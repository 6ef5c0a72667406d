//! Answers as tables for people. Pure.

use serde_json::Value;

/// The rows of a list, or of one thing, in these columns; `a.b` is a field within a field.
pub fn table(shown: &Value, columns: &[&str]) -> String {
    let rows: &[Value] = shown.as_array().map_or(std::slice::from_ref(shown), Vec::as_slice);
    if rows.is_empty() || shown.is_null() {
        return "none\n".to_owned();
    }
    let titles: Vec<String> = columns.iter().map(|column| column.replace(['.', '_'], " ")).collect();
    let cells = |row: &Value| columns.iter().map(|column| cell(row, column)).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(rows.iter().map(cells)).collect();
    let width = |n: usize| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let shown = |line: &Vec<String>| {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(shown).collect()
}

fn cell(row: &Value, column: &str) -> String {
    let value = column.split('.').fold(row, |value, field| &value[field]);
    match value {
        Value::Null => "–".to_owned(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::String(text) => printable(text),
        Value::Array(list) if list.is_empty() => "–".to_owned(),
        Value::Array(list) => list
            .iter()
            .map(|one| one.as_str().map_or_else(|| one.to_string(), printable))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}

/// What customers wrote moves no cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_a_table_and_nothing_is_none() {
        let list = json!([
            {"id": 7, "name": "Larkspur", "suspended": null, "ok": true, "faults": []},
            {"id": 12, "name": "a\u{1b}[2Jb", "suspended": {"reason": "unpaid"}, "ok": false, "faults": ["x", "y"]},
        ]);
        let shown = table(&list, &["id", "name", "suspended.reason", "ok", "faults"]);
        assert_eq!(
            shown,
            "id  name      suspended reason  ok   faults\n\
             7   Larkspur  –                 yes  –\n\
             12  a [2Jb    unpaid            no   x y\n"
        );
        assert_eq!(table(&json!([]), &["id"]), "none\n");
        assert_eq!(table(&json!({"id": 3}), &["id"]), "id\n3\n");
    }
}
