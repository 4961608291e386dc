//! What `promtool` has against the nodes' metrics, and against the configuration that Prometheus runs with.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::shell;
use crate::testnet::Testnet;

/// Lints the metrics of every node, and the rules and the configuration.
///
/// # Errors
/// Something is against a rule; the text holds what it says.
pub(super) async fn check(testnet: &Testnet) -> Result<()> {
    let config = testnet.state().dir.join("monitor/prometheus.yml");
    shell::run("promtool", &["check", "config", &config.to_string_lossy()])?;
    for host in &testnet.state().hosts {
        let page = testnet.client(host.number)?.metrics().await?;
        lint(&page).with_context(|| format!("the metrics of {}", host.label))?;
    }
    Ok(())
}

fn lint(page: &str) -> Result<()> {
    let program = shell::find("promtool").context("promtool is not on the PATH; it comes with Prometheus")?;
    let mut child = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // It reads all before it says anything.
    let mut stdin = child.stdin.take().context("it has an input")?;
    stdin.write_all(page.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if !output.status.success() || !said.trim().is_empty() {
        bail!("promtool check metrics: {}", said.trim());
    }
    Ok(())
}
