//! `mynah status` and `mynah health`: what a running broker says about itself, over its admin port.
//!
//! The address is the one the broker itself would use: `MYNAH_CONFIG` and the other variables count, so that a container's
//! health check needs no argument.
//!
//! Never: changes anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::http::{Answer, get};
use super::{answer, variables};
use crate::config;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Admin address of the broker; by default that of MYNAH_CONFIG, else 127.0.0.1:15672.
    #[arg(short, long, value_name = "HOST:PORT")]
    address: Option<String>,
    /// Login as user:password; from loopback the default login is tried.
    #[arg(short, long, default_value = "guest:guest", value_name = "USER:PASSWORD")]
    user: String,
}

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// Admin address of the broker; by default that of MYNAH_CONFIG, else 127.0.0.1:15672.
    #[arg(short, long, value_name = "HOST:PORT")]
    address: Option<String>,
}

pub(super) fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let Answer { status, body } = get(
        &admin_address(args.address.as_deref()),
        "/api/v1/overview",
        Some(&args.user),
        Duration::from_secs(5),
    )?;
    match status {
        200 => {
            answer(&body);
            Ok(())
        }
        401 | 403 => bail!("the broker refuses this login; give one with --user NAME:PASSWORD"),
        _ => bail!("the broker answers with status {status}: {}", body.trim()),
    }
}

pub(super) fn health(args: &HealthArgs) -> anyhow::Result<()> {
    // Shorter than the container's own time-out, so that the reason is ours.
    let Answer { status, body } =
        get(&admin_address(args.address.as_deref()), "/readyz", None, Duration::from_secs(2))?;
    match status {
        200 => {
            answer("ready");
            Ok(())
        }
        _ => bail!("not ready: status {status}: {}", body.trim()),
    }
}

/// The address given, or the admin address of the configuration in force; a wildcard address is reached over loopback.
pub(super) fn admin_address(given: Option<&str>) -> String {
    if let Some(given) = given {
        return given.to_owned();
    }
    let vars = variables();
    let file = vars.iter().find(|(name, value)| name == "MYNAH_CONFIG" && !value.is_empty());
    let file = file.map(|(_, value)| PathBuf::from(value));
    // A configuration that cannot be read is `mynah check`'s business; the default port is still worth a try.
    let mut bind = config::load(file.as_deref(), &vars)
        .map_or_else(|_| config::Config::default().admin.bind, |loaded| loaded.config.admin.bind)
        .0;
    match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => bind.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => bind.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    bind.to_string()
}
