//! How often something may happen within a minute.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// So many are remembered before those are forgotten that have their whole minute's worth again.
const REMEMBERED: usize = 10_000;

/// A bucket for each key: what is not used is saved up, for a minute.
pub(crate) struct Rates<K> {
    buckets: Mutex<HashMap<K, Bucket>>,
    per_minute: f64,
}

struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Eq + Hash> Rates<K> {
    pub(crate) fn new(per_minute: u32) -> Self {
        Self { buckets: Mutex::default(), per_minute: per_minute.into() }
    }

    fn buckets(&self) -> MutexGuard<'_, HashMap<K, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is left at `now`.
    fn left(&self, bucket: &Bucket, now: Instant) -> f64 {
        let saved = now.saturating_duration_since(bucket.at).as_secs_f64() * self.per_minute / 60.0;
        (bucket.left + saved).min(self.per_minute)
    }

    /// Takes one.
    ///
    /// # Errors
    /// Nothing is left: how long until one is.
    pub(crate) fn take(&self, key: K) -> Result<(), Duration> {
        self.take_at(key, Instant::now())
    }

    fn take_at(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets();
        if buckets.len() >= REMEMBERED && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| self.left(bucket, now) < self.per_minute);
        }
        let bucket = buckets.entry(key).or_insert(Bucket { left: self.per_minute, at: now });
        let left = self.left(bucket, now);
        let outcome = if left >= 1.0 { Ok(()) } else { Err(self.until_one(left)) };
        *bucket = Bucket { left: if outcome.is_ok() { left - 1.0 } else { left }, at: now };
        outcome
    }

    /// Whether one is left, without taking it.
    ///
    /// # Errors
    /// Nothing is left: how long until one is.
    pub(crate) fn look(&self, key: &K) -> Result<(), Duration> {
        let left =
            self.buckets().get(key).map_or(self.per_minute, |bucket| self.left(bucket, Instant::now()));
        if left >= 1.0 { Ok(()) } else { Err(self.until_one(left)) }
    }

    fn until_one(&self, left: f64) -> Duration {
        Duration::from_secs_f64((1.0 - left) * 60.0 / self.per_minute)
    }
}

/// What counts as one address: of IPv6 a /64, which is one peer's own.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests;
