//! Of the demo: the data set's files.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

use super::idx::{CLASSES, MAX_ITEMS, PIXELS, read_images, read_labels};

/// A file of images or of labels: the first byte says of which, and whether what follows is compressed already.
///
/// # Panics
/// If what is read is not as many items as there may be, or a label is none.
#[must_use]
pub fn idx(bytes: &[u8]) -> bool {
    let Some((which, bytes)) = bytes.split_first() else { return false };
    let mut file = bytes.to_vec();
    if which & 2 == 0 {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory");
        file = encoder.finish().expect("memory");
    }
    if which % 2 == 0 {
        let Ok(images) = read_images(&file) else { return false };
        assert!(images.len() % PIXELS == 0 && (1..=MAX_ITEMS).contains(&(images.len() / PIXELS)));
    } else {
        let Ok(labels) = read_labels(&file) else { return false };
        assert!((1..=MAX_ITEMS).contains(&labels.len()));
        assert!(labels.iter().all(|label| usize::from(*label) < CLASSES));
    }
    true
}
