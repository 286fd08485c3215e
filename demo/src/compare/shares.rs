//! Who holds which images: two sites, each with most of its own classes, and a part of each share that is not trained on.

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::idx::CLASSES;

/// Of a class's images, so many in a hundred are at the site that owns it.
pub(super) const OWN_PERCENT: usize = 80;
/// Of each site's images, so many in a hundred are held back.
pub(super) const HELD_BACK_PERCENT: usize = 10;

/// Indices of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shares {
    /// What each site trains on.
    pub(super) sites: [Vec<usize>; 2],
    /// What both held back, together.
    pub(super) held_back: Vec<usize>,
}

/// Deals the images: the first five classes belong to site 0, the others to site 1. Each image goes to one place only.
pub(super) fn deal(labels: &[u8], seed: u64) -> Shares {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut sites = [Vec::new(), Vec::new()];
    for class in 0..CLASSES {
        let mut members: Vec<usize> =
            (0..labels.len()).filter(|&index| usize::from(labels[index]) == class).collect();
        members.shuffle(&mut rng);
        let owner = usize::from(class >= CLASSES / 2);
        let (own, rest) = members.split_at(members.len() * OWN_PERCENT / 100);
        sites[owner].extend_from_slice(own);
        sites[1 - owner].extend_from_slice(rest);
    }
    let mut held_back = Vec::new();
    for site in &mut sites {
        site.shuffle(&mut rng);
        let keep = site.len() - site.len() * HELD_BACK_PERCENT / 100;
        held_back.extend(site.drain(keep..));
    }
    Shares { sites, held_back }
}
