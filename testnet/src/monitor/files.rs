//! The folder `grafana/` of this project, as it was when this program was built, and what a testnet changes in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The dashboards, each with its file's name.
pub(crate) const DASHBOARDS: [(&str, &str); 6] = [
    ("road.json", include_str!("../../../grafana/dashboards/road.json")),
    (
        "migrations.json",
        include_str!("../../../grafana/dashboards/migrations.json"),
    ),
    (
        "ledger.json",
        include_str!("../../../grafana/dashboards/ledger.json"),
    ),
    (
        "network.json",
        include_str!("../../../grafana/dashboards/network.json"),
    ),
    ("node.json", include_str!("../../../grafana/dashboards/node.json")),
    (
        "testnet.json",
        include_str!("../../../grafana/dashboards/testnet.json"),
    ),
];
const PROMETHEUS: &str = include_str!("../../../grafana/prometheus.yml");
const RULES: &str = include_str!("../../../grafana/rules.yml");
const SOURCES: &str = include_str!("../../../grafana/provisioning/datasources/blosm.yml");
const PROVIDERS: &str = include_str!("../../../grafana/provisioning/dashboards/blosm.yml");

/// What of the files a testnet has otherwise.
const SCRAPE: &str = "scrape_interval: 15s";
const EVALUATE: &str = "evaluation_interval: 15s";
const JOB: &str = "  - job_name: blosm\n";
const INTERVAL: &str = "timeInterval: 15s";
const SOURCE: &str =
    "      - url: http://127.0.0.1:9480/v1/prometheus/targets\n        refresh_interval: 30s\n";
const PROMETHEUS_URL: &str = "http://127.0.0.1:9090";
const DASHBOARD_DIR: &str = "/var/lib/grafana/dashboards/blosm";

/// How Prometheus watches a testnet.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// Nodes that are asked who the members are.
    pub(crate) sources: Vec<String>,
    /// Seconds between two readings of a node.
    pub(crate) every_s: u32,
    /// Alerts fire as soon as their condition holds.
    pub(crate) alerts_at_once: bool,
    /// The proxy through which the nodes are reached, if they are not on this machine's own network.
    pub(crate) proxy: Option<u16>,
}

/// Writes Prometheus' configuration and rules into a folder; gives the configuration's path.
///
/// # Errors
/// The disk refuses, or the project's files have lost what is to be changed in them.
pub(crate) fn write_prometheus(dir: &Path, watch: &Watch) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    let config = dir.join("prometheus.yml");
    write(&config, &prometheus(watch)?)?;
    let rules = match watch.alerts_at_once {
        true => at_once(RULES),
        false => RULES.to_owned(),
    };
    write(&dir.join("rules.yml"), &rules)?;
    Ok(config)
}

/// Writes Grafana's provisioning and the dashboards into a folder; gives the provisioning's path.
///
/// # Errors
/// As [`write_prometheus`].
pub(crate) fn write_grafana(dir: &Path, prometheus_url: &str, every_s: u32) -> Result<PathBuf> {
    let (dashboards, provisioning) = (dir.join("dashboards"), dir.join("provisioning"));
    for folder in [
        &dashboards,
        &provisioning.join("datasources"),
        &provisioning.join("dashboards"),
    ] {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    for (name, text) in DASHBOARDS {
        write(&dashboards.join(name), text)?;
    }
    let sources = swap(SOURCES, PROMETHEUS_URL, prometheus_url)?;
    let sources = swap(&sources, INTERVAL, &format!("timeInterval: {every_s}s"))?;
    write(&provisioning.join("datasources/blosm.yml"), &sources)?;
    let providers = swap(PROVIDERS, DASHBOARD_DIR, &dashboards.display().to_string())?;
    write(&provisioning.join("dashboards/blosm.yml"), &providers)?;
    Ok(provisioning)
}

fn prometheus(watch: &Watch) -> Result<String> {
    let every = watch.every_s;
    let proxy = |indent: &str| {
        watch.proxy.map_or_else(String::new, |port| {
            format!("{indent}proxy_url: http://127.0.0.1:{port}\n")
        })
    };
    let sources: String = watch
        .sources
        .iter()
        .map(|source| {
            let proxy = proxy("        ");
            format!("      - url: {source}\n        refresh_interval: 5s\n{proxy}")
        })
        .collect();
    let text = swap(PROMETHEUS, SCRAPE, &format!("scrape_interval: {every}s"))?;
    let text = swap(&text, EVALUATE, &format!("evaluation_interval: {every}s"))?;
    let text = swap(&text, JOB, &format!("{JOB}{}", proxy("    ")))?;
    swap(&text, SOURCE, &sources)
}

/// The rules with no time for which a condition must have held.
fn at_once(rules: &str) -> String {
    let lines = rules.lines().map(|line| match line.split_once("for: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 0s\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

/// Puts `new` in the place of `old`, which must be there once.
fn swap(text: &str, old: &str, new: &str) -> Result<String> {
    match text.matches(old).count() {
        1 => Ok(text.replace(old, new)),
        count => bail!("{old:?} stands {count} times in a file of grafana/, and should once"),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(proxy: Option<u16>) -> Watch {
        Watch {
            sources: vec!["http://a/targets".to_owned(), "http://b/targets".to_owned()],
            every_s: 2,
            alerts_at_once: false,
            proxy,
        }
    }

    #[test]
    fn the_projects_files_are_changed_for_a_testnet() {
        let text = prometheus(&watch(None)).unwrap();
        for line in [
            "  scrape_interval: 2s",
            "  evaluation_interval: 2s",
            "  - rules.yml",
            "      - url: http://a/targets",
            "      - url: http://b/targets",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(!text.contains("9480/v1") && !text.contains("proxy_url"), "{text}");
        let text = prometheus(&watch(Some(77))).unwrap();
        assert_eq!(
            text.matches("proxy_url: http://127.0.0.1:77").count(),
            3,
            "{text}"
        );
    }

    #[test]
    fn grafana_finds_prometheus_and_the_dashboards_in_the_testnets_folder() {
        let dir = tempfile::tempdir().unwrap();
        let provisioning = write_grafana(dir.path(), "http://127.0.0.1:7", 5).unwrap();
        let read = |name: &str| fs::read_to_string(provisioning.join(name)).unwrap();
        assert!(read("datasources/blosm.yml").contains("url: http://127.0.0.1:7\n"));
        assert!(read("datasources/blosm.yml").contains("timeInterval: 5s\n"));
        let dashboards = dir.path().join("dashboards");
        assert!(read("dashboards/blosm.yml").contains(&format!("path: {}\n", dashboards.display())));
        for (name, text) in DASHBOARDS {
            assert_eq!(fs::read_to_string(dashboards.join(name)).unwrap(), text);
        }
        let rules = at_once(RULES);
        assert!(
            !rules.contains("for: 1m") && rules.matches("        for: 0s\n").count() > 10,
            "{rules}"
        );
        assert_eq!(rules.lines().count(), RULES.lines().count());
        assert!(swap("a a", "a", "b").is_err() && swap("", "a", "b").is_err());
    }
}
