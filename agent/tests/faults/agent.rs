//! A real agent on a [`Node`], which may be killed, told to stop at a point, or shown a false clock.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use berth_model::agent::function::{self, Function, Kind, node, run};
use berth_model::agent::{Nothing, Orphan, OrphansRequest};
use berth_model::error::ApiError;
use berth_model::{ErrorBody, ErrorCode};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::libvirt_common::{PATIENCE, false_clock, text, wait_for};
use crate::node::{Node, child_of};
use crate::pki::Pki;

/// The name that a control plane bears.
const CONTROL_PLANE: &str = "control-plane.berth.internal";

/// Why there is no answer.
#[derive(Debug)]
pub enum Failed {
    /// The agent refused, or failed.
    Refused(ApiError),
    /// It is gone, or the way to it.
    Cut(String),
}

impl Failed {
    /// The code and the sentence of a refusal.
    #[track_caller]
    pub fn refusal(self) -> (ErrorCode, String) {
        match self {
            Self::Refused(error) => {
                // With what is said of its fields.
                let words = serde_json::to_string(&error).unwrap();
                (error.code, words)
            }
            Self::Cut(why) => panic!("the agent did not answer: {why}"),
        }
    }
}

/// A function under way.
pub struct Told<A> {
    task: JoinHandle<Result<A, Failed>>,
}

/// An agent's process.
pub struct Agent<'a> {
    pub node: &'a Node,
    process: Child,
    pid: u32,
    runtime: Runtime,
    client: reqwest::Client,
}

impl<'a> Agent<'a> {
    /// Starts it with these fault points.
    pub fn start(node: &'a Node, faults: &str) -> Self {
        Self::start_with(node, faults, |_| ())
    }

    /// Starts it with a clock that [`Agent::set_clock`] moves.
    pub fn with_false_clock(node: &'a Node, faults: &str) -> Self {
        let clock = node.home().join("clock");
        false_clock::set(&clock, 0);
        Self::start_with(node, faults, |command| false_clock::show(command, &clock))
    }

    fn start_with(node: &'a Node, faults: &str, more: impl FnOnce(&mut Command)) -> Self {
        let home = node.home();
        let socket = home.join("agent.sock");
        let config = home.join("agent.toml");
        let words = format!(
            "name = \"node\"\ndata_dir = \"{}\"\nlisten = \"10.99.0.1:7701\"\nsocket = \"{}\"\n\
             log = \"info,berth_agent=debug\"\n[libvirt]\nprefix = \"{}\"\naccelerator = \"qemu\"\n\
             [network]\nmode = \"bridge\"\nbridge = \"br0\"\n[storage]\npromise_percent = 0\nreserve_mib = 0\n",
            home.join("data").display(),
            socket.display(),
            node.prefix,
        );
        fs::write(&config, words).unwrap();
        let log = fs::File::options().create(true).append(true).open(home.join("agent.log")).unwrap();
        let mut command = node.command(env!("CARGO_BIN_EXE_berth-agent"));
        more(&mut command);
        let process = command
            .args(["serve", "--config", text(&config)])
            .env("BERTH_AGENT_FAULTS", faults)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let pid = child_of(process.id());
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let client = reqwest::Client::builder().unix_socket(socket).no_proxy().build().unwrap();
        let agent = Self { node, process, pid, runtime: runtime.unwrap(), client };
        wait_for("the agent", || agent.call::<node::Get>((), &Nothing {}).ok().filter(knows_libvirt));
        agent
    }

    /// Asks for a function and waits for its end; where the agent would pause, it goes on.
    pub fn call<F: Function>(&self, target: F::Target, request: &F::Request) -> Result<F::Answer, Failed> {
        let told = self.begin::<F>(target, request);
        wait_for(F::NAME, || {
            let _ = fs::remove_file(self.marker());
            told.task.is_finished().then_some(())
        });
        told.end(self)
    }

    /// Asks for a function.
    pub fn begin<F: Function>(&self, target: F::Target, request: &F::Request) -> Told<F::Answer> {
        let url = format!("http://agent{}", F::path(&target));
        let request = to_send::<F>(&self.client, &url, request);
        Told { task: self.runtime.spawn(answer::<F>(request)) }
    }

    /// Waits until the newest run of a function has ended; its error.
    pub fn end_of(&self, function: &str) -> Option<ApiError> {
        wait_for("the function's end", || {
            let runs = self.call::<run::List>((), &Nothing {}).unwrap().runs;
            let newest = runs.into_iter().find(|run| run.function == function).unwrap();
            newest.ended.map(|_| newest.error)
        })
    }

    /// Waits until the agent stands at the point that was told to pause.
    pub fn wait_at_point(&self) {
        wait_for("the agent at its point", || self.marker().exists().then_some(()));
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        fs::remove_file(self.marker()).unwrap();
    }

    fn marker(&self) -> PathBuf {
        marker(self.node)
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_end(mut self) {
        wait_for("the agent's end", || self.process.try_wait().unwrap());
    }

    /// Moves the clock by so many seconds.
    pub fn set_clock(&self, ahead_s: i64) {
        false_clock::set(&self.node.home().join("clock"), ahead_s);
    }

    /// What is left over, as the agent says.
    pub fn orphans(&self) -> Vec<Orphan> {
        let request = serde_json::from_str::<OrphansRequest>("{}").unwrap();
        self.call::<node::Orphans>((), &request).unwrap().orphans
    }

    fn end(&mut self) {
        let _ = Command::new("kill").args(["-9", &self.pid.to_string()]).output();
        let _ = self.process.wait();
        let _ = fs::remove_file(self.marker());
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<A: Send + 'static> Told<A> {
    /// Its answer.
    pub fn end(self, agent: &Agent<'_>) -> Result<A, Failed> {
        let ended = agent.runtime.block_on(async { tokio::time::timeout(PATIENCE, self.task).await });
        ended.expect("the agent answers").unwrap()
    }
}

/// The plan that stops an agent at a point until [`Agent::go_on`].
pub fn pause(node: &Node, point: &str) -> String {
    format!("{point}=pause:{}", marker(node).display())
}

fn marker(node: &Node) -> PathBuf {
    node.home().join("marker")
}

fn knows_libvirt(node: &berth_model::agent::Node) -> bool {
    !node.facts.versions.libvirt.is_empty()
}

fn to_send<F: Function>(
    client: &reqwest::Client,
    url: &str,
    request: &F::Request,
) -> reqwest::RequestBuilder {
    let sent = match F::METHOD {
        function::Method::Get => client.get(url),
        function::Method::Put => client.put(url).json(request),
        function::Method::Post => client.post(url).json(request),
        function::Method::Delete => client.delete(url).json(request),
    };
    match F::KIND {
        Kind::Long => sent.header("prefer", "wait=600"),
        Kind::Read | Kind::Change => sent,
    }
}

async fn answer<F: Function>(request: reqwest::RequestBuilder) -> Result<F::Answer, Failed> {
    let cut = |e: reqwest::Error| Failed::Cut(format!("{e:?}"));
    let answer = request.send().await.map_err(cut)?;
    let (status, body) = (answer.status(), answer.bytes().await.map_err(cut)?);
    if !status.is_success() {
        let error = serde_json::from_slice::<ErrorBody>(&body).unwrap().error;
        return Err(Failed::Refused(error));
    }
    assert_ne!(status.as_u16(), 202, "a function takes far too long");
    Ok(serde_json::from_slice(if body.is_empty() { b"{}" } else { &body }).unwrap())
}

/// Makes the node's agent one of a control plane, which speaks from [`Node::plane`].
pub struct ControlPlane {
    pki: Pki,
}

impl ControlPlane {
    /// To be done before the agent starts.
    pub fn enrol(node: &Node) -> Self {
        let pki = Pki::new();
        pki.enrol(&node.data());
        Self { pki }
    }

    /// Asks for a function over the network, and gives up when the connection is cut under it: `cut` is called
    /// once the request was sent.
    pub fn call_and_lose<F: Function>(
        &self,
        node: &Node,
        target: F::Target,
        request: &F::Request,
        cut: impl FnOnce() + Send,
    ) where
        F::Target: Sync,
        F::Request: Sync,
    {
        let ca = reqwest::Certificate::from_pem(self.pki.ca_pem().as_bytes()).unwrap();
        let pair = self.pki.client(CONTROL_PLANE);
        let pem = format!("{}{}", pair.certificate_pem, pair.key_pem);
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([ca])
            .identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap())
            .resolve("node-7.berth.internal", "10.99.0.1:7701".parse().unwrap())
            .build()
            .unwrap();
        let url = format!("https://node-7.berth.internal:7701{}", F::path(&target));
        let sent = to_send::<F>(&client, &url, request);
        node.plane.within(|| {
            // Its thread stands in the network, too.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let runtime = runtime.unwrap();
            let task = runtime.spawn(answer::<F>(sent));
            cut();
            let lost = !task.is_finished();
            task.abort();
            assert!(lost, "the answer came although the network was cut");
        });
    }
}
