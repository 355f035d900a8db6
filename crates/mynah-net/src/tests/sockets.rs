//! The same with real sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mynah_broker::{Broker, BrokerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::line::{Lines, REFUSAL, Seen};
use crate::listener::{ListenError, ListenerSpec, Net, NetConfig};

/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn start(config: NetConfig) -> (Arc<Broker>, Net, Arc<Seen>) {
    let broker = Broker::start(BrokerConfig::default()).unwrap();
    let lines = Lines::default();
    let seen = Arc::clone(&lines.0);
    let spec = ListenerSpec::new("test".to_owned(), "127.0.0.1:0".parse().unwrap(), vec![Arc::new(lines)]);
    let net = Net::start(&broker, vec![spec], config).unwrap();
    (broker, net, seen)
}

async fn connect(net: &Net, first: &str) -> TcpStream {
    let mut socket = TcpStream::connect(net.addresses()[0].1).await.unwrap();
    socket.write_all(first.as_bytes()).await.unwrap();
    socket
}

async fn expect(socket: &mut TcpStream, text: &str) {
    let mut buffer = vec![0; text.len()];
    tokio::time::timeout(PATIENCE, socket.read_exact(&mut buffer)).await.expect("in time").unwrap();
    assert_eq!(String::from_utf8(buffer).unwrap(), text);
}

async fn expect_end(socket: &mut TcpStream) {
    let mut buffer = [0; 100];
    let read = tokio::time::timeout(PATIENCE, socket.read(&mut buffer)).await.expect("in time");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn lines_go_in_and_out() {
    let (_broker, net, _) = start(NetConfig::default());
    let mut one = connect(&net, "LINE\nsub t\n").await;
    expect(&mut one, "attached\n").await;
    let mut two = connect(&net, "LI").await;
    two.write_all(b"NE\npubt t x\n").await.unwrap();
    expect(&mut two, "published 1\n").await;
    two.write_all(b"quit\n").await.unwrap();
    expect(&mut two, "bye\n").await;
    expect_end(&mut two).await;
    expect(&mut one, "x\n").await;
    let mut three = connect(&net, "GET / HTTP/1.1\r\n\r\n").await;
    expect(&mut three, std::str::from_utf8(REFUSAL).unwrap()).await;
    expect_end(&mut three).await;
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let (_broker, net, _) = start(NetConfig { connections_max: 2 });
    let mut one = connect(&net, "LINE\necho a\n").await;
    let mut two = connect(&net, "LINE\necho a\n").await;
    expect(&mut one, "a\n").await;
    expect(&mut two, "a\n").await;
    let mut three = TcpStream::connect(net.addresses()[0].1).await.unwrap();
    expect_end(&mut three).await;
    assert_eq!(net.open_connections(), 2);
    one.write_all(b"quit\n").await.unwrap();
    expect(&mut one, "bye\n").await;
    drop(one);
    // Its place is free as soon as it is gone.
    while net.open_connections() > 1 {
        tokio::task::yield_now().await;
    }
    let mut four = connect(&net, "LINE\necho a\n").await;
    expect(&mut four, "a\n").await;
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_the_listener() {
    let (broker, net, _) = start(NetConfig::default());
    let bind = net.addresses()[0].1;
    let spec = ListenerSpec::new("second", bind, Vec::new());
    let error = Net::start(&broker, vec![spec], NetConfig::default()).unwrap_err();
    let ListenError::Bind { name, bind: at, .. } = error else { panic!("{error}") };
    assert_eq!((name.as_str(), at), ("second", bind));
}

#[tokio::test]
async fn stopping_says_good_bye_to_everybody_and_waits_for_nobody_else() {
    let (_broker, net, seen) = start(NetConfig::default());
    let address = net.addresses()[0].1;
    let mut one = connect(&net, "LINE\necho a\n").await;
    expect(&mut one, "a\n").await;
    // Connected, and silent.
    let mut silent = TcpStream::connect(address).await.unwrap();
    while net.open_connections() < 2 {
        tokio::task::yield_now().await;
    }
    let begun = Instant::now();
    let peer = tokio::spawn(async move {
        expect(&mut one, "bye\n").await;
        expect_end(&mut one).await;
        drop(one);
        expect_end(&mut silent).await;
    });
    net.stop(PATIENCE).await;
    assert!(begun.elapsed() < PATIENCE / 2);
    peer.await.unwrap();
    assert_eq!((seen.count(1, "shutdown"), seen.count(1, "lost")), (1, 1));
    assert!(TcpStream::connect(address).await.is_err());
}

/// The one timer, with the clock on the wall.
#[tokio::test]
async fn deadlines_come_when_they_are_due_wherever_they_moved() {
    let (_broker, net, seen) = start(NetConfig::default());
    let mut one = connect(&net, "LINE\nlater 3600000\necho a\n").await;
    let mut two = connect(&net, "LINE\nlater 20\n").await;
    expect(&mut one, "a\n").await;
    expect(&mut two, "deadline\n").await;
    // Earlier, and in front of all others.
    one.write_all(b"later 10\n").await.unwrap();
    expect(&mut one, "deadline\n").await;
    assert_eq!(seen.count(1, "deadline") + seen.count(2, "deadline"), 2);
}

#[tokio::test]
async fn who_says_nothing_in_time_goes() {
    let (_broker, net, _) = start(NetConfig::default());
    let mut silent = TcpStream::connect(net.addresses()[0].1).await.unwrap();
    let mut slow = connect(&net, "LI").await;
    expect_end(&mut silent).await;
    expect_end(&mut slow).await;
    while net.open_connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_fault_of_ours_ends_one_connection() {
    let (broker, net, _) = start(NetConfig::default());
    let mut one = connect(&net, "LINE\nsub t\n").await;
    let mut two = connect(&net, "LINE\nsub t\n").await;
    expect(&mut one, "attached\n").await;
    expect(&mut two, "attached\n").await;
    one.write_all(b"panic\n").await.unwrap();
    expect_end(&mut one).await;
    two.write_all(b"pubt t x\n").await.unwrap();
    expect(&mut two, "published 1\nx\n").await;
    while net.open_connections() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(broker.connections.len(), 1);
}

#[tokio::test]
async fn stopping_takes_no_longer_than_the_grace() {
    let (_broker, net, _) = start(NetConfig::default());
    let mut one = connect(&net, "LINE\nbig 64000000\n").await;
    expect(&mut one, "xxx").await;
    // It reads no further, so its good-bye cannot be written.
    let begun = Instant::now();
    net.stop(Duration::from_millis(200)).await;
    assert!(begun.elapsed() < crate::limits::FAREWELL);
}

/// More than a socket holds, in both directions, read slowly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_publishers_and_a_slow_reader() {
    const MESSAGES: usize = 400;
    let (_broker, net, _) = start(NetConfig::default());
    let mut reader = connect(&net, "LINE\nsub t\n").await;
    expect(&mut reader, "attached\n").await;
    let publishers: Vec<_> = (0..4)
        .map(|_| {
            let address = net.addresses()[0].1;
            tokio::spawn(async move {
                let mut socket = TcpStream::connect(address).await.unwrap();
                let line = format!("pub t {}\n", "x".repeat(9_999));
                socket.write_all(b"LINE\n").await.unwrap();
                for _ in 0..MESSAGES {
                    socket.write_all(line.as_bytes()).await.unwrap();
                }
                socket.write_all(b"quit\n").await.unwrap();
                expect(&mut socket, "bye\n").await;
            })
        })
        .collect();
    let mut left = 4 * MESSAGES * 10_000;
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        let read = tokio::time::timeout(PATIENCE, reader.read(&mut buffer)).await.expect("in time").unwrap();
        assert!(read > 0);
        left -= read;
        tokio::task::yield_now().await;
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
}
