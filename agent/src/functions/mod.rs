//! The agent's functions: what [`berth_model::agent::function`] lists, each tied to what carries it out.
//!
//! ```text
//! route ─► target from the path, request from the body ─► faults? ─► work (claim, run, thread) ─► answer
//! ```
//!
//! A function is tied in the file of its room ([`machines`], [`images`], …) in one of three ways:
//! [`Functions::read`] looks on a blocking thread, [`Functions::change`] changes something there, under a
//! claim and with a [run](crate::runs), and [`Functions::answer`] answers from what the async side knows.

mod backups;
mod consoles;
mod guest;
mod images;
mod machines;
mod moving;
mod network;
mod node;
mod sizes;
mod snapshots;
mod volumes;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequest, RawPathParams, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Extension, Json, RequestExt};
use berth_model::agent::Nothing;
use berth_model::agent::function::{
    self, Function, Kind, Method, Target, Visitor, firewall, image, nic, vm, volume,
};
use berth_model::error::ApiError;
use berth_model::{FieldError, VmId};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use crate::api::extract::JsonBody;
use crate::api::{Api, Caller};
use crate::error::Refusal;
use crate::runs::Cx;
use crate::work::{Asked, Outcome};

/// Functions on a VM that leave its disk alone, and do not start or stop it: they go on while its disk is copied. Of
/// `vm.put` that is found out when it is asked.
const LEAVE_DISK: [&str; 13] = [
    vm::Put::NAME,
    vm::Rename::NAME,
    vm::Autostart::NAME,
    vm::BootOrder::NAME,
    vm::IsoAttach::NAME,
    vm::IsoEject::NAME,
    vm::Limits::NAME,
    nic::Attach::NAME,
    nic::Detach::NAME,
    firewall::Set::NAME,
    firewall::Remove::NAME,
    volume::Attach::NAME,
    volume::Detach::NAME,
];
/// Functions that read a VM's disk for long, and leave all else of it to others.
const COPY_DISK: [&str; 1] = [image::FromDisk::NAME];

/// Longest that a caller may wish to wait.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// The functions, as they are tied.
#[derive(Default)]
pub struct Functions {
    routes: BTreeMap<&'static str, MethodRouter<Api>>,
    tied: Vec<&'static str>,
}

/// All of them, tied.
pub fn all() -> Functions {
    let mut functions = Functions::default();
    node::tie(&mut functions);
    machines::tie(&mut functions);
    consoles::tie(&mut functions);
    images::tie(&mut functions);
    backups::tie(&mut functions);
    moving::tie(&mut functions);
    network::tie(&mut functions);
    volumes::tie(&mut functions);
    snapshots::tie(&mut functions);
    sizes::tie(&mut functions);
    guest::tie(&mut functions);
    functions
}

/// For requests in which nothing can be wrong that their types do not say.
pub fn no_faults<R>(_: &R) -> Vec<FieldError> {
    Vec::new()
}

impl Functions {
    /// The routes.
    pub fn router(self) -> Router<Api> {
        self.routes.into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route))
    }

    /// Ties a function that looks, on a blocking thread.
    pub fn read<F: Function>(
        &mut self,
        call: impl Fn(&Api, &F::Target, F::Request) -> Result<F::Answer, Refusal> + Clone + Send + Sync + 'static,
    ) {
        self.answer::<F, _>(move |api, target, request| {
            let call = call.clone();
            async move {
                let inner = api.clone();
                api.work.read(F::NAME, move || call(&inner, &target, request)).await
            }
        });
    }

    /// Ties a function that changes something, on a blocking thread. `faults` says what is wrong with a
    /// request, before anything is touched.
    pub fn change<F: Function>(
        &mut self,
        faults: impl Fn(&F::Request) -> Vec<FieldError> + Clone + Send + Sync + 'static,
        call: impl Fn(&Api, &Cx, &F::Target, F::Request) -> Result<F::Answer, Refusal>
        + Clone
        + Send
        + Sync
        + 'static,
    ) {
        self.route::<F, _>(move |api, caller, headers, target, request| {
            let (faults, call) = (faults.clone(), call.clone());
            async move {
                let faults = faults(&request);
                if !faults.is_empty() {
                    return Err(Refusal(ApiError::fields(faults)));
                }
                let words = serde_json::to_string(&request).map_err(|e| Refusal::own("The request", &e))?;
                let on = thing::<F>(&target);
                let things = things(F::NAME, &on);
                let asked = Asked {
                    function: F::NAME,
                    kind: F::KIND,
                    on,
                    words,
                    by: caller.to_string(),
                    wait: wait(&headers),
                };
                let inner = api.clone();
                let answer = move |cx: &Cx| json(&call(&inner, cx, &target, request)?);
                Ok(match api.work.change(asked, things, answer).await? {
                    Outcome::Done(answer) => done(answer),
                    Outcome::GoesOn(run) => (StatusCode::ACCEPTED, Json(run)).into_response(),
                })
            }
        });
    }

    /// Ties a function that the async side answers.
    pub fn answer<F: Function, R>(
        &mut self,
        call: impl Fn(Api, F::Target, F::Request) -> R + Clone + Send + Sync + 'static,
    ) where
        R: Future<Output = Result<F::Answer, Refusal>> + Send,
    {
        self.route::<F, _>(move |api, _, _, target, request| {
            let answer = call(api, target, request);
            async move { Ok(done(json(&answer.await?)?)) }
        });
    }

    fn route<F: Function, R>(
        &mut self,
        call: impl Fn(Api, Caller, HeaderMap, F::Target, F::Request) -> R + Clone + Send + Sync + 'static,
    ) where
        R: Future<Output = Result<Response, Refusal>> + Send,
    {
        let handler =
            move |State(api): State<Api>, Extension(caller): Extension<Caller>, mut request: Request| {
                let call = call.clone();
                async move {
                    let target = target::<F>(&mut request).await?;
                    let headers = request.headers().clone();
                    let request = body::<F>(request, &api).await?;
                    call(api, caller, headers, target, request).await
                }
            };
        let route = match F::METHOD {
            Method::Get => get(handler),
            Method::Put => put(handler),
            Method::Post => post(handler),
            Method::Delete => delete(handler),
        };
        self.tied.push(F::NAME);
        let before = self.routes.remove(F::PATH).unwrap_or_default();
        self.routes.insert(F::PATH, before.merge(route));
    }
}

async fn target<F: Function>(request: &mut Request) -> Result<F::Target, Refusal> {
    let params: Result<RawPathParams, _> = request.extract_parts().await;
    let params = params.map_err(|e| Refusal::own("The path", &e))?;
    let (names, values): (Vec<_>, Vec<_>) = params.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).unzip();
    F::Target::parse(&values)
        .map_err(|(n, rule)| Refusal::field(names.get(n).map_or("id", String::as_str), rule))
}

async fn body<F: Function>(request: Request, api: &Api) -> Result<F::Request, Refusal> {
    let nothing = std::any::TypeId::of::<F::Request>() == std::any::TypeId::of::<Nothing>();
    if nothing {
        return serde_json::from_str("{}").map_err(|e| Refusal::own("The request", &e));
    }
    JsonBody::from_request(request, api).await.map(|JsonBody(request)| request)
}

/// `VM 7`, for `/v1/vms/{vm}/…`; the function itself where it works on nothing in particular.
fn thing<F: Function>(target: &F::Target) -> String {
    let values = target.values();
    let names = F::PATH.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    match names.zip(&values).next() {
        None => F::NAME.to_owned(),
        Some(("vm", id)) => format!("VM {id}"),
        Some(("sha256", sha256)) => format!("image {sha256}"),
        Some((name, value)) => format!("{name} {value}"),
    }
}

/// What is claimed for a function that works `on` something: of a VM, its disk is a thing of its own.
fn things(function: &str, on: &str) -> Vec<String> {
    let is_vm = on.starts_with("VM ");
    if is_vm && COPY_DISK.contains(&function) {
        vec![disk_of(on)]
    } else if is_vm && !LEAVE_DISK.contains(&function) {
        vec![on.to_owned(), disk_of(on)]
    } else {
        vec![on.to_owned()]
    }
}

fn disk_of(vm: &str) -> String {
    format!("disk of {vm}")
}

/// All that is claimed for a function that may change anything of a VM.
pub fn vm_things(id: VmId) -> Vec<String> {
    let vm = format!("VM {id}");
    let disk = disk_of(&vm);
    vec![vm, disk]
}

/// What is claimed for a function that changes a VM's disk and nothing else of it.
pub fn disk_thing(id: VmId) -> Vec<String> {
    vec![disk_of(&format!("VM {id}"))]
}

/// `Prefer: wait=SECONDS` (RFC 7240, section 4.3).
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let prefers = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut wishes = prefers.flat_map(|value| value.split(','));
    let seconds = wishes.find_map(|wish| wish.trim().strip_prefix("wait=")?.trim().parse().ok());
    seconds.map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX))
}

/// An answer as it is sent: its fields in the order in which its type names them.
fn json(answer: &impl serde::Serialize) -> Result<Bytes, Refusal> {
    serde_json::to_vec(answer).map(Bytes::from).map_err(|e| Refusal::own("The answer", &e))
}

fn done(answer: Bytes) -> Response {
    match &*answer {
        b"{}" => StatusCode::NO_CONTENT.into_response(),
        _ => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
    }
}

/// What is wrong with the values of a path: which, and what it must be.
type Check = fn(&[String]) -> Result<(), (usize, &'static str)>;

/// A function, for lists.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Listed {
    /// `vm.resize`.
    pub name: &'static str,
    /// A sentence.
    pub summary: &'static str,
    /// How it works.
    pub kind: Kind,
    /// `POST`.
    pub method: &'static str,
    /// `/v1/vms/{vm}/resize`.
    pub path: &'static str,
    /// The rest of what is said of it: idempotence, errors.
    pub description: String,
    /// Says what is wrong with the path's values.
    #[serde(skip)]
    pub check: Check,
    /// The schemas, as JSON Schema with `#/components/schemas/` references.
    #[serde(skip)]
    pub request: Option<Value>,
    /// The same of the answer.
    #[serde(skip)]
    pub answer: Option<Value>,
}

/// All functions and the schemas they speak in, as the model lists them.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// In the model's order.
    pub functions: Vec<Listed>,
    /// Schemas by name.
    pub schemas: BTreeMap<String, Value>,
}

impl List {
    /// Reads the model's list.
    pub fn new() -> Self {
        let mut list = Self::default();
        function::visit_all(&mut list);
        list
    }

    fn schema<T: utoipa::ToSchema + 'static>(&mut self) -> Option<Value> {
        if std::any::TypeId::of::<T>() == std::any::TypeId::of::<Nothing>() {
            return None;
        }
        let mut others = Vec::new();
        T::schemas(&mut others);
        let name = T::name().into_owned();
        others.push((name.clone(), T::schema()));
        for (name, schema) in others {
            let schema = serde_json::to_value(schema).expect("a schema is JSON");
            self.schemas.insert(name, schema);
        }
        Some(serde_json::json!({ "$ref": format!("#/components/schemas/{name}") }))
    }
}

impl Visitor for List {
    fn visit<F: Function>(&mut self) {
        let (request, answer) = (self.schema::<F::Request>(), self.schema::<F::Answer>());
        let mut description = String::new();
        for line in F::DOC.iter().skip(1).map(|line| line.trim()) {
            // Paragraphs stay apart, lines of one flow together.
            match (line.is_empty(), description.is_empty()) {
                (true, false) => description.push_str("\n\n"),
                (true, true) => {}
                (false, _) => {
                    let space = if description.is_empty() || description.ends_with('\n') { "" } else { " " };
                    let _infallible = write!(description, "{space}{line}");
                }
            }
        }
        self.functions.push(Listed {
            name: F::NAME,
            summary: F::summary(),
            kind: F::KIND,
            method: F::METHOD.word(),
            path: F::PATH,
            description,
            check: |values| F::Target::parse(values).map(drop),
            request,
            answer,
        });
    }
}

/// The OpenAPI document of the agent.
pub fn openapi() -> Value {
    let list = List::new();
    let mut paths: BTreeMap<&str, serde_json::Map<String, Value>> = BTreeMap::new();
    for function in &list.functions {
        let parameters: Vec<_> = function
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| {
                let kind =
                    if matches!(name, "vm" | "run" | "network" | "volume") { "integer" } else { "string" };
                serde_json::json!({"name": name, "in": "path", "required": true, "schema": {"type": kind}})
            })
            .collect();
        let json = |schema: &Value| serde_json::json!({"application/json": {"schema": schema}});
        let mut responses = serde_json::Map::new();
        match &function.answer {
            None => responses.insert("204".to_owned(), serde_json::json!({"description": "Done."})),
            Some(answer) => responses.insert(
                "200".to_owned(),
                serde_json::json!({"description": "Done.", "content": json(answer)}),
            ),
        };
        if function.kind == Kind::Long {
            let run = serde_json::json!({"$ref": "#/components/schemas/Run"});
            let goes_on = serde_json::json!({"description": "It goes on: ask again in the same words.", "content": json(&run)});
            responses.insert("202".to_owned(), goes_on);
        }
        let error = serde_json::json!({"$ref": "#/components/schemas/ErrorBody"});
        responses.insert(
            "default".to_owned(),
            serde_json::json!({"description": "Refused, or failed.", "content": json(&error)}),
        );
        let mut operation = serde_json::json!({
            "operationId": function.name,
            "summary": function.summary,
            "tags": [function.name.split('.').next().unwrap_or_default()],
            "responses": responses,
        });
        if !function.description.is_empty() {
            operation["description"] = function.description.clone().into();
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(request) = &function.request {
            operation["requestBody"] = serde_json::json!({"required": true, "content": json(request)});
        }
        paths.entry(function.path).or_default().insert(function.method.to_lowercase(), operation);
    }
    let mut list = list;
    list.schema::<berth_model::ErrorBody>();
    list.schema::<berth_model::agent::Run>();
    serde_json::json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Berth agent",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What the control plane says to the agent of a node, over HTTPS with mutual TLS; and \
                            the command line on the node, over a unix socket.",
        },
        "paths": paths,
        "components": { "schemas": list.schemas },
    })
}

/// Shared by the routes' own tests and the command line's.
pub fn tied() -> Vec<&'static str> {
    all().tied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_of_the_list_is_tied_and_no_other() {
        let mut listed: Vec<_> = List::new().functions.iter().map(|function| function.name).collect();
        let mut tied = tied();
        listed.sort_unstable();
        tied.sort_unstable();
        assert_eq!(tied, listed);
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let document = openapi();
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name: String = reference.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(document["components"]["schemas"].get(&name).is_some(), "{name} is missing");
        }
    }

    #[test]
    fn a_caller_says_how_long_it_waits() {
        let headers =
            |text: &'static str| HeaderMap::from_iter([("prefer".parse().unwrap(), text.parse().unwrap())]);
        assert_eq!(wait(&headers("respond-async, wait=5")), Some(Duration::from_secs(5)));
        assert_eq!(wait(&headers("wait=x")), None);
        assert_eq!(wait(&HeaderMap::new()), None);
        assert_eq!(wait(&headers("wait=9999999")), Some(WAIT_MAX));
    }
}
