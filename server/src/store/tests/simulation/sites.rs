//! What sites do, and what the edge makes of it.

use super::{
    super::*,
    course::{Course, RUN, Told},
    list::{Eighths, Parcel, SITES},
    place::announced,
};

impl Course<'_> {
    /// Announces an update; gives its id where it is to be sent.
    pub(super) async fn announce(&mut self, round: u32, parcel: Parcel) -> Option<String> {
        let store = self.store();
        let begun =
            async move { store.begin_update(SITES[parcel.site], &announced(RUN, round, parcel)).await };
        let Told::Done(update) = self.under_fault("begin", begun).await else { return None };
        if let Some(receipt) = update.receipt() {
            self.received(round, parcel, receipt).await;
            return None;
        }
        self.uploads.insert((round, parcel), update.id.clone());
        Some(update.id)
    }

    /// An upload that was begun: of that parcel, else of that site, else any; the newest of them.
    pub(super) fn begun(&self, parcel: Parcel) -> Option<(u32, Parcel, String)> {
        let same = |(_, begun): &(u32, Parcel)| (*begun == parcel, begun.site == parcel.site);
        let (key, id) = self.uploads.iter().max_by_key(|(key, _)| (same(key), **key))?;
        Some((key.0, key.1, id.clone()))
    }

    pub(super) async fn send(&mut self, round: u32, parcel: Parcel) {
        let Some(id) = self.announce(round, parcel).await else { return };
        if self.go_on(round, parcel, &id, 8, false).await {
            self.finish(round, parcel, id).await;
        }
    }

    pub(super) async fn chunk(&mut self, parcel: Parcel, eighths: Eighths, garbled: bool) {
        let (round, parcel, id) = match self.begun(parcel) {
            Some(begun) => begun,
            None => {
                let round = self.newest().await;
                let Some(id) = self.announce(round, parcel).await else { return };
                (round, parcel, id)
            }
        };
        self.go_on(round, parcel, &id, eighths, garbled).await;
    }

    /// Goes on with an upload; tells whether it went well.
    async fn go_on(&mut self, round: u32, parcel: Parcel, id: &str, eighths: Eighths, garbled: bool) -> bool {
        let received = receive(self.store(), parcel, id.to_owned(), eighths, garbled);
        match self.under_fault("receive", received).await {
            Told::Done(from) => {
                self.tally.resumed += u32::from(from > 0);
                true
            }
            Told::Refused(_) => {
                self.uploads.remove(&(round, parcel));
                false
            }
            Told::Died | Told::Gone => false,
        }
    }

    pub(super) async fn stale(&mut self, parcel: Parcel) {
        let Some((_, parcel, id)) = self.begun(parcel) else { return };
        let store = self.store();
        let written = async move {
            under_way(&store.update_of_site(SITES[parcel.site], &id).await?)?;
            let before = store.received_bytes(&id).await?;
            if store.is_shared() && before > 0 {
                let late = store.put_part(&id, 0, parcel.bytes()[..8].to_vec()).await;
                let refused = late.expect_err("there are other bytes");
                assert_eq!(refused.code(), Code::OffsetMismatch);
                assert_eq!(store.received_bytes(&id).await?, before);
            }
            Ok(())
        };
        self.under_fault("stale", written).await;
    }

    pub(super) async fn overflow(&mut self, parcel: Parcel) {
        let Some((_, parcel, id)) = self.begun(parcel) else { return };
        let store = self.store();
        let sent = async move {
            let update = store.update_of_site(SITES[parcel.site], &id).await?;
            under_way(&update)?;
            store.restore_staging(&id).await?;
            let mut staging = staging(&store, &update).await?;
            let missing = usize::try_from(update.size - staging.written()).expect("small");
            let more = staging.append(&vec![0; missing + 1]);
            assert_eq!(more.as_ref().map_err(Error::code), Err(Code::InvalidCheckpoint));
            reject_if_invalid(&store, &id, more).await
        };
        let told = self.under_fault("overflow", sent).await;
        assert!(!matches!(told, Told::Done(())), "more bytes than were announced");
    }

    pub(super) async fn finish(&mut self, round: u32, parcel: Parcel, id: String) {
        let finished = finish(self.store(), parcel, id.clone());
        match self.under_fault("finish", finished).await {
            Told::Done(receipt) => self.received(round, parcel, receipt).await,
            Told::Refused(error) if error.code() == Code::Incomplete => {}
            Told::Refused(error) => {
                self.tally.rejected += u32::from(error.code() == Code::InvalidCheckpoint);
                self.uploads.remove(&(round, parcel));
            }
            Told::Died | Told::Gone => {
                self.unheard.insert((round, parcel.site, parcel.digest()));
                let update = self.store().update_of_site(SITES[parcel.site], &id).await.expect("read");
                self.tally.unheard_receipts += u32::from(update.receipt().is_some());
            }
        }
    }

    /// The site keeps its receipt, and compares it with the one before.
    async fn received(&mut self, round: u32, parcel: Parcel, receipt: Receipt) {
        assert_eq!((receipt.round, receipt.digest), (round, parcel.digest()));
        assert_eq!((receipt.site_id.as_str(), receipt.run_id.as_str()), (SITES[parcel.site], RUN));
        self.tally.receipts += 1;
        self.uploads.remove(&(round, parcel));
        let store = self.store();
        let first = self.receipts.entry((round, parcel.site)).or_insert_with(|| receipt.clone());
        if *first != receipt {
            // Only where the first one was rejected, by its own fault or because no worker ever ended with it.
            let before = store.update_of_site(SITES[parcel.site], &first.update_id).await.expect("read");
            assert!(matches!(before.state, UpdateState::Rejected { .. }), "two receipts: {before:?}");
            *first = receipt;
        }
    }
}

/// Takes the next bytes of an upload and makes them durable, as the edge does. Gives where they began.
async fn receive(store: Store, parcel: Parcel, id: String, eighths: Eighths, garbled: bool) -> Result<u64> {
    let update = store.update_of_site(SITES[parcel.site], &id).await?;
    under_way(&update)?;
    let taken = async {
        store.restore_staging(&id).await?;
        let mut staging = staging(&store, &update).await?;
        let from = staging.written();
        let missing = &parcel.bytes()[usize::try_from(from).expect("small")..];
        let mut chunk = missing[..missing.len().min(parcel.bytes().len().div_ceil(8) * eighths)].to_vec();
        if let (true, Some(byte)) = (garbled, chunk.last_mut()) {
            *byte ^= 1;
        }
        staging.append(&chunk)?;
        if !store.is_shared() {
            staging.sync()?;
        } else if let Some((offset, bytes)) = staging.unsynced()? {
            store.put_part(&id, offset, bytes).await?;
        }
        Ok(from)
    };
    let outcome = taken.await;
    reject_if_invalid(&store, &id, outcome).await
}

/// Checks and accepts an upload, as the edge does.
async fn finish(store: Store, parcel: Parcel, id: String) -> Result<Receipt> {
    let update = store.update_of_site(SITES[parcel.site], &id).await?;
    if let Some(receipt) = update.receipt() {
        return Ok(receipt);
    }
    under_way(&update)?;
    let accepted = async {
        store.restore_staging(&id).await?;
        let sealed = staging(&store, &update).await?.seal(Some(update.digest))?;
        store.accept_update(&update, sealed).await
    };
    let outcome = accepted.await;
    reject_if_invalid(&store, &id, outcome).await
}

async fn reject_if_invalid<T>(store: &Store, id: &str, outcome: Result<T>) -> Result<T> {
    if let Err(error) = &outcome
        && error.code() == Code::InvalidCheckpoint
    {
        store.reject_update(id, error.message()).await?;
    }
    outcome
}

fn under_way(update: &Update) -> Result<()> {
    let code = match &update.state {
        UpdateState::Receiving => return Ok(()),
        UpdateState::Accepted { .. } | UpdateState::Aligned { .. } => Code::Conflict,
        UpdateState::Rejected { .. } => Code::InvalidCheckpoint,
        UpdateState::Declined { .. } => Code::RoundClosed,
    };
    Err(Error::new(code, "it is no longer under way"))
}
