//! The commands that handle files: an image on its way in, a console's log.

use std::path::{Path, PathBuf};

use berth_model::VmId;
use berth_model::agent::function::{Function, console};
use berth_model::agent::{ConsoleLog, ConsoleLogRequest, ImageFile};
use clap::{Arg, ArgMatches, Command, value_parser};
use futures_util::TryStreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio_util::io::ReaderStream;

use super::client::{Client, read};
use super::print::{self, Output};
use super::{CliError, Common, run};
use crate::images::checksum;

/// `vm console`.
pub fn console_command() -> Command {
    Command::new("console")
        .about("Print the end of what a VM wrote to its serial port")
        .arg(Arg::new("vm").required(true).help("Its number").value_parser(value_parser!(i64)))
        .arg(
            Arg::new("lines")
                .long("lines")
                .short('n')
                .help("How many lines")
                .default_value("100")
                .value_parser(value_parser!(u32)),
        )
}

/// Prints it.
pub fn console(common: &Common, words: &ArgMatches) -> Result<(), CliError> {
    let id = VmId(words.get_one("vm").copied().unwrap_or_default());
    let request = ConsoleLogRequest { lines: words.get_one("lines").copied() };
    let request = serde_json::to_value(request).map_err(|e| CliError::failed("The request", &e))?;
    let (client, path) = (common.client()?, console::Log::path(&id));
    let (_, log) = run::block_on(client.function(console::Log::METHOD.word(), &path, &request, None))?;
    let log: ConsoleLog = read(&log)?;
    let text =
        |log: &ConsoleLog| log.lines.iter().map(|line| print::harmless(line)).collect::<Vec<_>>().join("\n");
    Output::new(common.json).show(&log, text)
}

/// `image import`.
pub fn import_command() -> Command {
    Command::new("import")
        .about("Copy a qcow2 file into the node's store, under its checksum")
        .arg(Arg::new("file").required(true).help("The file").value_parser(value_parser!(PathBuf)))
}

/// Copies it.
pub fn import(common: &Common, words: &ArgMatches) -> Result<(), CliError> {
    let file: &PathBuf = words.get_one("file").ok_or_else(|| CliError::Usage("Which file?".to_owned()))?;
    let image: ImageFile = run::block_on(upload(&common.client()?, file))?;
    Output::new(common.json).show(&image, |image| print::images(std::slice::from_ref(image)))
}

async fn upload(client: &Client, path: &Path) -> Result<ImageFile, CliError> {
    let unread = |e: std::io::Error| CliError::Usage(format!("Cannot read {}: {e}.", path.display()));
    let sha256 = checksum(path).map_err(unread)?;
    let file = tokio::fs::File::open(path).await.map_err(unread)?;
    let length = file.metadata().await.map_err(unread)?.len();
    let body = StreamBody::new(ReaderStream::with_capacity(file, 256 * 1024).map_ok(Frame::data)).boxed();
    client.upload(&format!("/v1/images/{sha256}"), length, body).await
}
