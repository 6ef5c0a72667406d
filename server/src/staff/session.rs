//! A sign-in that is kept on a machine.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use berth_model::ErrorBody;
use reqwest::header::{COOKIE, ORIGIN, SET_COOKIE};
use reqwest::{Client, Method, RequestBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::http::Origin;

/// The session's cookie.
const NAME: &str = "berth_session";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most pages of a list that are read.
const PAGES_MAX: u32 = 1000;

/// Who is signed in where.
#[derive(Serialize, Deserialize)]
pub struct Session {
    url: String,
    secret: String,
}

/// Where the sign-in is kept.
///
/// # Errors
/// When there is no home folder.
pub fn file() -> anyhow::Result<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
    let folder = config.filter(|path| path.is_absolute()).or_else(home);
    Ok(folder.context("HOME is not set: where should the sign-in be kept?")?.join("berth/staff.json"))
}

fn client() -> anyhow::Result<Client> {
    Ok(Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build()?)
}

impl Session {
    /// Signs in.
    ///
    /// # Errors
    /// With what the API said, or why it was not reached.
    pub async fn begin(url: Origin, email: &str, password: &str) -> anyhow::Result<Self> {
        let (url, form) = (url.to_string(), json!({"email": email, "password": password}));
        let request = client()?.post(format!("{url}/v1/session")).header(ORIGIN, &url).json(&form);
        let answer = request.send().await.with_context(|| format!("{url} was not reached"))?;
        let cookies = answer.headers().get_all(SET_COOKIE).iter().filter_map(|cookie| cookie.to_str().ok());
        let mut secrets =
            cookies.filter_map(|cookie| cookie.strip_prefix(NAME)?.strip_prefix('=')?.split(';').next());
        let secret = secrets.next().map(str::to_owned);
        read(answer).await?;
        Ok(Self { url, secret: secret.context("the answer to a sign-in has no session")? })
    }

    /// Reads what [`Session::write`] wrote.
    ///
    /// # Errors
    /// When nobody is signed in.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(file).context("Nobody is signed in here: `berth staff sign-in` first")?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged: sign in again", file.display()))
    }

    /// Keeps it, for its owner's eyes only.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let folder = file.parent().context("a file has a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let fresh = file.with_extension("new");
        drop(std::fs::remove_file(&fresh));
        let mut open = std::fs::OpenOptions::new();
        let mut written = open.write(true).create_new(true).mode(0o600).open(&fresh)?;
        written.write_all(&serde_json::to_vec(self)?)?;
        std::fs::rename(&fresh, file).with_context(|| format!("writing {}", file.display()))
    }

    /// Signs out.
    ///
    /// # Errors
    /// With what the API said, or why it was not reached.
    pub async fn end(&self) -> anyhow::Result<()> {
        self.call(Method::DELETE, "session", None).await.map(drop)
    }

    /// One call of the API; `path` is below `/v1/`.
    ///
    /// # Errors
    /// With what the API said, or why it was not reached.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let request = self.request(&client()?, method, path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.with_context(|| format!("{} was not reached", self.url))?;
        read(answer).await
    }

    /// A list with all its pages.
    ///
    /// # Errors
    /// With what the API said, or why it was not reached.
    pub async fn all(&self, path: &str, field: &str) -> anyhow::Result<Value> {
        let glue = if path.contains('?') { '&' } else { '?' };
        let mut whole = Value::Null;
        for page in 1..=PAGES_MAX {
            let one = self.call(Method::GET, &format!("{path}{glue}page={page}&per_page=50"), None).await?;
            let is_last = one["meta"]["pagination"]["next_page"].is_null();
            match (whole[field].as_array_mut(), one[field].as_array()) {
                (Some(list), Some(more)) => list.extend(more.iter().cloned()),
                _ => whole = one,
            }
            if is_last {
                return Ok(whole);
            }
        }
        bail!("The list has more than {PAGES_MAX} pages.")
    }

    fn request(&self, client: &Client, method: Method, path: &str) -> RequestBuilder {
        let request = client.request(method, format!("{}/v1/{path}", self.url));
        // Our own pages write with a cookie, and so do we.
        request.header(ORIGIN, &self.url).header(COOKIE, format!("{NAME}={}", self.secret))
    }
}

async fn read(answer: reqwest::Response) -> anyhow::Result<Value> {
    let (status, text) = (answer.status(), answer.text().await?);
    if status.is_success() {
        return Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? });
    }
    let error = serde_json::from_str::<ErrorBody>(&text).map(|body| body.error);
    let error = error.with_context(|| format!("an answer that is not the API's, {status}"))?;
    ensure!(error.code != berth_model::ErrorCode::Unauthorized, "{} Sign in again.", error.message);
    bail!("{}", error.message)
}
