//! `blosm invite` and `blosm invites`: an authority's operator lets nodes in without knowing their keys.

use std::time::Duration;

use blosm_net::Multiaddr;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::show::items;
use super::table::{Table, lines, short, text};
use super::{Output, Target};

/// Digits of an invite's id that tell it apart from its neighbours.
const DIGITS: usize = 8;

#[derive(Debug, Args)]
pub(super) struct Invite {
    /// How many nodes it admits
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// For how long, such as 30m, 24h or 7d
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// What to call it in `blosm invites ls`, such as site=A
    #[arg(long, default_value = "")]
    label: String,
    /// Address of this authority for new nodes to dial, repeatable, if not the advertised ones
    #[arg(long, value_name = "MULTIADDR")]
    address: Vec<Multiaddr>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
pub(super) enum Invites {
    /// Show the invites of this authority, and who came by them
    Ls(List),
    /// Take an invite back; members that came by it stay
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The invite's id, or its first digits
    #[arg(value_name = "ID", value_parser = id)]
    id: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// An id goes into a path as it is.
fn id(text: &str) -> Result<String, &'static str> {
    if (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_owned())
    } else {
        Err("an id has up to 64 hex digits, as `blosm invites ls` shows them")
    }
}

pub(super) async fn invite(invite: Invite) -> anyhow::Result<()> {
    let body = json!({
        "uses": invite.uses, "expires_s": invite.expires.as_secs(), "label": invite.label,
        "addresses": invite.address,
    });
    let made = invite.target.client()?.post("/v1/invites", &body).await?;
    // The string alone on stdout: it is piped on to where it is used.
    invite.output.print(&made, || {
        eprint!(
            "{}",
            lines(&[
                ("invite", format!("{} for {} node(s)", short(&made, "id", DIGITS), text(&made, "uses"))),
                ("expires", time(&made, "expires_unix_ms")),
                ("dialled at", text(&made, "addresses")),
                (
                    "next",
                    "blosm join INVITE --data-dir DIR --location LAT,LON --radius METRES   on the new machine".to_owned(),
                ),
            ])
        );
        format!("{}\n", text(&made, "invite"))
    });
    Ok(())
}

pub(super) async fn invites(command: Invites) -> anyhow::Result<()> {
    match command {
        Invites::Ls(list) => {
            let invites = list.target.client()?.get("/v1/invites").await?;
            list.output.print(&invites, || table(items(&invites)));
        }
        Invites::Revoke(revoke) => {
            let path = format!("/v1/invites/{}", revoke.id);
            let revoked = revoke.target.client()?.delete(&path).await?;
            revoke.output.print(&revoked, || {
                format!(
                    "invite {} is revoked; {} of {} uses were made\n",
                    short(&revoked, "id", DIGITS),
                    text(&revoked, "used"),
                    text(&revoked, "uses")
                )
            });
        }
    }
    Ok(())
}

fn table(invites: &[Value]) -> String {
    let mut table = Table::new(["ID", "LABEL", "STATE", "USED", "EXPIRES", "ADMITTED"]);
    for invite in invites {
        let by = items(&invite["used_by"])
            .iter()
            .map(|node| match text(node, "label").as_str() {
                "-" => format!("{} (gone)", short(node, "node", DIGITS)),
                label => label.to_owned(),
            });
        let by: Vec<_> = by.collect();
        table.row([
            short(invite, "id", DIGITS),
            text(invite, "label"),
            text(invite, "state").replace('_', " "),
            format!("{} of {}", text(invite, "used"), text(invite, "uses")),
            time(invite, "expires_unix_ms"),
            if by.is_empty() {
                "-".to_owned()
            } else {
                by.join(" ")
            },
        ]);
    }
    table.render()
}

/// A moment in UTC.
pub(super) fn time(value: &Value, key: &str) -> String {
    value[key]
        .as_u64()
        .map_or_else(|| "-".to_owned(), crate::admission::time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_tells_who_came_by_which() {
        let invites = json!([
            { "id": "0123456789abcdef", "label": "site=A", "state": "used_up", "uses": 2, "used": 2,
              "expires_unix_ms": 1_700_000_000_000u64,
              "used_by": [{ "node": "aabbccddee", "label": "host2" }, { "node": "1122334455", "label": null }] },
        ]);
        assert_eq!(
            table(items(&invites)),
            "ID        LABEL   STATE    USED    EXPIRES               ADMITTED\n\
             01234567  site=A  used up  2 of 2  2023-11-14T22:13:20Z  host2 11223344 (gone)\n"
        );
    }

    #[test]
    fn an_id_is_hex() {
        assert!(id("0aF").is_ok());
        for wrong in ["", "../members", "xyz"] {
            assert!(id(wrong).is_err(), "{wrong}");
        }
    }
}
