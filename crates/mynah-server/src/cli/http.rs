//! The smallest HTTP/1.1 client that can ask our own admin API: one request, one answer, connection closed.
//!
//! The health check of a container runs every few seconds; a client library with TLS, pools and a runtime would weigh more
//! than the rest of the command.
//!
//! Never: follows redirects, speaks TLS, reads more than its bound.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail};

/// The overview of a broker is a few kilobytes.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Status code and body of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// `GET path` from `address` (host:port). Errors: nobody listens, or the answer is no HTTP.
pub(super) fn get(
    address: &str,
    path: &str,
    login: Option<&str>,
    timeout: Duration,
) -> anyhow::Result<Answer> {
    ask(address, &format!("GET {path}"), None, login, timeout)
}

/// `POST path` with a JSON body. Errors: as `get`.
pub(super) fn post(
    address: &str,
    path: &str,
    body: &str,
    login: Option<&str>,
    timeout: Duration,
) -> anyhow::Result<Answer> {
    ask(address, &format!("POST {path}"), Some(body), login, timeout)
}

fn ask(
    address: &str,
    what: &str,
    body: Option<&str>,
    login: Option<&str>,
    timeout: Duration,
) -> anyhow::Result<Answer> {
    let mut last = None;
    for target in address.to_socket_addrs().with_context(|| format!("{address} is no host:port"))? {
        match TcpStream::connect_timeout(&target, timeout) {
            Ok(stream) => return exchange(stream, address, what, body, login, timeout),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => {
            Err(error).with_context(|| format!("nobody answers at {address}; is the broker running?"))
        }
        None => bail!("{address} has no address"),
    }
}

fn exchange(
    mut stream: TcpStream,
    address: &str,
    what: &str,
    body: Option<&str>,
    login: Option<&str>,
    timeout: Duration,
) -> anyhow::Result<Answer> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let login = login
        .map(|login| format!("Authorization: Basic {}\r\n", base64(login.as_bytes())))
        .unwrap_or_default();
    let content = body.map_or_else(String::new, |body| {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    });
    let body = body.unwrap_or_default();
    let request = format!(
        "{what} HTTP/1.1\r\nHost: {address}\r\n{login}{content}Accept: application/json\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).context("the broker closed the connection")?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).context("no answer in time")?;
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(answer: &str) -> anyhow::Result<Answer> {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("the answer is no HTTP") };
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let (Some(status), true) = (status, head.starts_with("HTTP/1.")) else { bail!("the answer is no HTTP") };
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { dechunk(body).context("the answer is cut short")? } else { body.to_owned() };
    Ok(Answer { status, body })
}

fn dechunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size.checked_add(2)?..)?;
    }
}

/// RFC 4648 with padding, for `Authorization: Basic`.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| (group << 8) | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for index in 0..4_usize {
            let symbol =
                usize::try_from((group >> (18 - 6 * index)) & 63).ok().and_then(|at| ALPHABET.get(at));
            match symbol {
                Some(symbol) if index <= chunk.len() => text.push(char::from(*symbol)),
                _ => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn base64_as_rfc_4648_section_10() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn plain_and_chunked_answers() {
        let plain = parse("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
        assert_eq!(plain, Answer { status: 200, body: "ok".into() });
        let chunked =
            parse("HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
                .unwrap();
        assert_eq!(chunked, Answer { status: 503, body: "abc".into() });
        assert!(parse("SSH-2.0-x\r\n\r\n").is_err());
        assert!(parse("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nab").is_err());
    }

    #[test]
    fn asks_and_gets_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nready").unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let answer = get(&address, "/readyz", Some("u:p"), Duration::from_secs(5)).unwrap();
        assert_eq!(answer, Answer { status: 200, body: "ready".into() });
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /readyz HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("Authorization: Basic dTpw\r\n"), "{request}");
    }

    #[test]
    fn nobody_there_is_said_so() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let error = format!("{:#}", get(&address, "/", None, Duration::from_secs(1)).unwrap_err());
        assert!(error.contains("is the broker running?"), "{error}");
    }
}
