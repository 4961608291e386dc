//! An oracle: a process outside all nodes that is told who answered whom, and when.
//!
//! ```text
//! counter of a session in node 1 --+
//! counter of a session in node 2 --+-- Unix socket --> serve (a process of its own) --> records, one JSON object a line
//! car: "I was told 17 is done"   --+                                                        |
//!                                                    listing (the engines' own lists) --> check
//! ```
//! A service instance tells it each start, answer and orderly stop before anybody else hears of it, and answers nothing
//! that it could not tell. The socket lies in the file system, so a cut link does not part an instance from its oracle.
//! Who is connected, the kernel says: the process of the other end, and that it is gone.
//!
//! What is concluded from the records ([`check`]) asks neither the nodes nor their ledger for anything.

pub mod check;
pub mod history;
pub mod listing;
mod process;
pub mod record;
mod report;
mod serve;

pub use process::Oracle;
pub use report::{Hears, Reporter};
pub(crate) use serve::now_ns;
pub use serve::serve;
