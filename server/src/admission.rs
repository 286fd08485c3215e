//! Who may call now: calls within a minute, calls at once, and the bytes that all of them may hold.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    config::Limits,
    error::{Code, Error, RETRY_AFTER, Result},
    rates::{Rates, network},
    telemetry::Telemetry,
};

/// Tokens and certificates that opened something here, of which so many are remembered at the most.
const KNOWN: usize = 10_000;

/// In this unit bytes in flight are counted.
const UNIT: u64 = 1 << 10;

const OF_SITES: &str = "max_calls_per_minute_per_site";
const OF_PEOPLE: &str = "max_calls_per_minute_per_person";
const OF_ADDRESSES: &str = "max_calls_per_minute_per_address";

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// A site.
    Site(String),
    /// A person, by the id of a token.
    Person(String),
    /// Whoever calls from there, where nobody needs to be known.
    Address(IpAddr),
}

/// What the limits let in. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Admission(Arc<Inner>);

struct Inner {
    limits: Limits,
    telemetry: Telemetry,
    of_sites: Rates<String>,
    of_people: Rates<String>,
    of_addresses: Rates<IpAddr>,
    at_once: Mutex<HashMap<Caller, usize>>,
    bytes: Arc<Semaphore>,
    /// Whose they are, by the hash of a token or the fingerprint of a certificate.
    known: Mutex<HashMap<String, Caller>>,
}

/// One call's right to be here, given back when it is dropped.
pub(crate) struct Permit {
    admission: Admission,
    caller: Caller,
    _bytes: OwnedSemaphorePermit,
}

impl Admission {
    pub(crate) fn new(limits: &Limits, telemetry: &Telemetry) -> Self {
        let units = usize::try_from(limits.max_bytes_in_flight / UNIT).unwrap_or(usize::MAX);
        Self(Arc::new(Inner {
            of_sites: Rates::new(limits.max_calls_per_minute_per_site),
            of_people: Rates::new(limits.max_calls_per_minute_per_person),
            of_addresses: Rates::new(limits.max_calls_per_minute_per_address),
            at_once: Mutex::default(),
            bytes: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            known: Mutex::default(),
            limits: limits.clone(),
            telemetry: telemetry.clone(),
        }))
    }

    /// What it goes by.
    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    fn at_once(&self) -> MutexGuard<'_, HashMap<Caller, usize>> {
        self.0.at_once.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Caller>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up what a caller shows (known by `shown`, a hash), unless too much of what came from its address opened nothing, or it has
    /// called too often. Who was let in here before is not held responsible for its neighbours. `who` tells whose it is.
    ///
    /// # Errors
    /// [`Code::TooMany`]; what `look_up` fails with.
    pub(crate) async fn identify<T>(
        &self,
        address: IpAddr,
        shown: &str,
        look_up: impl Future<Output = Result<T>>,
        who: impl Fn(&T) -> Caller,
    ) -> Result<T> {
        let network = network(address);
        let known = self.known().get(shown).cloned();
        let (left, limit) = match &known {
            Some(caller) => self.left(caller),
            None => (self.0.of_addresses.look(&network), OF_ADDRESSES),
        };
        left.map_err(|wait| self.too_often(limit, wait))?;
        let outcome = look_up.await;
        match &outcome {
            Ok(found) if known.is_none() => {
                let mut known = self.known();
                if known.len() >= KNOWN {
                    known.clear();
                }
                known.insert(shown.to_owned(), who(found));
            }
            Ok(_) => {}
            Err(error) if matches!(error.code(), Code::Unauthenticated | Code::Forbidden) => {
                // What opens nothing any more is a stranger's from now on.
                self.known().remove(shown);
                _ = self.0.of_addresses.take(network);
            }
            Err(_) => {}
        }
        outcome
    }

    /// Whether a caller may call once more, and the limit that says so.
    fn left(&self, caller: &Caller) -> (std::result::Result<(), Duration>, &'static str) {
        match caller {
            Caller::Site(site) => (self.0.of_sites.look(site), OF_SITES),
            Caller::Person(id) => (self.0.of_people.look(id), OF_PEOPLE),
            Caller::Address(address) => (self.0.of_addresses.look(&network(*address)), OF_ADDRESSES),
        }
    }

    /// Lets a call in that holds up to so many bytes.
    ///
    /// # Errors
    /// [`Code::TooMany`], with the limit and when to try again.
    pub(crate) fn admit(&self, caller: Caller, bytes: u64) -> Result<Permit> {
        let inner = &self.0;
        let (rate, limit) = match &caller {
            Caller::Site(site) => (inner.of_sites.take(site.clone()), OF_SITES),
            Caller::Person(id) => (inner.of_people.take(id.clone()), OF_PEOPLE),
            Caller::Address(address) => (inner.of_addresses.take(network(*address)), OF_ADDRESSES),
        };
        rate.map_err(|wait| self.too_often(limit, wait))?;
        let caller = match caller {
            Caller::Address(address) => Caller::Address(network(address)),
            other => other,
        };
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let held = Arc::clone(&inner.bytes).try_acquire_many_owned(units).map_err(|_| {
            inner.telemetry.refused("max_bytes_in_flight");
            too_many(
                "the calls under way here hold as many bytes as limits.max_bytes_in_flight lets them",
                RETRY_AFTER,
            )
        })?;
        let mut at_once = self.at_once();
        let count = at_once.entry(caller.clone()).or_default();
        if *count >= inner.limits.max_calls_per_caller {
            inner.telemetry.refused("max_calls_per_caller");
            let most = inner.limits.max_calls_per_caller;
            return Err(too_many(
                &format!(
                    "{most} calls of this caller are under way, as many as limits.max_calls_per_caller lets it"
                ),
                RETRY_AFTER,
            ));
        }
        *count += 1;
        drop(at_once);
        Ok(Permit { admission: self.clone(), caller, _bytes: held })
    }
}

impl Admission {
    fn too_often(&self, limit: &'static str, wait: Duration) -> Error {
        self.0.telemetry.refused(limit);
        too_many(&format!("more calls within a minute than limits.{limit}"), wait)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut at_once = self.admission.at_once();
        match at_once.get_mut(&self.caller) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = at_once.remove(&self.caller),
        }
    }
}

fn too_many(what: &str, wait: Duration) -> Error {
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    Error::too_many(format!("{what}; try again in {seconds} s"), wait)
}
