//! Who holds which images: disjoint, uneven shares, each dominated by the site's own classes.

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::idx::CLASSES;

#[cfg(test)]
mod tests;

/// Sites in the demo.
pub const SITES: usize = 4;

/// The classes that belong to each site: a partition of the ten. Sites with more classes hold more images.
pub const OWN_CLASSES: [&[u8]; SITES] = [&[0, 1, 2], &[3, 4, 5], &[6, 7], &[8, 9]];

/// Percentage of a class's images that its own site holds; the others share the rest evenly.
pub const OWN_PERCENT: usize = 80;

/// Deals the images to the sites: `result[site]` holds indices into `labels`, shuffled. Every image goes to exactly one site:
/// [`OWN_PERCENT`] of each class (rounded down) to the site that owns it, the rest in turn to the other three.
#[must_use]
pub fn split(labels: &[u8], seed: u64) -> [Vec<usize>; SITES] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut shares: [Vec<usize>; SITES] = Default::default();
    for class in 0..CLASSES as u8 {
        let mut members: Vec<usize> = (0..labels.len()).filter(|&index| labels[index] == class).collect();
        members.shuffle(&mut rng);
        // The classes are a partition: every class has an owner.
        let owner = OWN_CLASSES.iter().position(|own| own.contains(&class)).unwrap_or(0);
        let (own, rest) = members.split_at(members.len() * OWN_PERCENT / 100);
        shares[owner].extend_from_slice(own);
        for (turn, &index) in rest.iter().enumerate() {
            // Starting with another site for each class keeps the remainders even.
            let other = (turn + usize::from(class)) % (SITES - 1);
            shares[(owner + 1 + other) % SITES].push(index);
        }
    }
    for share in &mut shares {
        share.shuffle(&mut rng);
    }
    shares
}
