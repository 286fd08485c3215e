//! HTTP/2 by hand: frames written byte by byte over TCP, so that a test can also send what no library would.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::PATIENCE;

/// What a client begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113, 6).
pub mod kind {
    /// Content.
    pub const DATA: u8 = 0;
    /// A call's headers.
    pub const HEADERS: u8 = 1;
    /// What streams depend on.
    pub const PRIORITY: u8 = 2;
    /// The end of a stream, at once.
    pub const RST_STREAM: u8 = 3;
    /// Settings, or their acknowledgement.
    pub const SETTINGS: u8 = 4;
    /// A question whether the peer is there, or the answer.
    pub const PING: u8 = 6;
    /// The end of a connection.
    pub const GOAWAY: u8 = 7;
    /// Leave to send more.
    pub const WINDOW_UPDATE: u8 = 8;
    /// More headers.
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    /// Nothing follows on the stream.
    pub const END_STREAM: u8 = 1;
    /// An answer, not a question.
    pub const ACK: u8 = 1;
    /// The headers are whole.
    pub const END_HEADERS: u8 = 4;
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// One of [`kind`].
    pub kind: u8,
    /// Some of [`flag`].
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What follows its head.
    pub payload: Vec<u8>,
}

/// A frame's bytes.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers in HPACK, each as a literal that is not remembered (RFC 7541, 6.2.2).
#[must_use]
pub fn header_block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let text = |text: &str, block: &mut Vec<u8>| {
        let mut rest = match text.len() {
            length @ 0..127 => {
                block.push(length as u8);
                None
            }
            length => {
                block.push(127);
                Some(length - 127)
            }
        };
        while let Some(left) = rest {
            block.push((left % 128) as u8 | if left >= 128 { 128 } else { 0 });
            rest = (left >= 128).then_some(left / 128);
        }
        block.extend_from_slice(text.as_bytes());
    };
    for (name, value) in headers {
        block.push(0);
        text(name, &mut block);
        text(value, &mut block);
    }
    block
}

/// The headers of a call of gRPC.
#[must_use]
pub fn grpc_headers(path: &str, token: &str) -> Vec<u8> {
    header_block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", &format!("Bearer {token}")),
    ])
}

/// A message of gRPC: not compressed, its length, its bytes.
#[must_use]
pub fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], bytes].concat()
}

/// How a connection ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// The code and the text of the last GOAWAY.
    pub goaway: Option<(u32, String)>,
    /// Streams that the server reset, with the code.
    pub resets: usize,
    /// Answers to questions (PING, SETTINGS).
    pub acknowledged: usize,
}

/// A connection that speaks what it is told.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Raw {
    /// Connects to `http://host:port` and says nothing.
    ///
    /// # Errors
    /// It cannot.
    pub async fn silent(url: &str) -> io::Result<Self> {
        Self::silent_from([127, 0, 0, 1], url).await
    }

    /// The same from another address of this machine.
    ///
    /// # Errors
    /// It cannot.
    pub async fn silent_from(from: [u8; 4], url: &str) -> io::Result<Self> {
        let address = url.split_once("://").map_or(url, |(_, address)| address);
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(address.parse().map_err(io::Error::other)?).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, held: Vec::new() })
    }

    /// Connects and sends the preface and these settings (identifier, value).
    ///
    /// # Errors
    /// It cannot.
    pub async fn with_settings(url: &str, settings: &[(u16, u32)]) -> io::Result<Self> {
        let mut raw = Self::silent(url).await?;
        let mut payload = Vec::new();
        for (identifier, value) in settings {
            payload.extend_from_slice(&identifier.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        raw.send(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &payload)].concat()).await?;
        Ok(raw)
    }

    /// Sends bytes one by one, `pause` apart, until the server ends the connection; gives what it said.
    ///
    /// # Panics
    /// Where it does not within a minute.
    pub async fn drip(mut self, bytes: impl IntoIterator<Item = u8>, pause: Duration) -> String {
        let mut said = Vec::new();
        let dripping = async {
            for byte in bytes {
                if self.stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                let mut block = [0; 1 << 12];
                match timeout(pause, self.stream.read(&mut block)).await {
                    Ok(Ok(0) | Err(_)) => break,
                    Ok(Ok(count)) => said.extend_from_slice(&block[..count]),
                    Err(_) => {}
                }
            }
        };
        timeout(PATIENCE, dripping).await.expect("the server ends the connection");
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Connects and sends the preface.
    ///
    /// # Errors
    /// It cannot.
    pub async fn connect(url: &str) -> io::Result<Self> {
        Self::with_settings(url, &[]).await
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The server ended the connection, or takes nothing for a minute.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes)).await?
    }

    /// The next frame; nothing once the server ended the connection.
    ///
    /// # Errors
    /// Nothing comes for a minute.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(head) = self.held.first_chunk::<9>() {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                if self.held.len() >= 9 + length {
                    let payload = self.held[9..9 + length].to_vec();
                    self.held.drain(..9 + length);
                    return Ok(Some(Frame { kind, flags, stream, payload }));
                }
            }
            let mut block = [0; 1 << 14];
            match timeout(PATIENCE, self.stream.read(&mut block)).await? {
                Ok(0) | Err(_) => return Ok(None),
                Ok(count) => self.held.extend_from_slice(&block[..count]),
            }
        }
    }

    /// The next frame if there is one already, or comes within `wait`; nothing also once the server ended the connection.
    pub async fn next_within(&mut self, wait: Duration) -> Option<Frame> {
        timeout(wait, self.next()).await.ok()?.ok()?
    }

    /// Whether the server ended the connection, and all that it said was read.
    pub async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let looked = timeout(Duration::ZERO, self.stream.peek(&mut byte)).await;
        matches!(looked, Ok(Ok(0) | Err(_)))
    }

    /// Reads until the server ends the connection.
    ///
    /// # Panics
    /// Where it does not within a minute without a byte.
    pub async fn end(mut self) -> End {
        let mut end = End::default();
        while let Some(frame) = self.next().await.expect("the server ends the connection, or says something")
        {
            end.note(&frame);
        }
        end
    }
}

impl End {
    /// Notes what a frame tells of it.
    pub fn note(&mut self, frame: &Frame) {
        match frame.kind {
            kind::GOAWAY => {
                let code =
                    frame.payload.get(4..8).and_then(|code| code.try_into().ok()).map(u32::from_be_bytes);
                let text = String::from_utf8_lossy(frame.payload.get(8..).unwrap_or_default()).into_owned();
                self.goaway = Some((code.unwrap_or_default(), text));
            }
            kind::RST_STREAM => self.resets += 1,
            kind::PING | kind::SETTINGS if frame.flags & flag::ACK != 0 => self.acknowledged += 1,
            _ => {}
        }
    }
}
