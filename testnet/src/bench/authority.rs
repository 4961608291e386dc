//! An authority that is far away: every byte between it and the nodes arrives later.
//!
//! The authority listens on its loopback only, and a relay on its host passes on what comes from the road, delayed.
//! It cannot connect to other nodes by itself, so that every connection goes through the relay.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use toml::Table;

use crate::config::PEER_PORT;
use crate::hosts::address;
use crate::shell;
use crate::testnet::Testnet;

/// Where the authority listens behind the relay.
const INNER_PORT: u16 = 4411;
/// What is read at once, and how many of these wait for their time; a full queue makes the sender wait.
const PIECE: usize = 16 * 1024;
const PIECES: usize = 1024;

/// The relay; it ends when this value goes.
pub(super) struct Delay {
    _stop: DropGuard,
}

impl Delay {
    /// What the authority's configuration needs for it.
    pub(super) fn settings() -> Table {
        let listen = format!("/ip4/127.0.0.1/tcp/{INNER_PORT}");
        let net = Table::from_iter([("listen".to_owned(), toml::Value::from(vec![listen]))]);
        Table::from_iter([("net".to_owned(), net.into())])
    }

    /// Starts it on the first host of a testnet.
    ///
    /// # Errors
    /// Its port is taken, or iptables refuses.
    pub(super) async fn start(testnet: &Testnet, delay: Duration) -> Result<Delay> {
        let host = testnet.state().namespace(1);
        let net = format!("--net={}", host.path().display());
        let port = PEER_PORT.to_string();
        let rule = ["-A", "OUTPUT", "-o", "eth0", "-p", "tcp", "--dport", &port];
        let reject = ["-j", "REJECT", "--reject-with", "tcp-reset"];
        let words = [&[&net, "--", "iptables"], &rule[..], &reject[..]].concat();
        shell::run("nsenter", &words)?;
        let stop = CancellationToken::new();
        let (stopped, (listening, listens)) = (stop.clone(), tokio::sync::oneshot::channel());
        tokio::spawn(async move {
            let relayed = host.run(move || async move {
                let listener = TcpListener::bind(SocketAddr::from((address(1), PEER_PORT))).await;
                match listener {
                    Ok(listener) => {
                        let _ = listening.send(Ok(()));
                        tokio::select! {
                            () = relay(listener, delay) => {}
                            () = stopped.cancelled() => {}
                        }
                    }
                    // Nobody listens any more when the caller was cancelled.
                    Err(error) => drop(listening.send(Err(error))),
                }
            });
            if let Err(error) = relayed.await {
                tracing::warn!("the authority's relay: {error:#}");
            }
        });
        listens.await?.context("the authority's relay")?;
        Ok(Delay {
            _stop: stop.drop_guard(),
        })
    }
}

async fn relay(listener: TcpListener, delay: Duration) {
    while let Ok((outer, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A connection that breaks ends both ways, as without the relay.
            if let Err(error) = connect(outer, delay).await {
                tracing::debug!(%error, "a relayed connection ends");
            }
        });
    }
}

async fn connect(outer: TcpStream, delay: Duration) -> io::Result<()> {
    let inner = TcpStream::connect((Ipv4Addr::LOCALHOST, INNER_PORT)).await?;
    outer.set_nodelay(true)?;
    inner.set_nodelay(true)?;
    let ((from_outer, to_outer), (from_inner, to_inner)) = (outer.into_split(), inner.into_split());
    tokio::try_join!(
        pass(from_outer, to_inner, delay),
        pass(from_inner, to_outer, delay)
    )
    .map(drop)
}

/// Passes on each piece when its time has come.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) -> io::Result<()> {
    let (sender, mut queue) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let read = async move {
        loop {
            let mut piece = vec![0; PIECE];
            let length = from.read(&mut piece).await?;
            piece.truncate(length);
            if length == 0 || sender.send((Instant::now() + delay, piece.into())).await.is_err() {
                return Ok::<_, io::Error>(());
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = queue.recv().await {
            sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_in_order_and_the_end_too() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (read, write) = server.into_split();
        // What comes is sent back.
        let back = tokio::spawn(pass(read, write, Duration::from_millis(1)));
        let (mut from, mut to) = client.split();
        let send = async {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let receive = async {
            let mut got = Vec::new();
            from.read_to_end(&mut got).await.unwrap();
            got
        };
        let ((), got) = tokio::join!(send, receive);
        assert!(got == expected);
        back.await.unwrap().unwrap();
    }
}
