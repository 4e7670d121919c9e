//! A short run, and proof that a run notices what it looks for. One test, as memory is counted for the whole process.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use fuzz::check::{Subject, check};
use fuzz::corpus;
use fuzz::inputs::Inputs;
use fuzz::measured;
use fuzz::run::{Check, MAX_ALLOCATED_BYTES, MAX_TIME, Options, Outcome, run};

#[test]
fn a_run_passes_and_notices_faults() {
    let folder = tempfile::tempdir().unwrap();
    let runs = |seconds, most, check: Check| -> Outcome {
        let options = Options {
            seed: 20_240_601,
            time: Duration::from_secs(seconds),
            most,
            folder: folder.path().to_owned(),
        };
        run(&options, check).unwrap()
    };

    let outcome = runs(2, MAX_TIME, check);
    assert!(outcome.failure.is_none(), "{outcome}");
    let figures = outcome.figures;
    assert!(figures.inputs >= corpus::all().len() as u64, "{outcome}");
    assert!(
        (1 << 20..=MAX_ALLOCATED_BYTES).contains(&figures.max_bytes),
        "{outcome}"
    );
    assert!(outcome.to_string().starts_with("fuzz: ok inputs="), "{outcome}");

    let faults: [(Check, &str); 3] = [
        (|_| Err("broken".to_owned()), "rule: broken"),
        (|subject| panic!("{subject:?}"), "panic"),
        (
            |_| {
                drop(vec![0_u8; MAX_ALLOCATED_BYTES + 1]);
                Ok(())
            },
            "memory: ",
        ),
    ];
    for (fault, reason) in faults {
        let outcome = runs(2, MAX_TIME, fault);
        assert!(outcome.to_string().starts_with("fuzz: failed inputs=1 "), "{outcome}");
        let failure = outcome.failure.unwrap();
        assert!(failure.reason.starts_with(reason), "{failure:?}");
        // The file holds the input that the number stands for.
        assert_eq!(
            std::fs::read(&failure.file).unwrap(),
            Inputs::new(20_240_601).input(failure.number).bytes
        );
    }

    let hang: Check = |_| loop {
        std::thread::park();
    };
    let spin: Check = |_| loop {
        std::hint::spin_loop();
    };
    for (fault, most) in [(hang, 20), (spin, 500)] {
        let outcome = runs(2, Duration::from_millis(most), fault);
        let reason = outcome.failure.unwrap().reason;
        assert!(reason.starts_with("hang: "), "{reason}");
    }

    // Faults that need not happen at once.
    let later: Check = |subject| match subject {
        Subject::Dates(_) => Err("dates".to_owned()),
        _ => Ok(()),
    };
    assert!(runs(5, MAX_TIME, later).failure.unwrap().number > 0);

    let (length, allocated) = measured(|| vec![1_u8; 1 << 20].len());
    assert!(allocated >= length, "{allocated}");
}
