//! Image files on their way in and out.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use berth_model::agent::{ImageFile, ImageFileList, ImageFormat, VmImage, VmSpec};
use berth_model::error::ApiError;
use berth_model::{ByteSize, ErrorCode, VmId};
use bytes::Bytes;
use reqwest::{Body, Method};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::support::{Agent, PATIENCE, answer, spec};

/// A qcow2 file with a disk of 1 GiB, and bytes behind its head.
fn qcow2(length: usize) -> Vec<u8> {
    let mut file = vec![7; length];
    file[..104].fill(0);
    file[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    file[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
    file
}

fn checksum(file: &[u8]) -> String {
    hex::encode(Sha256::digest(file))
}

async fn import(agent: &Agent, sha256: &str, file: impl Into<Body>) -> Result<ImageFile, ApiError> {
    let request = agent.request(Method::PUT, &format!("/v1/images/{sha256}")).body(file);
    answer(request.send().await.unwrap()).await
}

/// What is in the store's folder.
fn files(agent: &Agent) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(agent.home.path().join("images")).unwrap();
    folder.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn an_image_comes_in_once_and_goes_when_nobody_uses_it() {
    let _proof = berth_agent::proof::driver(&["image.list", "image.delete"]);
    let agent = Agent::start().await;
    let file = qcow2(3_000_000);
    let sha256 = checksum(&file);
    let wanted = ImageFile {
        format: ImageFormat::Qcow2,
        used_by_volumes: vec![],
        sha256: sha256.clone(),
        file_size: ByteSize(3_000_000),
        disk_size: ByteSize::gib(1),
        used_by: vec![],
    };
    assert_eq!(import(&agent, &sha256, file.clone()).await.unwrap(), wanted);
    assert_eq!(import(&agent, &sha256, file.clone()).await.unwrap(), wanted, "told twice is fine");
    assert_eq!(std::fs::read(&files(&agent)[0]).unwrap(), file);

    let on_it = VmSpec { image: VmImage { sha256: sha256.clone() }, ..spec() };
    agent.put_vm(3, &on_it).await.unwrap();
    let list: ImageFileList = agent.get("/v1/images").await;
    assert_eq!(list.images, [ImageFile { used_by: vec![VmId(3)], ..wanted }]);
    let delete = || agent.request(Method::DELETE, &format!("/v1/images/{sha256}")).send();
    let refused = answer::<()>(delete().await.unwrap()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert!(refused.message.contains("VM 3"), "{refused:?}");

    agent.request(Method::DELETE, "/v1/vms/3").send().await.unwrap();
    answer::<()>(delete().await.unwrap()).await.unwrap();
    answer::<()>(delete().await.unwrap()).await.expect("told twice is fine");
    assert_eq!(files(&agent), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_file_that_is_not_what_it_says_leaves_nothing() {
    let agent = Agent::start().await;
    let file = qcow2(100_000);
    let refused = import(&agent, &"c".repeat(64), file.clone()).await.unwrap_err();
    assert!(refused.for_field("sha256").unwrap().contains(&checksum(&file)), "{refused:?}");
    let mut backed = file;
    backed[15] = 200;
    for (what, file) in [("backed", backed), ("another kind", vec![1; 1000]), ("empty", vec![])] {
        let refused = import(&agent, &checksum(&file), file).await.unwrap_err();
        assert!(refused.for_field("file").is_some(), "{what}: {refused:?}");
    }
    assert_eq!(files(&agent), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn an_upload_that_is_cut_off_leaves_nothing() {
    let agent = Agent::start().await;
    let file = qcow2(1_000_000);
    let head =
        format!("PUT /v1/images/{} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n", checksum(&file));
    let mut stream = tokio::net::UnixStream::connect(agent.home.path().join("agent.sock")).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&file[..500_000]).await.unwrap();
    wait_until("the upload has begun", || !files(&agent).is_empty()).await;
    drop(stream);
    wait_until("nothing is left", || files(&agent).is_empty()).await;
}

#[tokio::test]
async fn an_upload_that_stands_still_is_given_up() {
    let agent = Agent::start_with(|config| config.limits.upload_silence = Duration::from_millis(50)).await;
    let file = qcow2(1_000_000);
    let begun = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::copy_from_slice(&file[..1000]))]);
    let still = futures_util::StreamExt::chain(begun, futures_util::stream::pending());
    let refused = import(&agent, &checksum(&file), Body::wrap_stream(still)).await.unwrap_err();
    assert!(refused.for_field("file").unwrap().contains("stood still"), "{refused:?}");
    assert_eq!(files(&agent), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn what_a_crash_left_of_an_upload_is_cleared_away() {
    let agent = Agent::start_with(|config| {
        std::fs::create_dir_all(config.images_dir()).unwrap();
        std::fs::write(config.images_dir().join(".abc.part"), "half").unwrap();
        std::fs::write(config.images_dir().join("readme.txt"), "an operator's note").unwrap();
    })
    .await;
    assert_eq!(files(&agent), [agent.home.path().join("images/readme.txt")]);
    assert!(agent.get::<ImageFileList>("/v1/images").await.images.is_empty());
}

#[tokio::test]
async fn an_image_is_not_deleted_under_a_vm_that_is_being_made() {
    let _proof = berth_agent::proof::driver(&["image.delete"]);
    let agent = Agent::start().await;
    let file = qcow2(1000);
    let sha256 = checksum(&file);
    import(&agent, &sha256, file).await.unwrap();
    agent.gate.shut_for("put");
    let on_it = VmSpec { image: VmImage { sha256: sha256.clone() }, ..spec() };
    let delete = async {
        agent.gate.until_waiting("put", 1).await;
        let response = agent.request(Method::DELETE, &format!("/v1/images/{sha256}")).send().await.unwrap();
        agent.gate.open();
        answer::<()>(response).await.unwrap_err()
    };
    let (refused, made) = tokio::join!(delete, agent.put_vm(1, &on_it));
    assert_eq!(refused.code, ErrorCode::Conflict);
    made.unwrap();
    assert_eq!(files(&agent).len(), 1);
}

async fn wait_until(what: &str, fine: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !fine() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
