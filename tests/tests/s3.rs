//! Snapshots in a bucket: on a real S3 server, over its own protocol, with keys from the environment.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tally_tests::Folder;
use tally_tests::fold::{assert_state_is_fold_of_log, state};
use tally_tests::load::Load;
use tokio::net::TcpListener;

const KEY: &str = "a-key";
const SECRET: &str = "a-secret-of-the-bucket";

/// An S3 server whose buckets are folders; it ends with the test.
fn serve(root: &Path) -> SocketAddr {
    let (bound, address) = mpsc::channel();
    let buckets = FileSystem::new(root).expect("a folder");
    let mut service = S3ServiceBuilder::new(buckets);
    service.set_auth(SimpleAuth::from_single(KEY, SECRET));
    let service = service.build();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            bound.send(address).expect("the test waits");
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let service = service.clone();
                runtime.spawn(async move {
                    let builder = Builder::new(TokioExecutor::new());
                    let served = builder.serve_connection(TokioIo::new(stream), service);
                    let _ = served.await;
                });
            }
        });
    });
    address.recv().expect("the server is up")
}

fn on_s3(server: SocketAddr, secret: &str) -> Folder {
    Folder::new()
        .with("TALLY__LOG__PARTITIONS", "4")
        .with("TALLY__LOG__SEGMENT_SIZE", "64 KiB")
        .with("TALLY__SNAPSHOTS__URL", "s3://bucket/of/ours")
        .with("AWS_ENDPOINT", format!("http://{server}"))
        .with("AWS_ALLOW_HTTP", "true")
        .with("AWS_REGION", "us-east-1")
        .with("AWS_ACCESS_KEY_ID", KEY)
        .with("AWS_SECRET_ACCESS_KEY", secret)
}

/// Protects a lost state whose snapshots are in a bucket, and the log that was cut off for them.
#[test]
fn a_lost_state_comes_back_from_a_bucket() {
    let root = tempfile::tempdir().expect("a folder");
    fs::create_dir(root.path().join("bucket")).expect("a bucket");
    let folder = on_s3(serve(root.path()), SECRET);
    let mut server = folder.start();
    let load = Load::start(server.api(), 4);
    load.answers(1_000);
    let taken = folder.run(&["snapshot", "create"]).json_lines();
    assert!(!taken.is_empty());
    load.answers(300);
    let removed = folder.run(&["log", "truncate", "--yes"]).json_lines();
    let removed = removed.last().expect("a line");
    assert!(removed["removed_records"].as_u64() > Some(0), "{removed}");
    drop(load.stop());
    server.wait_until_quiet();
    let digest = state(&folder).digest;
    server.kill();
    fs::remove_dir_all(folder.data_dir().join("state")).expect("it is there");
    let server = folder.start();
    server.wait_until_quiet();
    assert_eq!(state(&folder).digest, digest);
    assert!(folder.run(&["snapshot", "check"]).status.success());
    let listed = folder.run(&["snapshot", "list"]).json_lines();
    assert_eq!(listed.len(), taken.len());
    assert!(root.path().join("bucket/of/ours").is_dir());
    server.stop();
}

/// Protects the keys: what a bucket refuses is said, without them, and the server serves all the same.
#[test]
fn a_bucket_that_refuses_is_said_to_and_no_secret_is() {
    let root = tempfile::tempdir().expect("a folder");
    fs::create_dir(root.path().join("bucket")).expect("a bucket");
    let wrong = "another-secret-than-the-buckets";
    let folder = on_s3(serve(root.path()), wrong);
    let server = folder.start();
    assert_eq!(server.interact("quest", 42, "view").status, 200);
    let refused = folder.run(&["snapshot", "create"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("s3://bucket/of/ours"),
        "{refused:?}"
    );
    let errors = server.metrics();
    assert!(errors.sum("tally_projector_snapshot_errors_total", &[]) > 0.0);
    assert!(!refused.stderr.contains(wrong), "{refused:?}");
    assert!(!server.output().contains(wrong));
    server.stop();
    assert_state_is_fold_of_log(&folder);
}
