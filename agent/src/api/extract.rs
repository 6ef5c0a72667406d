//! What handlers take out of a request; whatever is wrong with it is named by field.

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use berth_model::ErrorCode;
use http::request::Parts;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::Api;
use crate::error::Refusal;
use crate::spec;

/// `{sha256}` of an image.
pub struct Sha256Path(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Sha256Path {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let text = Path::<String>::from_request_parts(parts, state).await.map(|Path(text)| text);
        let text = text.ok().filter(|text| spec::is_sha256(text));
        text.map(Self).ok_or_else(|| Refusal::field("sha256", spec::SHA256_RULE))
    }
}

/// A JSON body.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Api> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        let limits = &api.limits;
        let body = to_bytes(request.into_body(), limits.body_bytes);
        let json = |message: String| Refusal::new(ErrorCode::JsonError, message);
        let body = match tokio::time::timeout(limits.body_patience, body).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => {
                return Err(json(format!(
                    "The body was cut off, or has more than {} bytes.",
                    limits.body_bytes
                )));
            }
            Err(_) => return Err(json("The body took too long to arrive.".to_owned())),
        };
        parse(&body).map(Self)
    }
}

/// Reads JSON to its end; an error names the field.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // A request of which nothing need be said needs no body.
    if body.is_empty()
        && let Ok(request) = serde_json::from_str("{}")
    {
        return Ok(request);
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        let inner = e.into_inner();
        if !inner.is_data() {
            // A choice of words says so, too, where there is no word.
            if serde_json::from_slice::<IgnoredAny>(body).is_ok() {
                return Refusal::field(path, "This is no value that could stand here.");
            }
            return Refusal::new(ErrorCode::JsonError, format!("The body is not JSON: {inner}."));
        }
        let message = inner.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        Refusal::field(field(&path, message), format!("{message}."))
    })?;
    json.end().map_err(|e| Refusal::new(ErrorCode::JsonError, format!("The body is not JSON: {e}.")))?;
    Ok(value)
}

/// The path of the field that is wrong. For one that is missing, serde tells the path of what it is
/// missing from.
fn field(path: &str, message: &str) -> String {
    let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    match (path, missing) {
        (".", Some(name)) => name.to_owned(),
        (path, Some(name)) => format!("{path}.{name}"),
        (path, None) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use berth_model::agent::VmSpec;
    use serde_json::{Value, json};

    use super::*;

    fn spec() -> serde_json::Value {
        json!({
            "vcpus": 1, "memory": 134_217_728, "disk": 1_073_741_824, "power": "on",
            "image": {"sha256": "a".repeat(64)},
            "nics": [{"mac": "52:54:00:00:00:01", "addresses": []}],
            "seed": {"hostname": "a", "ssh_keys": [], "root_password_hash": null, "user_data": null, "name_servers": []},
        })
    }

    #[test]
    fn a_wrong_field_is_named() {
        type Change = fn(&mut serde_json::Value);
        let cases: [(&str, Change); 7] = [
            ("vcpus", |s| s["vcpus"] = json!("two")),
            ("vcpus", |s| s["vcpus"] = json!(-1)),
            ("color", |s| s["color"] = json!("red")),
            ("memory", |s| drop(s.as_object_mut().unwrap().remove("memory"))),
            ("nics[0].mac", |s| s["nics"][0]["mac"] = json!(7)),
            ("seed.hostname", |s| drop(s["seed"].as_object_mut().unwrap().remove("hostname"))),
            ("nics[0].speed", |s| s["nics"][0]["speed"] = json!(1)),
        ];
        for (name, change) in cases {
            let mut body = spec();
            change(&mut body);
            let refusal = parse::<VmSpec>(body.to_string().as_bytes()).unwrap_err();
            assert_eq!(refusal.0.code, ErrorCode::InvalidInput);
            assert!(refusal.0.for_field(name).is_some(), "{name}: {refusal:?}");
        }
        assert!(parse::<VmSpec>(spec().to_string().as_bytes()).is_ok());
    }

    #[test]
    fn what_is_not_json_is_said_so() {
        for body in ["", "{", "{\"vcpus\": 1,}", &format!("{}x", spec())] {
            assert_eq!(parse::<VmSpec>(body.as_bytes()).unwrap_err().0.code, ErrorCode::JsonError, "{body}");
        }
    }

    /// Throws at the request of each function what its schema describes, and that with a field too many, a value
    /// of another type, and mangled.
    struct Thrower {
        list: crate::functions::List,
        taken: usize,
        refused: usize,
    }

    impl berth_model::agent::function::Visitor for Thrower {
        fn visit<F: berth_model::agent::function::Function>(&mut self) {
            let listed = self.list.functions.iter().find(|listed| listed.name == F::NAME).unwrap();
            let Some(schema) = listed.request.clone() else { return };
            for round in 1..40 {
                let mut number = crate::fuzz::numbers(round * 0x9e37_79b9);
                let good = crate::fuzz::value_of(&schema, &self.list.schemas, 0, &mut number);
                let is_taken = self.throw::<F>(&good);
                let mut more = good.clone();
                more["one-too-many"] = json!(1);
                let refused = parse::<F::Request>(more.to_string().as_bytes());
                let refused = refused.err().unwrap_or_else(|| panic!("{} takes {more}", F::NAME));
                if is_taken {
                    assert!(refused.0.for_field("one-too-many").is_some(), "{}: {refused:?}", F::NAME);
                }
                let fields: Vec<String> =
                    good.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
                for name in fields {
                    for odd in [json!([[]]), json!({"a": {}}), json!("\u{0}"), json!(1e300), Value::Null] {
                        let mut odd_one = good.clone();
                        odd_one[&name] = odd;
                        self.throw::<F>(&odd_one);
                    }
                }
                let text = good.to_string();
                let cut = (0..=text.len())
                    .filter(|at| text.is_char_boundary(*at))
                    .nth(round as usize % text.len().max(1));
                let _read = parse::<F::Request>(&text.as_bytes()[..cut.unwrap_or(0)]);
                let _read = parse::<F::Request>(&number().to_be_bytes());
            }
        }
    }

    impl Thrower {
        /// Is it taken? If not, the field is named.
        fn throw<F: berth_model::agent::function::Function>(&mut self, request: &Value) -> bool {
            let Err(refused) = parse::<F::Request>(request.to_string().as_bytes()) else {
                self.taken += 1;
                return true;
            };
            self.refused += 1;
            assert_eq!(refused.0.code, ErrorCode::InvalidInput, "{}: {request}: {refused:?}", F::NAME);
            let said = serde_json::to_value(&refused.0).unwrap();
            let field = &said["details"]["fields"][0];
            assert_ne!(field["name"].as_str().unwrap_or_default(), "", "{}: {said}", F::NAME);
            assert!(
                field["messages"][0].as_str().is_some_and(|why| why.ends_with('.')),
                "{}: {said}",
                F::NAME
            );
            false
        }
    }

    #[test]
    fn no_request_breaks_the_agent_and_what_is_wrong_is_named() {
        let list = crate::functions::List::new();
        let mut thrower = Thrower { list, taken: 0, refused: 0 };
        berth_model::agent::function::visit_all(&mut thrower);
        assert!(thrower.taken > 1000 && thrower.refused > 1000, "{} {}", thrower.taken, thrower.refused);
    }
}
