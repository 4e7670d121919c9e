//! Just enough of PostgreSQL's protocol to run a statement through the private server's Unix socket, where the
//! operating system vouches for us and no password is needed. Spares the workspace's smallest crate a driver.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const PROTOCOL_3_0: u32 = 196_608;

/// Longest a statement may take; dropping a large database is the slowest thing we ask for.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection as the superuser.
pub(crate) struct PostgresSession {
    stream: UnixStream,
}

impl PostgresSession {
    /// Connects to the database `postgres`; succeeds once the server takes statements.
    pub(crate) fn connect(socket_folder: &Path, port: u16) -> Result<Self> {
        let socket = socket_folder.join(format!(".s.PGSQL.{port}"));
        let stream = UnixStream::connect(&socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut session = Self { stream };
        let mut startup = PROTOCOL_3_0.to_be_bytes().to_vec();
        startup.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
        session.send(None, &startup)?;
        session.wait_until_ready()?;
        Ok(session)
    }

    /// Runs one statement and drops its rows.
    pub(crate) fn execute(&mut self, statement: &str) -> Result<()> {
        let mut body = statement.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)?;
        self.wait_until_ready()
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<()> {
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&u32::try_from(body.len() + 4)?.to_be_bytes());
        message.extend_from_slice(body);
        self.stream
            .write_all(&message)
            .context("PostgreSQL closed the connection")
    }

    /// Reads messages up to "ready for query"; the first error among them is the outcome.
    fn wait_until_ready(&mut self) -> Result<()> {
        let mut failure = None;
        loop {
            let (kind, body) = self.receive()?;
            match kind {
                b'Z' => return failure.map_or(Ok(()), Err),
                b'R' if body != [0, 0, 0, 0] => bail!("PostgreSQL asks for a password on its private socket"),
                b'E' => {
                    let error = anyhow::anyhow!("PostgreSQL: {}", error_text(&body));
                    // No "ready" follows an error that ends the connection.
                    if is_fatal(&body) {
                        return Err(error);
                    }
                    failure.get_or_insert(error);
                }
                _ => {}
            }
        }
    }

    fn receive(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0_u8; 5];
        self.stream
            .read_exact(&mut head)
            .context("PostgreSQL closed the connection")?;
        let [kind, a, b, c, d] = head;
        let length = u32::from_be_bytes([a, b, c, d])
            .checked_sub(4)
            .context("a message of impossible length")?;
        let mut body = vec![0_u8; usize::try_from(length)?];
        self.stream
            .read_exact(&mut body)
            .context("PostgreSQL closed the connection")?;
        Ok((kind, body))
    }
}

/// One field of an error message, by its code.
fn field(body: &[u8], code: u8) -> Option<String> {
    let found = body
        .split(|byte| *byte == 0)
        .find(|field| field.first() == Some(&code))?;
    Some(String::from_utf8_lossy(&found[1..]).into_owned())
}

fn error_text(body: &[u8]) -> String {
    field(body, b'M').unwrap_or_else(|| "an error without a message".to_owned())
}

fn is_fatal(body: &[u8]) -> bool {
    field(body, b'V').is_some_and(|severity| matches!(severity.as_str(), "FATAL" | "PANIC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_message_is_taken_apart_by_field_codes() {
        let body = b"SERROR\0VERROR\0C42P04\0Mdatabase \"demo_hq\" already exists\0\0";
        assert_eq!(error_text(body), "database \"demo_hq\" already exists");
        assert!(!is_fatal(body));
        assert!(is_fatal(
            b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
        ));
    }
}
