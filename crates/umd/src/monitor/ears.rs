//! Listening to the server-sent events of every control socket, one thread each.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use crate::api::EventDoc;

/// What an ear says.
#[derive(Debug)]
pub enum Heard {
    /// Something happened.
    Event(Box<EventDoc>),
    /// Nobody speaks at this socket any more.
    Silence(PathBuf),
}

/// The longest line of the stream.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Listens at a socket until it falls silent; what is said goes to `to`. Returns once it listens:
/// what happens from then on is heard.
///
/// # Errors
/// When nobody is there.
pub fn listen(socket: &Path, to: Sender<Heard>) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream
        .write_all(b"GET /v1/events HTTP/1.1\r\nHost: umd\r\nAccept: text/event-stream\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let chunked = read_head(&mut reader)?;
    let socket = socket.to_owned();
    let work = move || {
        let body: Box<dyn Read> = match chunked {
            true => Box::new(Chunks {
                inner: reader,
                left: 0,
            }),
            false => Box::new(reader),
        };
        let _ = read_events(BufReader::new(body), &to); // However it ended: it is silent now.
        let _ = to.send(Heard::Silence(socket));
    };
    std::thread::Builder::new().name("ear".into()).spawn(work)?;
    Ok(())
}

/// Reads the head of the answer; whether the body comes in chunks.
fn read_head(reader: &mut impl BufRead) -> io::Result<bool> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "no stream of events");
    let mut chunked = false;
    for index in 0..100 {
        let mut line = String::new();
        if reader.take(64 << 10).read_line(&mut line)? == 0 {
            return Err(bad());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if index == 0 && !line.contains(" 200") {
            return Err(bad());
        }
        if line.is_empty() {
            return Ok(chunked);
        }
        chunked |= line.starts_with("transfer-encoding:") && line.ends_with("chunked");
    }
    Err(bad())
}

fn read_events(mut body: impl BufRead, to: &Sender<Heard>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        if (&mut body).take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let event = line
            .strip_prefix("data:")
            .and_then(|data| serde_json::from_str(data.trim()).ok());
        if let Some(event) = event
            && to.send(Heard::Event(Box::new(event))).is_err()
        {
            return Ok(());
        }
    }
}

/// A body in chunks, as one stream.
struct Chunks<R> {
    inner: R,
    left: u64,
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let mut line = String::new();
            if (&mut self.inner).take(1024).read_line(&mut line)? == 0 {
                return Ok(0);
            }
            let digits = line.trim().split(';').next().unwrap_or("");
            if digits.is_empty() {
                continue; // The end of the chunk before.
            }
            let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "bad chunk");
            self.left = u64::from_str_radix(digits, 16).map_err(bad)?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let room = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(out.len());
        let read = self.inner.read(&mut out[..room])?;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_across_chunks() {
        let event = r#"data: {"schema":1,"array":"r5","event":"Fail","member":null,"text":""}"#;
        let text = format!("event: Fail\n{event}\n\n");
        let (first, second) = text.split_at(30);
        let body = format!(
            "{:x}\r\n{first}\r\n{:X};x=1\r\n{second}\r\n0\r\n\r\n",
            first.len(),
            second.len()
        );
        let (to, heard) = std::sync::mpsc::channel();
        let chunks = Chunks {
            inner: body.as_bytes(),
            left: 0,
        };
        read_events(BufReader::new(chunks), &to).expect("reads");
        drop(to);
        let all: Vec<Heard> = heard.iter().collect();
        assert!(matches!(&all[..], [Heard::Event(one)] if one.array == "r5"));
    }

    #[test]
    fn other_answers_are_no_events() {
        for head in ["", "HTTP/1.1 404 Not Found\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert!(read_head(&mut head.as_bytes()).is_err(), "{head}");
        }
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(read_head(&mut head.as_bytes()).expect("a head"));
    }
}
