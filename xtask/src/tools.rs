//! Build tools that Debian does not have, or not in the right version: kept in a cache folder that all
//! checkouts share.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::place::Place;
use crate::progress::Step;
use crate::shell;

const WASM: &str = "wasm32-unknown-unknown";

/// A program that cargo builds.
struct Tool {
    program: &'static str,
    package: &'static str,
    version: &'static str,
    /// Debug builds: they start as fast, work fast enough, and are built in a fifth of the time.
    arguments: &'static [&'static str],
}

/// Trunk 0.22 wants a newer compiler than ours.
const TRUNK: Tool = Tool {
    program: "trunk",
    package: "trunk",
    version: "0.21.14",
    arguments: &["--debug", "--locked", "--no-default-features"],
};

/// Must be exactly the version of the library `wasm-bindgen` in the web app.
const WASM_BINDGEN: Tool = Tool {
    program: "wasm-bindgen",
    package: "wasm-bindgen-cli",
    version: "0.2.130",
    arguments: &["--debug", "--no-default-features"],
};

/// wasm-opt comes with `binaryen`: Debian's is too old for what the compiler writes today.
const NODE_PACKAGES: &[(&str, &str)] =
    &[("binaryen", "132.0.0"), ("esbuild", "0.28.2"), ("playwright-core", "1.65.1")];

/// Packages of Python, in an environment that nothing else uses.
type PythonPackages = &'static [(&'static str, &'static str)];

/// An S3 server for the agent's tests, with what it needs to be a server.
const S3_SERVER: PythonPackages = &[("moto[s3]", "5.2.5"), ("flask", "3.1.3"), ("flask-cors", "6.0.5")];

/// Programs that others wrote for the public API, for the end-to-end tests.
const CLIENTS: PythonPackages = &[("hcloud", "2.27.0"), ("schemathesis", "4.32.5")];

/// Installs what is missing. Quick when nothing is.
pub fn install(place: &Place, step: &Step) -> Result<String> {
    let mut made = Vec::new();
    if install_wasm_target(step)? {
        made.push(WASM);
    }
    for tool in [TRUNK, WASM_BINDGEN] {
        if !is_installed(place, &tool) {
            build(place, step, &tool)?;
            made.push(tool.program);
        }
    }
    if install_node_packages(place, step)? {
        made.push("wasm-opt, esbuild and playwright");
    }
    Ok(if made.is_empty() { "nothing is missing".to_owned() } else { made.join(", ") })
}

/// `PATH` with the tools in front.
pub fn path(place: &Place) -> Result<OsString> {
    let mut folders = vec![place.tools().join("bin"), node_modules(place).join(".bin")];
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    std::env::join_paths(folders).context("The cache folder's path has a colon in it; set XDG_CACHE_HOME.")
}

/// Where node's packages are.
pub fn node_modules(place: &Place) -> PathBuf {
    let versions: Vec<_> = NODE_PACKAGES.iter().map(|(name, version)| format!("{name}-{version}")).collect();
    place.tools().join(versions.join("_")).join("node_modules")
}

/// The S3 server of the agent's tests.
pub fn s3_server(place: &Place) -> PathBuf {
    python(place, S3_SERVER).join("bin/moto_server")
}

/// Where the public API's clients are, with their `bin`.
pub fn clients(place: &Place) -> PathBuf {
    python(place, CLIENTS)
}

fn python(place: &Place, packages: PythonPackages) -> PathBuf {
    let versions: Vec<_> = packages.iter().map(|(name, version)| format!("{name}-{version}")).collect();
    place.tools().join("python").join(versions.join("_").replace(['[', ']'], "-"))
}

/// Installs the S3 server, unless it is there; only the agent's tests need it.
pub fn install_s3_server(place: &Place, step: &Step) -> Result<bool> {
    install_python(place, step, S3_SERVER)
}

/// Installs the public API's clients, unless they are there; only the end-to-end tests need them.
pub fn install_clients(place: &Place, step: &Step) -> Result<bool> {
    install_python(place, step, CLIENTS)
}

fn install_python(place: &Place, step: &Step, packages: PythonPackages) -> Result<bool> {
    let environment = python(place, packages);
    // Written last: what was cut off is made anew.
    let whole = environment.join("whole");
    if whole.is_file() {
        return Ok(false);
    }
    drop(std::fs::remove_dir_all(&environment));
    step.run(shell::command("python3").args(["-m", "venv"]).arg(&environment))?;
    let mut pip = shell::command(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]);
    pip.args(packages.iter().map(|(name, version)| format!("{name}=={version}")));
    step.run(&mut pip)?;
    std::fs::write(whole, "")?;
    Ok(true)
}

fn install_wasm_target(step: &Step) -> Result<bool> {
    let root = shell::output(shell::command("rustc").args(["--print", "sysroot"]))
        .context("There is no Rust toolchain: install one from https://rustup.rs.")?;
    if PathBuf::from(root).join("lib/rustlib").join(WASM).is_dir() {
        return Ok(false);
    }
    step.run(shell::command("rustup").args(["target", "add", WASM])).context(
        "The compiler cannot build for browsers; install Rust with rustup, or add its wasm32 target.",
    )?;
    Ok(true)
}

fn is_installed(place: &Place, tool: &Tool) -> bool {
    let is_right = |program: PathBuf| {
        let version = shell::output(shell::command(program).arg("--version")).unwrap_or_default();
        version.split_whitespace().nth(1) == Some(tool.version)
    };
    // The first on the path is the one that will run.
    is_right(place.tools().join("bin").join(tool.program))
        || (!place.tools().join("bin").join(tool.program).exists()
            && shell::which(tool.program).is_some_and(is_right))
}

fn build(place: &Place, step: &Step, tool: &Tool) -> Result<()> {
    // One for all tools, because they share libraries; gone afterwards, because it is 2 GB.
    let scratch = place.tools().join("build");
    std::fs::create_dir_all(&scratch).with_context(|| format!("Cannot make {}.", scratch.display()))?;
    let mut command = shell::cargo();
    command.args(["install", "--force", "--version", &format!("={}", tool.version)]);
    command.args(tool.arguments).arg(tool.package).arg("--root").arg(place.tools());
    // Settings of this checkout's builds are not meant for the tools.
    command.current_dir(place.tools()).env("CARGO_TARGET_DIR", &scratch).env_remove("RUSTFLAGS");
    let built = step.run(&mut command);
    if tool.program == WASM_BINDGEN.program || built.is_err() {
        std::fs::remove_dir_all(&scratch)?;
    }
    built
}

fn install_node_packages(place: &Place, step: &Step) -> Result<bool> {
    let modules = node_modules(place);
    let here = |(name, _): &(&str, &str)| modules.join(name).join("package.json").is_file();
    if NODE_PACKAGES.iter().all(here) {
        return Ok(false);
    }
    let folder = modules.parent().context("node_modules has a parent")?;
    std::fs::create_dir_all(folder)?;
    // Without a package of its own, npm would look for one in the folders above.
    std::fs::write(folder.join("package.json"), "{\"private\": true}\n")?;
    let mut npm = shell::command("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"]);
    npm.args(NODE_PACKAGES.iter().map(|(name, version)| format!("{name}@{version}")));
    step.run(npm.current_dir(folder))?;
    Ok(true)
}
