//! Programs that others wrote for this API, unmodified, on real guests: Debian's `hcloud`, PyPI's `hcloud`, and
//! schemathesis, which sends what nobody would think of.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use berth_end2end::{Hypervisor, Installation, Options, own_machine, wait};
use serde_json::Value;

/// Guests that others reach.
async fn with_guests() -> anyhow::Result<Installation> {
    let options = Options { hypervisor: Hypervisor::Libvirt, on_own_machine: true, ..Options::default() };
    let berth = Installation::start(options).await?;
    berth.node_up().await?;
    Ok(berth)
}

/// What the programs find in their environment.
fn environment(berth: &Installation) -> [(&'static str, String); 2] {
    [("HCLOUD_ENDPOINT", format!("{}/v1", berth.base(0))), ("HCLOUD_TOKEN", berth.token.clone())]
}

/// A program of the Python environment for clients.
fn python(program: &str) -> anyhow::Result<Command> {
    let folder = std::env::var_os("BERTH_TEST_CLIENTS")
        .context("BERTH_TEST_CLIENTS is not set: run this through `cargo xtask test end2end`")?;
    Ok(Command::new(Path::new(&folder).join("bin").join(program)))
}

/// Runs it to its end, and gives what it said.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| shown.clone())?;
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    ensure!(output.status.success(), "{shown}\n{out}\n{err}");
    Ok(out)
}

#[tokio::test(flavor = "multi_thread")]
async fn pypis_hcloud_lives_a_servers_whole_life() -> anyhow::Result<()> {
    if !own_machine::is_here("pypis_hcloud_lives_a_servers_whole_life")? {
        return Ok(());
    }
    let berth = with_guests().await?;
    let life = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/life.py");
    let said = said(python("python3")?.arg(life).envs(environment(&berth)))?;
    ensure!(said.ends_with("lived\n"), "{said}");
    print!("{said}");
    Ok(())
}

/// Debian's `hcloud`.
struct Hcloud<'a>(&'a Installation);

impl Hcloud<'_> {
    fn run(&self, words: &str) -> anyhow::Result<String> {
        let words = words.split_whitespace();
        // Without a folder of its own it would read the settings of whoever runs the tests.
        let home = self.0.folder();
        said(Command::new("hcloud").args(words).env("HOME", home).envs(environment(self.0)))
    }

    fn describe(&self, what: &str, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.run(&format!("{what} describe {name} -o json"))?)?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debians_hcloud_lives_a_servers_whole_life() -> anyhow::Result<()> {
    if !own_machine::is_here("debians_hcloud_lives_a_servers_whole_life")? {
        return Ok(());
    }
    let berth = with_guests().await?;
    let hcloud = Hcloud(&berth);
    let status = |name: &str| anyhow::Ok(hcloud.describe("server", name)?["status"].clone());

    hcloud.run("network create --name inner --ip-range 10.99.0.0/16")?;
    hcloud.run("network add-subnet inner --type cloud --network-zone eu-west --ip-range 10.99.1.0/24")?;
    hcloud.run("server create --name web --type t1 --image tiny --location rtm1 --label role=web")?;
    ensure!(status("web")? == "running");
    let address = hcloud.run("server ip web")?;
    // A guest that is not up yet does not hear when it is asked to end.
    let page = format!("exec 3<>/dev/tcp/{}/80", address.trim());
    let answers = ["netns", "exec", "outside", "timeout", "1", "bash", "-c", &page];
    wait::until("the guest answers", async || Ok(said(Command::new("ip").args(answers)).ok())).await?;
    ensure!(hcloud.run("server list -l role=web -o noheader -o columns=name,ipv4")?.contains(address.trim()));

    for (word, after) in
        [("shutdown", "off"), ("poweron", "running"), ("reboot", "running"), ("poweroff", "off")]
    {
        hcloud.run(&format!("server {word} web"))?;
        // A guest that is asked to end takes its time.
        let there = async || Ok((status("web")? == after).then_some(()));
        wait::until(&format!("after {word} it is {after}"), there).await?;
    }
    hcloud.run("server change-type --keep-disk web t2")?;
    ensure!(hcloud.describe("server", "web")?["server_type"]["name"] == "t2");
    hcloud.run("server poweron web")?;
    hcloud.run("server create-image --type snapshot --description before web")?;
    ensure!(hcloud.run("image list -t snapshot -o noheader")?.contains("before"));
    hcloud.run("server rebuild --image tiny web")?;
    ensure!(hcloud.run("server ip web")? == address, "a rebuilt server keeps its address");

    hcloud.run("volume create --name data --size 10 --server web --format ext4")?;
    ensure!(hcloud.describe("volume", "data")?["server"] == hcloud.describe("server", "web")?["id"]);
    hcloud.run("volume resize --size 11 data")?;
    hcloud.run("volume detach data")?;
    hcloud.run("volume attach --server web data")?;
    hcloud.run("volume detach data")?;
    hcloud.run("volume delete data")?;

    hcloud.run("server attach-to-network --network inner --ip 10.99.1.7 web")?;
    ensure!(hcloud.describe("server", "web")?["private_net"][0]["ip"] == "10.99.1.7");
    hcloud.run("server detach-from-network --network inner web")?;

    hcloud.run("firewall create --name front")?;
    hcloud.run("firewall add-rule front --direction in --protocol tcp --port 22 --source-ips 0.0.0.0/0")?;
    hcloud.run("firewall apply-to-resource --type server --server web front")?;
    let firewalls = &hcloud.describe("server", "web")?["public_net"]["firewalls"];
    ensure!(firewalls[0]["status"] == "applied", "{firewalls}");
    hcloud.run("firewall remove-from-resource --type server --server web front")?;
    hcloud.run("firewall delete front")?;

    hcloud.run("floating-ip create --type ipv4 --home-location rtm1 --name service")?;
    hcloud.run("floating-ip assign service web")?;
    ensure!(hcloud.run("floating-ip list -o noheader")?.contains("web"));
    hcloud.run("floating-ip unassign service")?;
    hcloud.run("floating-ip delete service")?;

    hcloud.run("server metrics --type cpu web")?;
    hcloud.run("server request-console web")?;
    hcloud.run("server enable-rescue web")?;
    hcloud.run("server disable-rescue web")?;
    hcloud.run("server enable-protection web delete rebuild")?;
    ensure!(hcloud.run("server delete web").is_err(), "it is protected");
    hcloud.run("server disable-protection web delete rebuild")?;
    hcloud.run("server add-label web tier=front")?;
    hcloud.run("server set-rdns web --hostname web.example.com")?;
    hcloud.run("server delete web")?;
    hcloud.run("network delete inner")?;
    let gone = async || Ok(hcloud.run("server list -o noheader")?.trim().is_empty().then_some(()));
    wait::until("the server is gone", gone).await?;
    ensure!(hcloud.run("load-balancer list -o noheader").is_err(), "there are none yet, and it says so");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_answer_that_the_document_does_not_tell() -> anyhow::Result<()> {
    let berth = Installation::start(Options::default()).await?;
    berth.node_up().await?;
    let document = format!("{}/openapi.json", berth.base(0));
    let checks =
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    let said = said(
        python("schemathesis")?
            .current_dir(berth.folder())
            .args(["run", &document, "--checks", checks, "--max-examples", "10", "--seed", "4"])
            .args(["--header", &format!("Authorization: Bearer {}", berth.token)])
            .args(["--workers", "2", "--no-color", "--phases", "examples,fuzzing"]),
    )?;
    println!(
        "{}",
        said.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    );
    Ok(())
}
