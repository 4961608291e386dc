//! What a link really carries: a short blast over TCP, counted where it arrives.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::hosts::Namespace;
use crate::state::State;

/// Left out of the count: the connection's slow start and the bucket's first fill.
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_millis(1000);
const PORT: u16 = 5201;
const PIECE: usize = 64 * 1024;

/// The goodput of one host's link, in megabits per second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Goodput {
    /// The host.
    pub host: String,
    /// From the host to the road.
    pub up_mbit: f64,
    /// From the road to the host.
    pub down_mbit: f64,
}

/// Measures every host's link, against the unshaped host of the cars; all hosts at once, up and then down.
///
/// # Errors
/// No connection came about.
pub async fn measure(state: &State) -> Result<Vec<Goodput>> {
    let cars = state.road().cars();
    let hosts = state.hosts.iter().map(|host| {
        let (cars, road) = (cars.clone(), state.road());
        async move {
            let own = road.host(host.number);
            let cars_address = crate::hosts::cars_address();
            let port = PORT + u16::try_from(host.number).unwrap_or(0);
            let up_mbit = blast(&own, &cars, cars_address, port).await?;
            let down_mbit = blast(&cars, &own, host.address, port).await?;
            Ok(Goodput {
                host: host.label.clone(),
                up_mbit,
                down_mbit,
            })
        }
    });
    futures::future::try_join_all(hosts).await
}

/// Megabits per second from one namespace to an address in another.
async fn blast(from: &Namespace, to: &Namespace, address: Ipv4Addr, port: u16) -> Result<f64> {
    let address = SocketAddr::from((address, port));
    let (listening, listens) = tokio::sync::oneshot::channel();
    let sink = to.run(move || async move {
        let listener = TcpListener::bind(address).await?;
        // Fails only when the other side has given up already.
        let _ = listening.send(());
        let (stream, _) = timeout(Duration::from_secs(5), listener.accept()).await??;
        count(stream).await
    });
    let source = async {
        listens.await.context("the receiving end did not start")?;
        from.run(move || async move {
            let mut stream = TcpStream::connect(address).await?;
            let piece = vec![0; PIECE];
            // Ends when the other side has counted enough and closes.
            while stream.write_all(&piece).await.is_ok() {}
            Ok::<_, std::io::Error>(())
        })
        .await?
        .context("the sending end")
    };
    let (counted, sent) = tokio::join!(sink, source);
    sent?;
    counted?
}

async fn count(mut stream: TcpStream) -> Result<f64> {
    let mut piece = vec![0; PIECE];
    let mut take = async || match stream.read(&mut piece).await? {
        0 => bail!("the sending end has stopped"),
        length => Ok(length),
    };
    let warm = Instant::now() + WARM_UP;
    while Instant::now() < warm {
        take().await?;
    }
    let (begin, mut bytes) = (Instant::now(), 0);
    while begin.elapsed() < MEASURED {
        bytes += take().await?;
    }
    Ok(bytes as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e6)
}
