//! `mynah bench idle`: what a connection costs that does nothing.
//!
//! Connections are opened a chunk at a time: all CONNECTs, then all answers, then all SUBSCRIBEs. Each has one
//! subscription to a topic of its own. Memory is read once the broker has come to rest.
//! Never: sends a message.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Serialize;

use crate::options::{fresh_run, resolve};
use crate::process;
use crate::report::{mib, thousands};
use crate::{files, mqtt, wire};

/// Connections opened side by side.
const CHUNK: usize = 64;
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between the last connection and the reading of the memory.
const REST: Duration = Duration::from_millis(1_000);

/// Options of `mynah bench idle`.
#[derive(Args, Clone, Debug)]
pub struct IdleArgs {
    /// MQTT listener to measure, HOST:PORT
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub address: String,
    /// Number of connections
    #[arg(long, default_value_t = 10_000)]
    pub connections: usize,
    /// Process of the broker: its memory is read, with its children
    #[arg(long)]
    pub pid: Option<u32>,
    /// User name
    #[arg(long)]
    pub user: Option<String>,
    /// Password
    #[arg(long, default_value = "")]
    pub password: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What idle connections cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct IdleReport {
    pub connections: usize,
    /// Connections with their subscription, a second.
    pub per_second: f64,
    /// Resident bytes of the broker without them.
    pub rss_before: Option<u64>,
    /// Resident bytes of the broker with them.
    pub rss_after: Option<u64>,
    /// Growth for each of them.
    pub bytes_per_connection: Option<f64>,
}

impl IdleReport {
    pub(crate) fn table(&self) -> String {
        let mut text = format!("connections  {} at {}/s\n", self.connections, thousands(self.per_second));
        if let (Some(before), Some(after), Some(each)) =
            (self.rss_before, self.rss_after, self.bytes_per_connection)
        {
            text.push_str(&format!(
                "resident     {} before, {} after, {} bytes a connection\n",
                mib(before),
                mib(after),
                thousands(each)
            ));
        }
        text
    }
}

/// Measures as the command line says.
///
/// # Errors
///
/// The broker cannot be reached, refuses, or the limit of open files is too low.
pub(crate) fn run(args: &IdleArgs) -> anyhow::Result<IdleReport> {
    let login = args.user.as_deref().map(|user| (user, args.password.as_str()));
    measure(resolve(&args.address)?, args.connections, login, args.pid)
}

/// Opens `connections`, reads the memory of `pid` before and after, and closes them.
#[expect(clippy::cast_precision_loss, reason = "bytes and counts are far below 2^52")]
pub(crate) fn measure(
    address: SocketAddr,
    connections: usize,
    login: Option<(&str, &str)>,
    pid: Option<u32>,
) -> anyhow::Result<IdleReport> {
    ensure!(connections > 0, "--connections must be at least 1");
    files::make_room(connections)?;
    let rss = || pid.map(|pid| process::tree(pid).rss);
    let rss_before = rss();
    let run = fresh_run();
    let started = Instant::now();
    let mut open = Vec::with_capacity(connections);
    while open.len() < connections {
        let from = open.len();
        let chunk = CHUNK.min(connections - from);
        open_chunk(address, run, from..from + chunk, login, &mut open)
            .with_context(|| format!("after {from} connections"))?;
    }
    let elapsed = started.elapsed().as_secs_f64();
    thread::sleep(REST);
    let rss_after = rss();
    for stream in &mut open {
        // The figures are taken; a broker that has closed by now does not matter.
        let _unread = stream.write_all(&[0xE0, 0]);
    }
    let growth = rss_before.zip(rss_after).map(|(before, after)| after.saturating_sub(before));
    Ok(IdleReport {
        connections,
        per_second: connections as f64 / elapsed.max(1e-9),
        rss_before,
        rss_after,
        bytes_per_connection: growth.map(|growth| growth as f64 / connections as f64),
    })
}

fn open_chunk(
    address: SocketAddr,
    run: u32,
    indexes: std::ops::Range<usize>,
    login: Option<(&str, &str)>,
    open: &mut Vec<TcpStream>,
) -> anyhow::Result<()> {
    let from = open.len();
    for index in indexes.clone() {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut packet = Vec::new();
        let (user, password) = login.unzip();
        mqtt::connect(false, &format!("idle-{run:08x}-{index}"), user, password.unwrap_or(""), &mut packet);
        stream.write_all(&packet)?;
        open.push(stream);
    }
    let fresh = open.get_mut(from..).unwrap_or_default();
    for (index, stream) in indexes.zip(fresh.iter_mut()) {
        let answer = packet(stream).context("waiting for CONNACK")?;
        if answer.first() != Some(&0x20) || wire::u8_at(&answer, 3) != Some(0) {
            bail!("the broker refused the connection: {answer:02x?}");
        }
        let mut packet = Vec::new();
        mqtt::subscribe(false, 0, &format!("idle/{run:08x}/{index}"), &mut packet);
        stream.write_all(&packet)?;
    }
    for stream in fresh {
        let answer = packet(stream).context("waiting for SUBACK")?;
        if answer.first() != Some(&0x90) || answer.last() != Some(&0) {
            bail!("the broker refused the subscription: {answer:02x?}");
        }
    }
    Ok(())
}

/// One short packet, with its header.
fn packet(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let [_, len] = head;
    ensure!(len < 0x80, "an answer is longer than expected");
    let mut packet = head.to_vec();
    packet.resize(2 + usize::from(len), 0);
    if let Some(body) = packet.get_mut(2..) {
        stream.read_exact(body)?;
    }
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broker of three lines: enough to see that each connection logs in and subscribes once.
    #[test]
    fn connections_log_in_and_subscribe() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let broker = thread::spawn(move || {
            let clients: Vec<_> = (0..3).map(|_| listener.accept().unwrap().0).collect();
            clients
                .into_iter()
                .map(|mut client| {
                    let connect = packet(&mut client).unwrap();
                    client.write_all(&[0x20, 2, 0, 0]).unwrap();
                    let subscribe = packet(&mut client).unwrap();
                    client.write_all(&[0x90, 3, 0, 1, 0]).unwrap();
                    (connect[0], subscribe[0])
                })
                .collect::<Vec<_>>()
        });
        let report = measure(address, 3, None, Some(std::process::id())).unwrap();
        assert_eq!(broker.join().unwrap(), [(0x10, 0x82); 3]);
        assert_eq!(report.connections, 3);
        assert!(report.rss_before.is_some());
    }
}
