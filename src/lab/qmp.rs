//! QEMU's machine protocol: one JSON object a line, a command and its answer (docs/interop/qmp-spec.rst).

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// QEMU answers at once, but for a picture of the screen under emulation on a busy computer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to the socket `qmp` in `folder`; QEMU may still be making it. The folder is reached by its descriptor,
    /// because a socket's path may only have 107 bytes.
    pub fn open(folder: &Path) -> std::io::Result<Qmp> {
        let folder = File::open(folder)?;
        let path = format!("/proc/self/fd/{}/qmp", folder.as_raw_fd());
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > ANSWER_LIMIT => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut qmp = Qmp { stream: BufReader::new(stream) };
        qmp.read()?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Sends a command and gives what it returns; events that come between are passed over.
    pub fn execute(&mut self, command: &str, arguments: Value) -> std::io::Result<Value> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.stream.get_mut().write_all(text.as_bytes())?;
        loop {
            let mut answer = self.read()?;
            if let Some(error) = answer.get("error") {
                return Err(std::io::Error::other(error.to_string()));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn read(&mut self) -> std::io::Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}
