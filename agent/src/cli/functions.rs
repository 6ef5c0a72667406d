//! The API's functions as commands.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use berth_model::VmId;
use berth_model::agent::{ImageFile, ImageFileList, Node, PowerRequest, PowerVerb, Vm, VmList};
use futures_util::TryStreamExt;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;

use super::client::Client;
use super::print::{self, Output};
use super::{Args, CliError, ImageCommand, VmCommand, run};
use crate::clock;

/// Bytes of a serial log that are looked through for its last lines.
const CONSOLE_MAX_BYTES: u64 = 1024 * 1024;

/// `node`.
pub fn node(args: &Args) -> Result<(), CliError> {
    let client = args.client()?;
    let node: Node = block_on(client.get("/v1/node"))?;
    Output::new(args.json).show(&node, print::node)
}

/// `vm …`.
pub fn vm(args: &Args, command: &VmCommand) -> Result<(), CliError> {
    let output = Output::new(args.json);
    let power = |id: i64, verb: PowerVerb| {
        let client = args.client()?;
        let path = format!("/v1/vms/{id}/power");
        let vm: Vm = block_on(client.send(Method::POST, &path, &PowerRequest { verb }))?;
        output.show(&vm, |vm| print::vms(std::slice::from_ref(vm), clock::now()))
    };
    match command {
        VmCommand::List => {
            let list: VmList = block_on(args.client()?.get("/v1/vms"))?;
            output.show(&list, |list| print::vms(&list.vms, clock::now()))
        }
        VmCommand::Get { id } => {
            let vm: Vm = block_on(args.client()?.get(&format!("/v1/vms/{id}")))?;
            output.show(&vm, |vm| print::vms(std::slice::from_ref(vm), clock::now()))
        }
        VmCommand::Put { id, file } => {
            // Sent as it is, so that the agent names what is wrong with it.
            let spec: Value = serde_json::from_str(&spec_text(file)?)
                .map_err(|e| CliError::Usage(format!("{} is not JSON: {e}.", file.display())))?;
            let vm: Vm = block_on(args.client()?.send(Method::PUT, &format!("/v1/vms/{id}"), &spec))?;
            output.show(&vm, |vm| print::vms(std::slice::from_ref(vm), clock::now()))
        }
        VmCommand::Delete { id } => {
            block_on(args.client()?.delete(&format!("/v1/vms/{id}")))?;
            output.say(&format!("VM {id} is gone."))
        }
        VmCommand::Start { id } => power(*id, PowerVerb::Start),
        VmCommand::Shutdown { id } => power(*id, PowerVerb::Shutdown),
        VmCommand::Reboot { id } => power(*id, PowerVerb::Reboot),
        VmCommand::Reset { id } => power(*id, PowerVerb::Reset),
        VmCommand::PowerOff { id } => power(*id, PowerVerb::PowerOff),
        VmCommand::Console { id, lines } => console(args, VmId(*id), *lines),
    }
}

/// `image …`.
pub fn image(args: &Args, command: &ImageCommand) -> Result<(), CliError> {
    let output = Output::new(args.json);
    match command {
        ImageCommand::List => {
            let list: ImageFileList = block_on(args.client()?.get("/v1/images"))?;
            output.show(&list, |list| print::images(&list.images))
        }
        ImageCommand::Import { file } => {
            let image: ImageFile = block_on(import(&args.client()?, file))?;
            output.show(&image, |image| print::images(std::slice::from_ref(image)))
        }
        ImageCommand::Delete { sha256 } => {
            if !crate::spec::is_sha256(sha256) {
                return Err(CliError::Usage(crate::spec::SHA256_RULE.to_owned()));
            }
            block_on(args.client()?.delete(&format!("/v1/images/{sha256}")))?;
            output.say(&format!("Image {sha256} is gone."))
        }
    }
}

async fn import(client: &Client, path: &Path) -> Result<ImageFile, CliError> {
    let unread = |e: std::io::Error| CliError::Usage(format!("Cannot read {}: {e}.", path.display()));
    let sha256 = checksum(path).map_err(unread)?;
    let file = tokio::fs::File::open(path).await.map_err(unread)?;
    let length = file.metadata().await.map_err(unread)?.len();
    let body = StreamBody::new(ReaderStream::with_capacity(file, 256 * 1024).map_ok(Frame::data)).boxed();
    client.upload(&format!("/v1/images/{sha256}"), length, body).await
}

fn checksum(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn spec_text(file: &Path) -> Result<String, CliError> {
    if file == Path::new("-") {
        let text = std::io::read_to_string(std::io::stdin().lock());
        return text.map_err(|e| CliError::Usage(format!("Cannot read standard input: {e}.")));
    }
    run::read_text(file)
}

fn console(args: &Args, id: VmId, lines: usize) -> Result<(), CliError> {
    let path = args.config()?.console_log(id);
    let unread = |e: std::io::Error| CliError::Failed(format!("Cannot read {}: {e}.", path.display()));
    let mut file = std::fs::File::open(&path).map_err(unread)?;
    let length = file.metadata().map_err(unread)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_MAX_BYTES))).map_err(unread)?;
    let mut last = VecDeque::new();
    for line in BufReader::new(file).split(b'\n') {
        last.push_back(line.map_err(unread)?);
        if last.len() > lines {
            last.pop_front();
        }
    }
    let text: Vec<String> = last.iter().map(|line| print::harmless(&String::from_utf8_lossy(line))).collect();
    Output::new(false).say(&text.join("\n"))
}

fn block_on<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    run::runtime(tokio::runtime::Builder::new_current_thread())?.block_on(future)
}
