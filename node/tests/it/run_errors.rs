//! `blosm run` that cannot start: what it says, and that it leaves nothing that a later start would trip over.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use rustix::fs::{FlockOperation, flock};

use crate::scratch::text;
use crate::site::{Site, empty_engine};

#[test]
fn an_absent_engine_is_named_with_the_key_to_change() {
    let site = Site::new();
    let socket = site.socket();
    site.refuses(&["no container engine at", text(&socket), "engine.socket"], None);
    // A file where a socket should be, and a socket that nobody listens on any more.
    fs::write(&socket, "").unwrap();
    site.refuses(&[text(&socket), "is not a socket", "engine.socket"], None);
    fs::remove_file(&socket).unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    site.refuses(&[text(&socket), "does not answer"], None);
    fs::remove_file(&socket).unwrap();
    empty_engine(&socket);
    site.starts();
}

#[test]
fn an_engine_that_never_answers_is_not_waited_for() {
    let site = Site::new();
    let socket = site.socket();
    let silent = UnixListener::bind(&socket).unwrap();
    let accepting = std::thread::spawn(move || {
        let first = silent.accept().unwrap();
        let second = silent.accept().unwrap();
        // Open until the node has given up: it reads to the end of what it is sent.
        for (mut stream, _) in [first, second] {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    site.refuses(&["the engine at", text(&socket), "does not answer"], None);
    accepting.join().unwrap();
    fs::remove_file(&socket).unwrap();
    empty_engine(&socket);
    site.starts();
}

#[test]
fn a_port_in_use_is_named_with_the_table_to_change() {
    let site = Site::new();
    empty_engine(&site.socket());
    for (address, table) in site.addresses().into_iter().zip(["[net]", "[gateway]", "[api]"]) {
        let taken = TcpListener::bind(address).unwrap();
        let port = address.port().to_string();
        site.refuses(
            &["cannot listen on", &site.ip.to_string(), &port, table, "listen"],
            Some(address),
        );
        drop(taken);
    }
    site.starts();
}

#[test]
fn a_second_node_on_the_same_data_directory_is_refused() {
    let site = Site::new();
    empty_engine(&site.socket());
    let dir = site.dir();
    let lock = fs::File::create(dir.join("blosm.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let parts = ["another blosm runs on", text(&dir), "--data-dir"];
    site.refuses(&parts, None);
    drop(lock);
    let first = site.start();
    site.run(&[]).failed(&parts);
    site.serves();
    first.stop();
    site.starts();
}

#[test]
fn a_missing_key_file_is_not_made_anew() {
    let site = Site::new();
    empty_engine(&site.socket());
    for (file, parts) in [
        ("node.key", &["node.key", "blosm init"][..]),
        ("api.token", &["api.token", "blosm init"]),
        ("network.toml", &["network.toml", "network"]),
    ] {
        let (path, aside) = (site.dir().join(file), site.scratch.path("aside"));
        fs::rename(&path, &aside).unwrap();
        site.refuses(parts, None);
        assert!(!path.exists(), "{file} was made anew");
        fs::rename(&aside, &path).unwrap();
    }
    site.starts();
}

#[test]
fn an_unknown_key_or_flag_is_named() {
    let site = Site::new();
    empty_engine(&site.socket());
    let path = site.dir().join("blosm.toml");
    let before = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("colour = \"red\"\n{before}")).unwrap();
    site.refuses(&["blosm.toml", "colour"], None);
    let (table, misspelt) = ("\n[migration]\n", "\n[migration]\nkeep_sauce = \"5s\"\n");
    assert!(before.contains(table));
    fs::write(&path, before.replace(table, misspelt)).unwrap();
    site.refuses(&["blosm.toml", "keep_sauce"], None);
    fs::write(&path, before).unwrap();
    let usage = site.run(&["--keep-sauce", "5s"]);
    assert_eq!(usage.status, 2, "{}", usage.stderr);
    assert!(usage.stderr.contains("--keep-sauce"), "{}", usage.stderr);
    site.starts();
}
