//! A server is held to what it showed before: its keys, and a log that only grows.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fedbasin_proof::{PublicKeys, SignedHead, merkle::Hash};
use serde::Deserialize;

use super::{Admin, audit::Keys};
use crate::{
    error::{Error, Result},
    files::{create_private, write_error},
    progress::Screen,
    trust::{BEHIND, Seen, grew},
};

/// What was seen of the server, and whether it was compared with what it shows now.
#[derive(Debug)]
pub(super) struct Held {
    seen: Seen,
    screen: Screen,
    compared: Mutex<bool>,
}

/// What one look at the server's log found.
enum Look {
    /// It goes on from what was seen before.
    Grown(SignedHead),
    /// It may yet: a process that is behind another one, or that signed nothing since it started.
    Behind(String),
}

impl Admin {
    /// The same, which before its first call makes sure that the server signs with the keys that it had, and that its audit log goes on
    /// from the head that was seen last. Both are kept in `folder`, which is of this server alone; what is not there yet is trusted as it
    /// comes, and said.
    #[must_use]
    pub fn holding_to(self, folder: &Path, screen: &Screen) -> Self {
        let held =
            Held { seen: Seen::in_folder(folder), screen: screen.clone(), compared: Mutex::new(false) };
        Self { held: Some(Arc::new(held)), ..self }
    }

    /// Compares once what the server shows with what it showed before.
    ///
    /// # Errors
    /// It has other keys or another log, or the log was rolled back or rewritten; nothing else was sent then. The server does not
    /// answer, or files cannot be read or written.
    pub(super) fn compare(&self) -> Result<()> {
        let Some(held) = &self.held else { return Ok(()) };
        let mut compared = held.compared.lock().unwrap_or_else(PoisonError::into_inner);
        if !*compared {
            self.hold(held)?;
            *compared = true;
        }
        Ok(())
    }

    /// Compares before the next call again: for whoever lost the server and does not know who answers next.
    pub fn compare_again(&self) {
        if let Some(held) = &self.held {
            *held.compared.lock().unwrap_or_else(PoisonError::into_inner) = false;
        }
    }

    fn hold(&self, held: &Held) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.look(held)? {
                Look::Grown(head) => return held.seen.keep_head(&head),
                Look::Behind(what) if begun.elapsed() > BEHIND => return Err(self.refused(held, &what)),
                Look::Behind(_) => std::thread::sleep(Duration::from_millis(500)),
            }
        }
    }

    fn look(&self, held: &Held) -> Result<Look> {
        let refused = |what: &dyn fmt::Display| self.refused(held, what);
        let (named, word) = self.keys_and_head()?;
        let named = PublicKeys::from_pem(&named.keys).map_err(|error| refused(&error))?;
        let known = held.seen.keys()?;
        if let Some(known) = &known
            && *known != named
        {
            return Err(refused(&format_args!(
                "the server signs with the keys {}, before it did with {}",
                named.fingerprint(),
                known.fingerprint()
            )));
        }
        if word.is_empty() {
            return Ok(Look::Behind("its head does not come with answers".into()));
        }
        let head = SignedHead::from_word(&word, &named).map_err(|error| refused(&error))?;
        let kept = held.seen.head(&named)?;
        let Some(kept) = kept else {
            if known.is_none() {
                self.note(held, &named, &head)?;
            }
            return Ok(Look::Grown(head));
        };
        if kept.head.origin != head.head.origin {
            return Err(refused(&format_args!(
                "is {}, it was {} before: another log",
                head.head.origin, kept.head.origin
            )));
        }
        let (seen, now) = (kept.head.size, head.head.size);
        let growth = self.growth(seen, now.max(seen)).map_err(|error| match error.code() {
            Some("invalid-argument") => {
                refused(&format_args!("has fewer than the {seen} records that were seen: it was rolled back"))
            }
            _ => error,
        })?;
        if now < seen {
            return Ok(Look::Behind(format!(
                "has {now} records, of which {seen} were seen: it was rolled back"
            )));
        }
        grew(&kept.head, &head.head, &growth).map_err(|error| refused(&error))?;
        Ok(Look::Grown(head))
    }

    /// Keeps the keys of a server that was never seen before.
    fn note(&self, held: &Held, keys: &PublicKeys, head: &SignedHead) -> Result<()> {
        let folder = held.seen.folder();
        create_private(folder).map_err(|error| write_error(folder, &error).with_remedy(STATE_REMEDY))?;
        held.seen.keep_keys(keys)?;
        held.screen.remark(format_args!(
            "{} is seen for the first time: it signs with the keys {}, its log is {}, of {} records; no other keys are taken from \
             now on, and no log that does not go on from these (kept in {})",
            self.address.url,
            keys.fingerprint(),
            head.head.origin,
            head.head.size,
            folder.display()
        ));
        Ok(())
    }

    fn refused(&self, held: &Held, what: &dyn fmt::Display) -> Error {
        let remedy = format!(
            "do nothing there before you know why; if it was restored from a backup (what was done since is gone), or is another server \
             at an old address, remove {} and it is trusted anew as it is then; the token was shown to it: revoke that, if it is not yours",
            held.seen.folder().display()
        );
        Error::failed(what, format_args!("the audit log of {}", self.address.url), remedy)
    }

    /// The server's keys, and the signed head that comes with the answer; empty where none does.
    fn keys_and_head(&self) -> Result<(Keys, String)> {
        let url = self.url("/v1/keys");
        let request = self.agent.get(&url).header("authorization", self.token.bearer());
        let response = self.accept(&url, request.call())?;
        let word =
            response.headers().get(fedbasin_proto::HEAD_METADATA_KEY).and_then(|word| word.to_str().ok());
        let word = word.unwrap_or_default().to_owned();
        Ok((Self::read(&url, response)?, word))
    }

    /// What shows that the log of `first` records is the beginning of that of `second`.
    fn growth(&self, first: u64, second: u64) -> Result<Vec<Hash>> {
        #[derive(Deserialize)]
        struct Growth {
            hashes: Vec<String>,
        }
        let url = self.url(&format!("/v1/audit/growth?first={first}&second={second}"));
        let growth: Growth = self.fetch(&url)?;
        let hash = |text: &String| hex::decode(text).ok().and_then(|bytes| Hash::try_from(bytes).ok());
        growth.hashes.iter().map(hash).collect::<Option<_>>().ok_or_else(|| {
            Error::failed("its proof holds something that is no hash", url, "see the server's version")
        })
    }
}

/// What to do where nothing can be kept.
const STATE_REMEDY: &str = "name a folder where you may write: --state-dir or FEDBASIN_STATE_DIR";
