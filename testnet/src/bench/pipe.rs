//! `docker save IMAGE | ssh HOST docker load` without the ssh: one TCP connection over the link.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::hosts::address;
use crate::image::load_from;
use crate::testnet::Testnet;

const PORT: u16 = 8091;

/// Saves an image on one host and loads it on the other while it comes.
///
/// # Errors
/// An engine refuses, or the connection breaks.
pub(crate) async fn save_load(testnet: &Testnet, from: usize, to: usize, image: &str) -> Result<()> {
    let (source, destination) = (testnet.engine(from), testnet.engine(to));
    let place = SocketAddr::from((address(to), PORT));
    let (listening, listens) = tokio::sync::oneshot::channel();
    let (here, there) = (testnet.state().namespace(from), testnet.state().namespace(to));
    let load = there.run(move || async move {
        let listener = TcpListener::bind(place).await?;
        // Fails only when the other side has given up already.
        let _ = listening.send(());
        let (stream, _) = listener.accept().await?;
        load_from(&destination, stream).await
    });
    let image = image.to_owned();
    let save = async {
        listens.await.context("the receiving end did not start")?;
        let job = move || async move {
            let client = source.client()?;
            let mut stream = TcpStream::connect(place).await?;
            let mut pieces = std::pin::pin!(client.export_image(&image));
            while let Some(piece) = pieces.next().await {
                stream
                    .write_all(&piece.with_context(|| format!("saving {image}"))?)
                    .await?;
            }
            stream.shutdown().await?;
            Ok::<_, anyhow::Error>(())
        };
        here.run(job).await?
    };
    let (loaded, saved) = tokio::join!(load, save);
    saved?;
    loaded?
}
