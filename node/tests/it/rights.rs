//! What rights a running node has, and the layer helper beside it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use blosm_migrate::helper::Helper;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::road::until;
use crate::site::{Site, children, empty_engine};

/// CAP_NET_BIND_SERVICE.
const LOW_PORTS: u64 = 1 << 10;

#[test]
fn a_node_has_no_rights_and_root_gives_it_a_helper() {
    let site = Site::new();
    empty_engine(&site.socket());
    let socket = site.dir().join("layer-helper.sock");
    let node = site.start();
    let pid = node.pid();
    if !rustix::process::geteuid().is_root() {
        // Nobody to give it one.
        assert!(!socket.exists() && children(raw(pid)).is_empty());
        node.stop();
        return;
    }
    for task in std::fs::read_dir(format!("/proc/{}/task", raw(pid))).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        for set in ["CapEff", "CapPrm"] {
            let rights = u64::from_str_radix(field(&status, set), 16).unwrap();
            assert_eq!(rights & !LOW_PORTS, 0, "{set}");
        }
        assert_eq!(field(&status, "NoNewPrivs"), "1");
    }
    let meta = socket.metadata().unwrap();
    assert_eq!((meta.permissions().mode() & 0o777, meta.uid()), (0o600, 0));
    assert!(hello(&site));
    // Its end is not the node's, and another one takes its place.
    let keeper = children(raw(pid))[0];
    let helper = children(raw(keeper))[0];
    kill_process(helper, Signal::KILL).unwrap();
    wait_for_end(helper);
    site.serves();
    until("another helper answers", || hello(&site));
    let helper = children(raw(keeper))[0];
    let ended = pidfd_open(helper, PidfdFlags::empty()).unwrap();
    node.stop();
    wait_readable(&ended);
    assert!(!hello(&site));

    // What it left is in nobody's way; and a node that is killed takes its helper along.
    let node = site.start();
    assert!(hello(&site));
    let pid = node.pid();
    let helper = children(raw(children(raw(pid))[0]))[0];
    let ended = pidfd_open(helper, PidfdFlags::empty()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    wait_readable(&ended);
    drop(node);
    assert!(!hello(&site));
    site.starts();
}

fn raw(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find(|line| line.split(':').next() == Some(name));
    line.unwrap().split(':').nth(1).unwrap().trim()
}

/// Whether a helper answers.
fn hello(site: &Site) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answer = runtime.block_on(Helper::new(&site.dir().join("layer-helper.sock")).hello());
    answer.is_ok_and(|facts| facts.privileged)
}

fn wait_for_end(pid: Pid) {
    // None when it has been waited for already.
    if let Ok(ended) = pidfd_open(pid, PidfdFlags::empty()) {
        wait_readable(&ended);
    }
}

fn wait_readable(ended: &std::os::fd::OwnedFd) {
    let limit = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    assert_eq!(
        poll(&mut [PollFd::new(ended, PollFlags::IN)], Some(&limit)),
        Ok(1)
    );
}
