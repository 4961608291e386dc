//! The oracle's process, by what it writes.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use blosm_testnet::oracle::record::{self, Entry, Report};

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The records, once there are so many.
fn records(file: &Path, count: usize) -> Vec<Entry> {
    let begin = Instant::now();
    loop {
        let found = record::read(file).unwrap_or_default();
        if found.len() >= count {
            assert_eq!(found.len(), count, "{found:?}");
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{found:?}");
        std::thread::yield_now();
    }
}

#[test]
fn whatever_is_told_is_written_with_who_told_it_and_that_they_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, file) = (dir.path().join("s"), dir.path().join("records"));
    let _oracle = Ended(
        Command::new(env!("CARGO_BIN_EXE_blosm-testnet"))
            .arg("oracle")
            .args([&socket, &file])
            .spawn()
            .unwrap(),
    );
    let begin = Instant::now();
    let mut teller = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(begin.elapsed() < Duration::from_secs(30), "{error}"),
        }
    };
    let start = r#"{"what":"start","session":"s","epoch":1,"instance":"i","container":"c","count":2,"time_ns":1,"numbers":[[1,2]]}"#;
    let answer =
        r#"{"what":"answer","session":"s","epoch":1,"instance":"i","count":3,"number":9,"time_ns":2}"#;
    writeln!(teller, "{start}\n{answer}").unwrap();
    let found = records(&file, 2);
    let me = i32::try_from(std::process::id()).unwrap();
    assert!(found.iter().all(|entry| entry.pid == me && entry.at_ns > 0));
    assert!(matches!(&found[1].report, Report::Answer { number: 9, .. }));
    // A line that a kill has cut off was told to nobody.
    write!(teller, "{}", &answer[..40]).unwrap();
    drop(teller);
    let found = records(&file, 3);
    assert_eq!(
        found[2].report,
        Report::Gone {
            instance: "i".to_owned()
        }
    );

    let mut liar = UnixStream::connect(&socket).unwrap();
    writeln!(liar, r#"{{"what":"gone","instance":"i"}}"#).unwrap();
    let found = records(&file, 4);
    assert!(matches!(found[3].report, Report::Unreadable { .. }));
}
