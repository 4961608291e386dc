//! What the shaped link between two hosts carries, as iperf3 measures it, and how late it delivers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::config::GATEWAY_PORT;
use crate::hosts::{Namespace, address};
use crate::shell;
use crate::testnet::Testnet;

/// How long it sends unless somebody wants a longer look, in seconds. One before them is the connection's slow start and
/// does not count.
pub(super) const SECONDS: u32 = 3;
/// What it may take beyond that.
const PATIENCE: Duration = Duration::from_secs(20);
/// Handshakes of which the quickest tells the link's delay.
const HANDSHAKES: usize = 20;

/// Megabits per second of TCP payload from one host to another, over so many seconds.
///
/// # Errors
/// iperf3 cannot be started, or its two ends do not find each other.
pub(super) async fn goodput(testnet: &Testnet, from: usize, to: usize, seconds: u32) -> Result<f64> {
    let state = testnet.state();
    let (source, destination) = (state.namespace(from), state.namespace(to));
    // The file's name lets the sweep find a server that is left over.
    let pid_file = state.dir.join("iperf3.pid");
    let mut server = iperf3(&destination, &pid_file)?
        .args(["--server", "--one-off"])
        .stdout(Stdio::null())
        .spawn()?;
    let patience = PATIENCE + Duration::from_secs(seconds.into());
    let report = timeout(patience, client(&source, address(to), seconds))
        .await
        .context("iperf3 did not end")??;
    // It ends by itself after its one test.
    let _ = timeout(PATIENCE, server.wait()).await;
    received_mbit(&report)
}

/// How late a packet arrives on the idle link, one way, in milliseconds: half of the quickest TCP handshake with the
/// other host's gateway.
///
/// # Errors
/// Nobody listens there.
pub(super) async fn delay_ms(testnet: &Testnet, from: usize, to: usize) -> Result<f64> {
    let gateway = SocketAddr::from((address(to), GATEWAY_PORT));
    let shake = move || async move {
        let mut quickest = PATIENCE;
        for _ in 0..HANDSHAKES {
            let begin = Instant::now();
            TcpStream::connect(gateway).await?;
            quickest = quickest.min(begin.elapsed());
        }
        Ok::<_, std::io::Error>(quickest)
    };
    let quickest = testnet.state().namespace(from).run(shake).await?;
    let quickest = quickest.with_context(|| format!("connecting to {gateway}"))?;
    Ok(quickest.as_secs_f64() * 1000.0 / 2.0)
}

async fn client(source: &Namespace, to: Ipv4Addr, seconds: u32) -> Result<Value> {
    let mut said = String::new();
    // The server needs a moment until it listens.
    for _ in 0..20 {
        sleep(Duration::from_millis(100)).await;
        let seconds = seconds.to_string();
        let output = program(source)?
            .args([
                "--client",
                &to.to_string(),
                "--time",
                &seconds,
                "--omit",
                "1",
                "--json",
            ])
            .output()
            .await?;
        // Some versions report a server that does not listen yet, and end with success.
        let report: Value = serde_json::from_slice(&output.stdout).context("iperf3's report")?;
        if report["error"].is_null() {
            return Ok(report);
        }
        said = report["error"].to_string();
    }
    bail!("iperf3 measured nothing: {said}")
}

fn iperf3(namespace: &Namespace, pid_file: &Path) -> Result<Command> {
    let mut command = program(namespace)?;
    command.arg("--pidfile").arg(pid_file);
    Ok(command)
}

fn program(namespace: &Namespace) -> Result<Command> {
    let iperf3 = shell::find("iperf3").context("iperf3 is not on the PATH: install the package iperf3")?;
    let mut command = Command::new(shell::find("nsenter").context("nsenter is not on the PATH")?);
    command
        .arg(format!("--net={}", namespace.path().display()))
        .arg("--")
        .arg(iperf3)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    Ok(command)
}

fn received_mbit(report: &Value) -> Result<f64> {
    report["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .filter(|bits| *bits > 0.0)
        .map(|bits| bits / 1e6)
        .with_context(|| format!("iperf3 received nothing: {}", report["error"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_arrived_counts() {
        let report = json!({"end": {"sum_sent": {"bits_per_second": 4e7}, "sum_received": {"bits_per_second": 3.8e7}}});
        assert_eq!(received_mbit(&report).unwrap(), 38.0);
        assert!(received_mbit(&json!({"error": "refused"})).is_err());
    }
}
