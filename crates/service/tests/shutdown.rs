//! Signals, sent to a process of our own: this test program, started again as a child.
#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::time::Duration;

use service::shutdown;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
/// Set in the child: what it does once it is told to stop.
const CHILD: &str = "C2S_TEST_SHUTDOWN_CHILD";

/// Not a test by itself: what the child runs.
#[tokio::test]
async fn child() {
    let Ok(manner) = std::env::var(CHILD) else { return };
    let stop = shutdown::listen().unwrap();
    println!("listening");
    stop.cancelled().await;
    println!("stopping");
    match manner.as_str() {
        "obeys" => std::process::exit(0),
        _ => std::future::pending().await,
    }
}

async fn start(manner: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, manner)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    wait_for(&mut lines, "listening").await;
    (child, lines)
}

async fn wait_for(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) {
    let reading = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(text) {
                return;
            }
        }
        panic!("the child ended before it said {text}");
    };
    timeout(PATIENCE, reading).await.unwrap();
}

async fn send(child: &Child, signal: &str) {
    let id = child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &id])
            .status()
            .await
            .unwrap()
            .success()
    );
}

#[tokio::test]
async fn either_signal_asks_to_stop() {
    for signal in ["-TERM", "-INT"] {
        let (mut child, mut lines) = start("obeys").await;
        send(&child, signal).await;
        wait_for(&mut lines, "stopping").await;
        let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn a_second_interrupt_stops_at_once() {
    for first in ["-INT", "-TERM"] {
        let (mut child, mut lines) = start("lingers").await;
        send(&child, first).await;
        wait_for(&mut lines, "stopping").await;
        // A second SIGTERM is what orchestrators send anyway: it changes nothing.
        send(&child, "-TERM").await;
        assert!(child.try_wait().unwrap().is_none());
        send(&child, "-INT").await;
        let status = timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(shutdown::STOPPED), "{first} first");
    }
}
