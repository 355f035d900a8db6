//! The opening handshake of RFC 6455: one HTTP request in, one answer out.
//!
//! The path and the sub-protocol say what is spoken: `/mqtt` and `/stomp` one of them, `/ws` and `/` either.
//! Never: reads more than a bounded head, keeps a connection open that is not upgraded.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use httparse::{EMPTY_HEADER, Request, Status};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits::{HTTP_HEAD_MAX, HTTP_HEADERS_MAX};

/// Appended to the client's key [RFC 6455 1.3].
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Registered names [IANA WebSocket Subprotocol Name Registry], ours by preference.
const SUBPROTOCOLS: [(&str, &str); 5] = [
    ("mqtt", "mqtt"),
    ("mqttv3.1", "mqtt"),
    ("v12.stomp", "stomp"),
    ("v11.stomp", "stomp"),
    ("v10.stomp", "stomp"),
];

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// The protocol that may be spoken; `None`: whichever the first bytes show.
    pub(crate) protocol: Option<&'static str>,
    pub(crate) subprotocol: Option<&'static str>,
}

/// Why there is no WebSocket, as HTTP says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    status: &'static str,
    text: String,
}

fn refused(status: &'static str, text: impl Into<String>) -> Refused {
    Refused { status, text: text.into() }
}

/// Reads the request and answers it. What came behind it is left in `received`.
///
/// # Errors
/// The request was refused, and the answer says why; or the stream broke.
pub(crate) async fn shake(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    received: &mut BytesMut,
    origins: &[String],
) -> io::Result<Agreed> {
    loop {
        let outcome = answer(received, origins);
        if let Some(outcome) = outcome {
            let (text, result) = match outcome {
                Ok((used, accept, agreed)) => {
                    let _head = received.split_to(used);
                    (switching(&accept, &agreed), Ok(agreed))
                }
                Err(refused) => {
                    (refused.http(), Err(io::Error::new(io::ErrorKind::InvalidData, refused.text)))
                }
            };
            stream.write_all(text.as_bytes()).await?;
            stream.flush().await?;
            if result.is_err() {
                stream.shutdown().await?;
            }
            return result;
        }
        if stream.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

type Upgrade = (usize, String, Agreed);

/// `None` while the head is not whole.
fn answer(received: &[u8], origins: &[String]) -> Option<Result<Upgrade, Refused>> {
    let mut headers = [EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    match request.parse(received) {
        Ok(Status::Complete(used)) if used <= HTTP_HEAD_MAX => {
            Some(examine(&request, origins).map(|(accept, agreed)| (used, accept, agreed)))
        }
        Ok(Status::Partial) if received.len() <= HTTP_HEAD_MAX => None,
        Ok(Status::Partial | Status::Complete(_)) => {
            Some(Err(refused("431 Request Header Fields Too Large", "the request's head is too long")))
        }
        Err(httparse::Error::TooManyHeaders) => {
            Some(Err(refused("431 Request Header Fields Too Large", "too many header fields")))
        }
        Err(error) => Some(Err(refused("400 Bad Request", format!("no HTTP request: {error}")))),
    }
}

fn examine(request: &Request<'_, '_>, origins: &[String]) -> Result<(String, Agreed), Refused> {
    let values = |name: &'static str| {
        request
            .headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .filter_map(|header| std::str::from_utf8(header.value).ok())
    };
    let lists = |name, wanted: &str| {
        values(name).flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(wanted))
    };
    if request.method != Some("GET") || request.version != Some(1) {
        return Err(refused("405 Method Not Allowed", "a WebSocket begins with GET and HTTP/1.1"));
    }
    let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
    let of_path = match path.trim_end_matches('/') {
        "/mqtt" => Some("mqtt"),
        "/stomp" => Some("stomp"),
        "/ws" | "" => None,
        _ => return Err(refused("404 Not Found", "WebSocket is at /mqtt, /stomp and /ws")),
    };
    if !lists("upgrade", "websocket") || !lists("connection", "upgrade") {
        return Err(refused("426 Upgrade Required", "this port speaks WebSocket"));
    }
    if values("sec-websocket-version").next().map(str::trim) != Some("13") {
        return Err(refused("426 Upgrade Required", "only version 13 of WebSocket is spoken"));
    }
    let key = values("sec-websocket-key").next().map(str::trim).unwrap_or_default();
    if STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return Err(refused("400 Bad Request", "Sec-WebSocket-Key is not 16 bytes in base64"));
    }
    if let Some(origin) = values("origin").next().filter(|_| !origins.is_empty()) {
        let origin = origin.trim();
        if !origins.iter().any(|known| known.eq_ignore_ascii_case(origin)) {
            return Err(refused("403 Forbidden", format!("pages of {origin} may not connect (origins)")));
        }
    }
    let agreed = agree(of_path, values("sec-websocket-protocol"))?;
    let accept = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    Ok((STANDARD.encode(accept), agreed))
}

/// The first sub-protocol offered that fits the path. Who offers none is believed to know what it does.
fn agree<'a>(
    of_path: Option<&'static str>,
    offered: impl Iterator<Item = &'a str>,
) -> Result<Agreed, Refused> {
    let mut some = false;
    for name in offered.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
        some = true;
        let known = SUBPROTOCOLS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        if let Some(&(subprotocol, protocol)) = known
            && of_path.is_none_or(|wanted| wanted == protocol)
        {
            return Ok(Agreed { protocol: Some(protocol), subprotocol: Some(subprotocol) });
        }
    }
    if some {
        let text =
            "none of the sub-protocols is spoken here: mqtt, mqttv3.1, v12.stomp, v11.stomp, v10.stomp";
        return Err(refused("400 Bad Request", text));
    }
    Ok(Agreed { protocol: of_path, subprotocol: None })
}

fn switching(accept: &str, agreed: &Agreed) -> String {
    let mut text = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    );
    if let Some(name) = agreed.subprotocol {
        text.push_str(&format!("Sec-WebSocket-Protocol: {name}\r\n"));
    }
    text.push_str("\r\n");
    text
}

impl Refused {
    fn http(&self) -> String {
        let Self { status, text } = self;
        let upgrade = if status.starts_with("426") {
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade, close\r\n"
        } else {
            "Connection: close\r\n"
        };
        format!(
            "HTTP/1.1 {status}\r\n{upgrade}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{text}\n",
            text.len() + 1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, more: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
        )
    }

    fn status(text: &str) -> &'static str {
        let origins = ["https://shop.example".to_owned()];
        answer(text.as_bytes(), &origins).unwrap().unwrap_err().status
    }

    #[test]
    fn the_sample_of_the_rfc() {
        let text = request("/mqtt", "Sec-WebSocket-Protocol: chat, mqttv3.1, mqtt\r\n");
        for cut in 0..text.len() {
            assert!(answer(&text.as_bytes()[..cut], &[]).is_none());
        }
        let (used, accept, agreed) = answer(text.as_bytes(), &[]).unwrap().unwrap();
        assert_eq!(used, text.len());
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(agreed, Agreed { protocol: Some("mqtt"), subprotocol: Some("mqttv3.1") });
        assert!(switching(&accept, &agreed).contains("Sec-WebSocket-Protocol: mqttv3.1\r\n"));
    }

    #[test]
    fn paths_and_subprotocols() {
        let agreed = |path: &str, more: &str| answer(request(path, more).as_bytes(), &[]).unwrap().unwrap().2;
        assert_eq!(agreed("/mqtt", "").protocol, Some("mqtt"));
        assert_eq!(agreed("/stomp/?x=1", "").protocol, Some("stomp"));
        assert_eq!(agreed("/ws", "").protocol, None);
        assert_eq!(agreed("/", "Sec-WebSocket-Protocol: v12.stomp\r\n").protocol, Some("stomp"));
    }

    #[test]
    fn refusals() {
        assert_eq!(status(&request("/other", "")), "404 Not Found");
        assert_eq!(status(&request("/mqtt", "Sec-WebSocket-Protocol: v12.stomp\r\n")), "400 Bad Request");
        assert_eq!(status(&request("/mqtt", "Origin: https://evil.example\r\n")), "403 Forbidden");
        assert_eq!(status("GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n"), "426 Upgrade Required");
        assert_eq!(status(&request("/mqtt", "").replace("n: 13", "n: 8")), "426 Upgrade Required");
        assert_eq!(status(&request("/mqtt", "").replace("dGhl", "")), "400 Bad Request");
        assert_eq!(status(&request("/mqtt", "").replace("GET", "POST")), "405 Method Not Allowed");
        assert_eq!(status("\x10\x0c\0\x04MQTT\r\n\r\n"), "400 Bad Request");
        let long = format!("GET /mqtt HTTP/1.1\r\nCookie: {}", "x".repeat(HTTP_HEAD_MAX));
        assert_eq!(status(&long), "431 Request Header Fields Too Large");
        let many = request("/mqtt", &"A: b\r\n".repeat(HTTP_HEADERS_MAX));
        assert_eq!(status(&many), "431 Request Header Fields Too Large");
        let allowed = request("/mqtt", "Origin: https://shop.example\r\n");
        assert!(answer(allowed.as_bytes(), &["https://shop.example".to_owned()]).unwrap().is_ok());
    }
}
