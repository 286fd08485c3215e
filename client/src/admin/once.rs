//! Calls that make something, made once: each has a key of its own, which it keeps however often it is sent.

use std::{thread, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::Admin;
use crate::{
    error::{Error, Result},
    retry::Again,
};

/// How often such a call is sent at the most.
const TRIES: u32 = 3;
/// Before it is sent again, where the server does not say how long.
const PAUSE: Duration = Duration::from_secs(1);
/// Who is asked to wait longer than this is told so instead.
const MOST_PAUSE: Duration = Duration::from_secs(5);

impl Admin {
    /// A POST that makes something: where its answer is lost it is sent again, and nothing is made twice.
    pub(super) fn make<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let key = key()?;
        let mut tries = 1;
        loop {
            let url = self.begin_change(path)?;
            let request = self.agent.post(&url).header("authorization", self.token.bearer());
            let error = match self.decode(&url, request.header("idempotency-key", &key).send_json(body)) {
                Ok(made) => return Ok(made),
                Err(error) => error,
            };
            let pause = pause(&error).filter(|_| tries < TRIES);
            thread::sleep(pause.ok_or(error)?);
            tries += 1;
        }
    }
}

/// How long to wait before the same call, if it may be answered then.
fn pause(error: &Error) -> Option<Duration> {
    match error.again() {
        Again::Soon => Some(PAUSE),
        Again::After(wait) if wait <= MOST_PAUSE => Some(wait),
        // The call that came before is under way still.
        Again::Never if error.code() == Some("idempotency-key-in-use") => Some(PAUSE),
        Again::After(_) | Again::Never => None,
    }
}

/// Nobody guesses it, and no two calls have the same.
fn key() -> Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Error::failed(error, "random numbers", "see the system"))?;
    Ok(hex::encode(random))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;
    use crate::connect::{Address, Token};

    /// The key of a call, whose body is read to its end.
    fn key_of(reader: &mut impl std::io::BufRead) -> String {
        let (mut key, mut length) = (String::new(), 0);
        for line in reader.by_ref().lines() {
            let line = line.unwrap().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("idempotency-key", value)) => value.clone_into(&mut key),
                Some(("content-length", value)) => length = value.parse().unwrap(),
                None if line.is_empty() => break,
                _ => {}
            }
        }
        std::io::copy(&mut reader.take(length), &mut std::io::sink()).unwrap();
        key
    }

    #[test]
    fn a_call_whose_answer_is_lost_is_sent_again_with_its_key_and_another_call_has_another() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let mut keys = Vec::new();
            // The first call is never answered.
            for answered in [false, true, true] {
                let (mut stream, _) = listener.accept().unwrap();
                keys.push(key_of(&mut BufReader::new(&stream)));
                if answered {
                    let body = r#"{"made":1}"#;
                    let head = "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nconnection: close";
                    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
                }
            }
            keys
        });
        let address = Address { url, ca: None, insecure: false, identity: None };
        let admin = Admin::new(address, Token::new("fba_x")).unwrap();
        for _ in 0..2 {
            let made: serde_json::Value = admin.make("/v1/runs", &serde_json::json!({})).unwrap();
            assert_eq!(made["made"], 1);
        }
        let keys = server.join().unwrap();
        assert_eq!((keys[0].len(), &keys[0]), (32, &keys[1]));
        assert_ne!(keys[1], keys[2]);
    }

    #[test]
    fn what_is_refused_or_asked_to_wait_long_is_not_sent_again() {
        let error = || Error::failed("no", "x", "y");
        assert_eq!(pause(&error()), None);
        assert_eq!(pause(&error().passing(Again::After(Duration::from_secs(60)))), None);
        assert_eq!(
            pause(&error().passing(Again::After(Duration::from_secs(2)))),
            Some(Duration::from_secs(2))
        );
        assert_eq!(pause(&error().passing(Again::Soon)), Some(PAUSE));
        assert_eq!(pause(&error().with_code(Some("idempotency-key-in-use".into()))), Some(PAUSE));
        assert_eq!(pause(&error().with_code(Some("conflict".into()))), None);
    }
}
