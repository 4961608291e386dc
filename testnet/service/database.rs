//! A SQLite database under constant writes, through the `sqlite3` program of the image: each row is a transaction of
//! its own, and counts only once `sqlite3` has said that it is committed. A stop kills `sqlite3` in the middle of it.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What `sqlite3` says after each piece of work.
const DONE: &str = "done";
/// Between two rows of the writer.
const TICK: Duration = Duration::from_millis(5);
const SETUP: &str = "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS requests (n INTEGER PRIMARY KEY, instance TEXT);
    CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, bytes BLOB);";
/// A row more, and another one changed.
const ROW: &str = "BEGIN IMMEDIATE;
    INSERT INTO rows SELECT coalesce(max(n), 0) + 1, randomblob(500) FROM rows;
    UPDATE rows SET bytes = randomblob(500) WHERE n = abs(random()) % (SELECT max(n) FROM rows) + 1;
    COMMIT; SELECT max(n) FROM rows;";
/// All of one moment: the writer goes on meanwhile.
const CHECK: &str = "PRAGMA busy_timeout = 10000; BEGIN; PRAGMA integrity_check; SELECT count(*) FROM rows;
    SELECT coalesce(max(n), 0) FROM rows; SELECT coalesce(group_concat(n), '') FROM requests; COMMIT;";

/// The database and the program that writes to it.
pub(super) struct Database {
    program: PathBuf,
    file: PathBuf,
    shell: Mutex<Shell>,
    /// The highest row that is known to be committed.
    committed: AtomicU64,
}

impl Database {
    /// Opens or makes it, and starts to write.
    pub(super) fn open(program: &Path, dir: &Path) -> io::Result<Arc<Database>> {
        let file = dir.join("rows.db");
        let mut shell = Shell::start(program, &file)?;
        shell.run(SETUP)?;
        let database = Arc::new(Database {
            program: program.to_owned(),
            file,
            shell: Mutex::new(shell),
            committed: AtomicU64::new(0),
        });
        let writer = Arc::clone(&database);
        thread::Builder::new().spawn(move || {
            loop {
                match writer.row() {
                    Ok(row) => writer.committed.store(row, Ordering::SeqCst),
                    Err(error) => return eprintln!("counter: no more rows: {error}"),
                }
                thread::sleep(TICK);
            }
        })?;
        Ok(database)
    }

    /// Commits a request's number.
    pub(super) fn insert(&self, number: u64, instance: &str) -> io::Result<()> {
        self.run(&format!("INSERT INTO requests VALUES ({number}, '{instance}');"))
            .map(drop)
    }

    /// What another `sqlite3` finds in the file now, as JSON.
    pub(super) fn check(&self) -> io::Result<String> {
        let committed = self.committed.load(Ordering::SeqCst);
        let output = Command::new(&self.program)
            .args(["-batch", "-bail"])
            .arg(&self.file)
            .arg(CHECK)
            .stderr(Stdio::inherit())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let [integrity, rows, last, requests] = lines[..] else {
            return Err(io::Error::other(format!("sqlite3 says {text:?}")));
        };
        Ok(format!(
            r#"{{"integrity":"{integrity}","rows":{rows},"last":{last},"committed":{committed},"requests":[{requests}]}}"#
        ))
    }

    fn row(&self) -> io::Result<u64> {
        let said = self.run(ROW)?;
        said.trim()
            .parse()
            .map_err(|_| io::Error::other(format!("sqlite3 says {said:?}")))
    }

    fn run(&self, sql: &str) -> io::Result<String> {
        self.shell
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .run(sql)
    }
}

/// A `sqlite3` that is told what to do line by line.
struct Shell {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _child: Child,
}

impl Shell {
    fn start(program: &Path, file: &Path) -> io::Result<Shell> {
        let mut child = Command::new(program)
            .args(["-batch", "-bail"])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let none = || io::Error::other("sqlite3 without pipes");
        Ok(Shell {
            input: child.stdin.take().ok_or_else(none)?,
            output: BufReader::new(child.stdout.take().ok_or_else(none)?),
            _child: child,
        })
    }

    /// Gives what it prints. After an error of SQL it ends, and so does this.
    fn run(&mut self, sql: &str) -> io::Result<String> {
        let sql: Vec<&str> = sql.split_whitespace().collect();
        self.input
            .write_all(format!("{}\nSELECT '{DONE}';\n", sql.join(" ")).as_bytes())?;
        let mut said = String::new();
        loop {
            let from = said.len();
            if self.output.read_line(&mut said)? == 0 {
                return Err(io::Error::other("sqlite3 has ended"));
            }
            if said[from..].trim_end() == DONE {
                said.truncate(from);
                return Ok(said);
            }
        }
    }
}
