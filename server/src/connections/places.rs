//! How many connections there are, in all and from one address, and how fast one address opens them.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    config::Limits,
    rates::{Rates, network},
    telemetry::{Counting, Edge, Telemetry},
};

/// So often the log says at the most that connections are turned away.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// The connections that there are. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct Places {
    taken: Arc<Mutex<Taken>>,
    rates: Arc<Rates<IpAddr>>,
    most: usize,
    most_of_one: usize,
    edge: Edge,
    telemetry: Telemetry,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
    turned_away: u64,
    said: Option<Instant>,
}

/// One connection's place, free again when it is dropped.
pub(super) struct Place {
    places: Places,
    network: IpAddr,
    _open: Counting,
}

impl Places {
    pub(super) fn new(limits: &Limits, edge: Edge, telemetry: &Telemetry) -> Self {
        Self {
            taken: Arc::default(),
            rates: Arc::new(Rates::new(limits.max_new_connections_per_minute_per_address)),
            most: limits.max_connections,
            most_of_one: limits.max_connections_per_address,
            edge,
            telemetry: telemetry.clone(),
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if one is left for this address; else says so in the log, seldom.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let network = network(address);
        let mut taken = self.taken();
        let own = taken.by_network.get(&network).copied().unwrap_or_default();
        let limit = if taken.all >= self.most {
            "max_connections"
        } else if own >= self.most_of_one {
            "max_connections_per_address"
        } else if self.rates.take(network).is_err() {
            "max_new_connections_per_minute_per_address"
        } else {
            taken.all += 1;
            taken.by_network.insert(network, own + 1);
            let _open = self.telemetry.connection(self.edge);
            return Some(Place { places: self.clone(), network, _open });
        };
        self.telemetry.refused(limit);
        taken.turned_away += 1;
        if taken.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            taken.said = Some(Instant::now());
            tracing::warn!(
                peer.address = %address,
                connections.open = taken.all,
                connections.turned_away = taken.turned_away,
                "connections are turned away, by limits.{limit}"
            );
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        match taken.by_network.get_mut(&self.network) {
            Some(own) if *own > 1 => *own -= 1,
            _ => _ = taken.by_network.remove(&self.network),
        }
    }
}
