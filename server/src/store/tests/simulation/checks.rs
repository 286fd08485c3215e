//! What holds after every list.

use futures::TryStreamExt as _;

use super::{
    super::*,
    course::{Course, RUN},
    list::{ONES, Parcel, SITES},
    place::files,
};
use crate::model::RoundRecord;

impl Course<'_> {
    pub(super) async fn check(&mut self) {
        for record in self.rounds().await {
            let round = record.round.number;
            assert!(record.round.state.is_terminal(), "{record:?}");
            let State::Published { global } = record.round.state else {
                assert!(!self.published.contains_key(&round), "what was published stays so: {record:?}");
                continue;
            };
            assert_eq!(self.published.get(&round), Some(&global), "one model a round, for ever");
            self.check_model(&record, &global).await;
        }
        self.check_bytes().await;
    }

    /// The model spells out who was counted, and how often: each whose update is held, once.
    async fn check_model(&mut self, record: &RoundRecord, global: &Digest) {
        let (mut counted, mut expected) = (0_u8, [0.0_f32; 2 * SITES.len()]);
        for site in 0..SITES.len() {
            if let Some(parcel) = self.counted(record.round.number, site).await {
                counted += 1;
                expected[parcel.place()] = 1.0;
            }
        }
        assert!(u32::from(counted) >= record.round.window.quorum, "{record:?}");
        let store = self.store();
        let size = store.checkpoint(global).await.expect("read").expect("a row").size;
        let parts = store.object(global, 0..size).await.expect("there").stream;
        let bytes: Vec<u8> = parts.map_ok(|part| part.to_vec()).try_concat().await.expect("read");
        assert_eq!(Digest::of(&bytes), *global);
        let model = Checkpoint::from_bytes(&bytes).expect("valid");
        for (info, tensor) in layout().tensors().iter().zip(model.tensors()) {
            let spelled = tensor.to_f32().into_iter().map(|value| value * f32::from(counted));
            let expected = if &*info.name == ONES { expected } else { [0.0; 2 * SITES.len()] };
            for (spelled, expected) in spelled.zip(expected) {
                assert!((spelled - expected).abs() < 1e-3, "{record:?}: {:?}", tensor.to_f32());
            }
        }
    }

    /// What the site's held update of a published round is; nothing if it has none.
    async fn counted(&mut self, round: u32, index: usize) -> Option<Parcel> {
        let (store, site) = (self.store(), SITES[index]);
        let held = store.update_that_counts(RUN, round, site).await.expect("read");
        let receipt = self.receipts.get(&(round, index));
        let Some(update) = held.filter(|update| update.state.accepted_at_ms().is_some()) else {
            if let Some(receipt) = receipt {
                let lost = store.update_of_site(site, &receipt.update_id).await.expect("read");
                assert!(matches!(lost.state, UpdateState::Rejected { .. }), "lost: {lost:?}");
            }
            return None;
        };
        assert!(matches!(update.state, UpdateState::Aligned { .. }), "{update:?}");
        let heard = receipt.is_some_and(|receipt| receipt.update_id == update.id);
        if heard {
            assert_eq!(receipt.map(|receipt| receipt.digest), Some(update.digest));
        } else {
            let finished = self.unheard.contains(&(round, index, update.digest));
            assert!(finished, "nobody finished it: {update:?}");
            if let Some(receipt) = receipt {
                let before = store.update_of_site(site, &receipt.update_id).await.expect("read");
                assert!(matches!(before.state, UpdateState::Rejected { .. }), "two are held: {before:?}");
            }
        }
        let parcels = [false, true].map(|other| Parcel { site: index, other });
        let sent = parcels.into_iter().find(|parcel| parcel.digest() == update.digest);
        Some(sent.expect("what the site sent"))
    }

    /// Rows and bytes agree, and nothing is left over once it is old enough.
    async fn check_bytes(&mut self) {
        for replica in 0..self.place.replicas.len() {
            self.replica = replica;
            self.sweep().await;
            let store = self.store();
            let left = files(&store.staging_dir);
            assert!(left.is_empty(), "in the staging folder: {left:?}");
        }
        assert!(self.place.parts().is_empty(), "parts of uploads: {:?}", self.place.parts());
        let mut found = Vec::new();
        let whole = self.store().fsck(true, &mut |finding| found.push(finding)).await;
        whole.expect("looked");
        assert!(found.is_empty(), "{found:?}");
    }
}
