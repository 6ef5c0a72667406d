//! How the reference looks. Pure.

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, html};
use serde_json::{Map, Value};

/// A number for what an example's path names.
const SOME_ID: &str = "42";

/// One route.
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    about: &'a Value,
}

/// The page.
pub fn render(document: &Value, examples: &Value, origin: &str) -> Markup {
    let subjects = by_subject(document);
    let head = &document["info"];
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (text(&head["title"])) " API" }
                link rel="stylesheet" href="/reference.css";
            }
            body {
                a.skip href="#content" { "Skip to the reference" }
                nav aria-label="Subjects" {
                    a.home href="/" { (text(&head["title"])) }
                    ul { @for name in subjects.keys() { li { a href=(format!("#{name}")) { (title(name)) } } } }
                }
                main id="content" {
                    h1 { "API reference" }
                    p.lead { (prose(text(&head["description"]))) }
                    p { "The same as a document for programs: " a href=(super::DOCUMENT) { "openapi.json" } "." }
                    (beginning(origin))
                    @for (name, operations) in &subjects {
                        section id=(name) {
                            h2 { (title(name)) }
                            @for operation in operations { (shown(operation, document, examples, origin)) }
                        }
                    }
                }
            }
        }
    }
}

fn beginning(origin: &str) -> Markup {
    let listed =
        format!("export BERTH_TOKEN=…\ncurl -H \"Authorization: Bearer $BERTH_TOKEN\" {origin}/v1/servers");
    let cli = format!("export HCLOUD_ENDPOINT={origin}/v1 HCLOUD_TOKEN=$BERTH_TOKEN\nhcloud server list");
    html! {
        h2 { "Begin" }
        p { "A token belongs to one project. Every answer says how many requests are left: "
            code { "RateLimit-Limit" } ", " code { "RateLimit-Remaining" } ", " code { "RateLimit-Reset" } "." }
        pre tabindex="0" { (listed) }
        p { "Clients of the Hetzner Cloud API v1 need only the address:" }
        pre tabindex="0" { (cli) }
        p { "An error is an object " code { "error" } " with a " code { "code" } " for programs, a " code { "message" }
            " for people, and for " code { "invalid_input" } " the fields in " code { "details.fields" } "." }
    }
}

fn by_subject(document: &Value) -> BTreeMap<&str, Vec<Operation<'_>>> {
    let mut subjects: BTreeMap<&str, Vec<Operation<'_>>> = BTreeMap::new();
    for (path, methods) in entries(&document["paths"]) {
        for (method, about) in entries(methods) {
            subjects.entry(text(&about["tags"][0])).or_default().push(Operation { method, path, about });
        }
    }
    subjects
}

fn shown(operation: &Operation<'_>, document: &Value, examples: &Value, origin: &str) -> Markup {
    let Operation { method, path, about } = operation;
    let name = text(&about["operationId"]);
    let body = resolved(document, &about["requestBody"]["content"]["application/json"]["schema"]);
    let (good, bad): (Vec<_>, Vec<_>) =
        entries(&about["responses"]).partition(|(status, _)| status.starts_with('2') || *status == "101");
    html! {
        article id=(name) {
            h3 { span.method.(method) { (method.to_uppercase()) } " " code { (path) } }
            p { (prose(text(&about["summary"]))) }
            @if let Some(more) = about["description"].as_str() { p { (prose(more)) } }
            @if let Some(list) = about["parameters"].as_array() { (parameters(list, document)) }
            @if let Some(fields) = body.get("properties") { (fields_of(fields, body, document)) }
            pre tabindex="0" { (curl(operation, examples, origin)) }
            p.answers {
                @for (status, answer) in good {
                    b { (status) } " "
                    @if let Some(schema) = answer["content"]["application/json"]["schema"]["$ref"].as_str() {
                        code { (schema.rsplit('/').next().unwrap_or_default()) } " "
                    }
                    (prose(text(&answer["description"]))) " "
                }
            }
            @if !bad.is_empty() {
                details {
                    summary { "Errors" }
                    dl { @for (status, answer) in bad { dt { (status) } dd { (prose(text(&answer["description"]))) } } }
                }
            }
        }
    }
}

fn parameters(list: &[Value], document: &Value) -> Markup {
    html! {
        table {
            thead { tr { th { "Parameter" } th { "Type" } th { "" } } }
            tbody {
                @for parameter in list {
                    tr {
                        td { code { (text(&parameter["name"])) } }
                        td { (kind(&parameter["schema"], document)) }
                        td { (prose(text(&parameter["description"]))) }
                    }
                }
            }
        }
    }
}

fn fields_of(fields: &Value, body: &Value, document: &Value) -> Markup {
    let is_required = |name: &str| {
        body["required"].as_array().is_some_and(|required| required.iter().any(|field| field == name))
    };
    html! {
        table {
            thead { tr { th { "Field" } th { "Type" } th { "" } } }
            tbody {
                @for (name, schema) in entries(fields) {
                    tr {
                        td { code { (name) } @if is_required(name) { " " span.required { "required" } } }
                        td { (kind(schema, document)) }
                        td { (prose(described(schema))) }
                    }
                }
            }
        }
    }
}

/// The call as it is typed.
fn curl(operation: &Operation<'_>, examples: &Value, origin: &str) -> String {
    let Operation { method, path, about } = operation;
    let path: Vec<&str> =
        path.split('/').map(|part| if part.starts_with('{') { SOME_ID } else { part }).collect();
    let mut lines = vec![format!("curl -X {} {origin}{}", method.to_uppercase(), path.join("/"))];
    if about["security"] != serde_json::json!([{}]) {
        lines.push("-H \"Authorization: Bearer $BERTH_TOKEN\"".to_owned());
    }
    if let Some(example) = body_schema(about).and_then(|name| examples.get(name)) {
        lines.push("-H 'Content-Type: application/json'".to_owned());
        // A quote within the shell's quotes.
        lines.push(format!("-d '{}'", format!("{example:#}").replace('\'', r"'\''")));
    }
    lines.join(" \\\n  ")
}

/// The name of the schema of a request's body.
fn body_schema(about: &Value) -> Option<&str> {
    about["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str()?.rsplit('/').next()
}

/// The type of a field, in a word or two.
fn kind(schema: &Value, document: &Value) -> String {
    if let Some(choices) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        let kinds: Vec<_> = choices
            .iter()
            .filter(|choice| choice["type"] != "null")
            .map(|choice| kind(choice, document))
            .collect();
        return kinds.join(" or ");
    }
    if schema.get("$ref").is_some() {
        return kind(resolved(document, schema), document);
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(text).collect::<Vec<_>>().join(", ");
    }
    match &schema["type"] {
        Value::String(word) if word == "array" => format!("list of {}", kind(&schema["items"], document)),
        Value::String(word) => word.clone(),
        Value::Array(words) => {
            let words = words.iter().map(text).filter(|word| *word != "null");
            words.collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_owned(),
    }
}

/// What is said of a field, where it stands or where its type stands.
fn described(schema: &Value) -> &str {
    let inner = || schema["oneOf"].as_array()?.iter().find_map(|choice| choice["description"].as_str());
    schema["description"].as_str().or_else(inner).unwrap_or_default()
}

fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let name = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next());
    name.map_or(schema, |name| &document["components"]["schemas"][name])
}

/// `code` between backquotes, as our documents have it.
fn prose(words: &str) -> Markup {
    html! {
        @for (number, part) in words.split('`').enumerate() {
            @if number % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// `ssh_keys` as a title.
fn title(name: &str) -> String {
    let words = name.replace('_', " ").replace("ssh", "SSH").replace(" ip", " IP").replace("isos", "ISOs");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter).map(|(name, value)| (name.as_str(), value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_in_the_document_is_shown_and_not_run() {
        let document = json!({
            "info": {"title": "Berth", "description": "A `list`."},
            "paths": {"/v1/things/{id}": {"put": {
                "tags": ["ssh_keys"], "operationId": "thing_put", "summary": "<script>alert(1)</script>",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Put"}}}},
                "responses": {"200": {"description": "Done."}, "404": {"description": "not_found: none."}},
            }}},
            "components": {"schemas": {"Put": {"required": ["name"], "properties": {
                "name": {"type": "string", "description": "Its name."},
                "kinds": {"type": ["array", "null"], "items": {"type": "integer"}},
                "way": {"oneOf": [{"type": "null"}, {"enum": ["in", "out"], "description": "Where to."}]},
            }}}},
        });
        let page = render(&document, &json!({"Put": {"name": "it's"}}), "https://b").into_string();
        for part in [
            "&lt;script&gt;",
            "A <code>list</code>.",
            "<code>name</code> <span class=\"required\">required</span>",
            "in, out",
            "Where to.",
            "SSH keys",
            "<dt>404</dt><dd>not_found: none.</dd>",
            "curl -X PUT https://b/v1/things/42 \\\n  -H &quot;Authorization",
            "-d '{\n  &quot;name&quot;: &quot;it'\\''s&quot;\n}'",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        assert!(!page.contains("<script>"));
    }
}
