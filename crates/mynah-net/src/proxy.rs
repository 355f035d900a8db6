//! The PROXY protocol, versions 1 and 2: who is really at the other end, told by a proxy that is trusted.
//!
//! Source: "The PROXY protocol", HAProxy Technologies, 2020/03/05. Version 1 is a line of at most 107 bytes, version 2 a binary
//! header; what belongs to the stream behind it is not touched.
//! Never: takes the word of an address that is not on the list.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::limits::{PROXY_HEADER_MAX, PROXY_LINE_MAX};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Whether the header of this address is believed.
#[must_use]
pub(crate) fn is_trusted(trusted: &[IpNet], address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    trusted.iter().any(|net| net.contains(&ip))
}

/// Reads the header. `None`: the proxy speaks for itself (LOCAL), or does not know.
///
/// # Errors
/// There is no header, or it is malformed.
pub(crate) async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE {
        return read_binary(stream).await;
    }
    if !start.starts_with(b"PROXY ") {
        return Err(malformed("no PROXY header"));
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= PROXY_LINE_MAX {
            return Err(malformed("the PROXY line is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    let text = std::str::from_utf8(&line).map_err(|_| malformed("the PROXY line is no text"))?;
    parse_line(text.trim_end())
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883`
fn parse_line(line: &str) -> io::Result<Option<SocketAddr>> {
    let words: Vec<&str> = line.split(' ').collect();
    let wrong = || malformed("the PROXY line is malformed");
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, _, port, _] => {
            let ip: IpAddr = source.parse().map_err(|_| wrong())?;
            let port = port.parse().map_err(|_| wrong())?;
            if ip.is_ipv4() == (*family == "TCP4") {
                Ok(Some(SocketAddr::new(ip, port)))
            } else {
                Err(wrong())
            }
        }
        _ => Err(wrong()),
    }
}

async fn read_binary(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let (version, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let len = usize::from(stream.read_u16().await?);
    if len > PROXY_HEADER_MAX {
        return Err(malformed("the PROXY header is too long"));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    parse_binary(version, family, &body)
}

fn parse_binary(version: u8, family: u8, body: &[u8]) -> io::Result<Option<SocketAddr>> {
    match version {
        // LOCAL: a health check of the proxy itself.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(malformed("neither LOCAL nor PROXY of version 2")),
    }
    let cut = || malformed("the PROXY header is cut short");
    let port = |at: usize| {
        body.get(at..at + 2).and_then(|two| two.first_chunk()).map(|two| u16::from_be_bytes(*two))
    };
    match family >> 4 {
        1 => {
            let ip: [u8; 4] = *body.first_chunk().ok_or_else(cut)?;
            Ok(Some(SocketAddr::new(Ipv4Addr::from(ip).into(), port(8).ok_or_else(cut)?)))
        }
        2 => {
            let ip: [u8; 16] = *body.first_chunk().ok_or_else(cut)?;
            Ok(Some(SocketAddr::new(Ipv6Addr::from(ip).into(), port(32).ok_or_else(cut)?)))
        }
        // Unspecified, or a socket of the file system.
        _ => Ok(None),
    }
}

fn malformed(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<(Option<SocketAddr>, usize), String> {
        let mut rest = bytes;
        let found = read_header(&mut rest).await.map_err(|error| error.to_string())?;
        Ok((found, rest.len()))
    }

    #[tokio::test]
    async fn lines() {
        let address = "192.0.2.1:56324".parse().unwrap();
        assert_eq!(
            read(b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 1883\r\n\x10\x0c").await,
            Ok((Some(address), 2))
        );
        let six = "[2001:db8::1]:4".parse().unwrap();
        assert_eq!(read(b"PROXY TCP6 2001:db8::1 ::1 4 5\r\n").await, Ok((Some(six), 0)));
        assert_eq!(read(b"PROXY UNKNOWN\r\nx").await, Ok((None, 1)));
        for wrong in [
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 \r\n\r\n".as_slice(),
            b"PROXY TCP4 2001:db8::1 ::1 4 5\r\n",
            b"PROXY TCP4 300.0.2.1 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 10.0.0.1 99999 2\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"PROXY TCP4",
        ] {
            assert!(read(wrong).await.is_err(), "{wrong:?}");
        }
        assert!(read(&[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat()).await.is_err());
    }

    #[tokio::test]
    async fn binary_headers() {
        let header = |command: u8, family: u8, body: &[u8]| {
            let len = u16::try_from(body.len()).unwrap().to_be_bytes();
            [SIGNATURE.as_slice(), &[command, family], &len, body].concat()
        };
        let four = [192, 0, 2, 1, 10, 0, 0, 1, 0xDC, 4, 7, 91, 4, 0, 1, 9];
        let address = "192.0.2.1:56324".parse().unwrap();
        assert_eq!(
            read(&[header(0x21, 0x11, &four).as_slice(), b"rest"].concat()).await,
            Ok((Some(address), 4))
        );
        let mut six = vec![0; 36];
        (six[15], six[33]) = (1, 5);
        assert_eq!(read(&header(0x21, 0x21, &six)).await, Ok((Some("[::1]:5".parse().unwrap()), 0)));
        assert_eq!(read(&header(0x20, 0, &[])).await, Ok((None, 0)));
        assert_eq!(read(&header(0x21, 0, &[1, 2])).await, Ok((None, 0)));
        assert!(read(&header(0x21, 0x11, &four[..8])).await.is_err());
        assert!(read(&header(0x31, 0x11, &four)).await.is_err());
        assert!(read(&header(0x21, 0x11, &[0; 5000])).await.is_err());
    }

    #[test]
    fn trust() {
        let nets: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        assert!(is_trusted(&nets, "10.9.9.9:1".parse().unwrap()));
        assert!(is_trusted(&nets, "[::ffff:10.1.1.1]:1".parse().unwrap()));
        assert!(!is_trusted(&nets, "11.0.0.1:1".parse().unwrap()));
    }
}
