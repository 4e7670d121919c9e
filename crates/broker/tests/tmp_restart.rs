#![allow(clippy::unwrap_used, unreachable_pub)]
mod harness;
use harness::*;
use proto::topology::Stage;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
#[tokio::test]
async fn restart() {
    let rabbit = Rabbit::new();
    let broker = rabbit.connect().await;
    let start = Instant::now();
    let b2 = broker.clone();
    let publishing = async move {
        let mut n = 0u32; let mut errs = 0; let mut last_err = String::new();
        while start.elapsed() < Duration::from_secs(40) {
            loop { match b2.publish(Stage::Form, text(&n.to_string())).await { Ok(()) => break, Err(e) => { errs += 1; last_err = e.to_string(); tokio::time::sleep(Duration::from_millis(20)).await } } }
            n += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("published {n} errors {errs} {last_err}");
        b2.publish(Stage::Form, text("end")).await.unwrap();
        n
    };
    let consuming = async {
        let mut c = broker.consume(Stage::Form, 4).await.unwrap();
        let mut seen = BTreeSet::new(); let mut dup = 0; let mut gap = Duration::ZERO; let mut last = Instant::now();
        loop { let d = next(&mut c).await; gap = gap.max(last.elapsed()); last = Instant::now(); let p = payload(&d).to_owned(); d.ack().await; if p == "end" { break } if !seen.insert(p) { dup += 1 } }
        println!("seen {} dup {dup} longest gap {gap:?}", seen.len());
        seen.len()
    };
    let (n, seen) = tokio::join!(publishing, consuming);
    println!("missing {}", n as usize - seen);
    broker.close().await;
    rabbit.clean().await;
}
