//! Fashion-MNIST in memory: read from the four original files, normalised for training.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::idx::{self, PIXELS};

#[cfg(test)]
mod tests;

/// Mean of the training pixels divided by 255, as used by the field for Fashion-MNIST (rounded).
const MEAN: f32 = 0.286;
/// Standard deviation of the same.
const DEVIATION: f32 = 0.353;

/// Images with their labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// `len() * PIXELS` values, image by image, `(x / 255 - 0.286) / 0.353`.
    pub images: Vec<f32>,
    /// `len()` classes, each `0..CLASSES`.
    pub labels: Vec<u8>,
}

impl Dataset {
    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The images at these indices, in this order.
    ///
    /// # Panics
    /// If an index is out of bounds.
    #[must_use]
    pub fn select(&self, indices: &[usize]) -> Self {
        let mut images = Vec::with_capacity(indices.len() * PIXELS);
        for &index in indices {
            images.extend_from_slice(&self.images[index * PIXELS..(index + 1) * PIXELS]);
        }
        Self { images, labels: indices.iter().map(|&index| self.labels[index]).collect() }
    }
}

/// The training images in `folder` (`train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz`).
///
/// # Errors
/// A file is missing, hostile, or the two do not fit each other.
pub fn load_train(folder: &Path) -> anyhow::Result<Dataset> {
    load(folder, "train")
}

/// The test images in `folder` (`t10k-images-idx3-ubyte.gz`, `t10k-labels-idx1-ubyte.gz`).
///
/// # Errors
/// As [`load_train`].
pub fn load_test(folder: &Path) -> anyhow::Result<Dataset> {
    load(folder, "t10k")
}

fn load(folder: &Path, part: &str) -> anyhow::Result<Dataset> {
    let images = folder.join(format!("{part}-images-idx3-ubyte.gz"));
    let labels = folder.join(format!("{part}-labels-idx1-ubyte.gz"));
    let pixels = idx::read_images(&read(&images)?).with_context(|| images.display().to_string())?;
    let classes = idx::read_labels(&read(&labels)?).with_context(|| labels.display().to_string())?;
    if pixels.len() != classes.len() * PIXELS {
        bail!(
            "{}: {} images but {} labels; take both files from one data set",
            folder.display(),
            pixels.len() / PIXELS,
            classes.len()
        );
    }
    let images = pixels.iter().map(|&pixel| (f32::from(pixel) / 255.0 - MEAN) / DEVIATION).collect();
    Ok(Dataset { images, labels: classes })
}

/// Whole file, bounded: the largest original file has 26 MB.
fn read(path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    const MOST: u64 = 64 << 20;
    let hint =
        || format!("cannot read {}: --data needs the folder of the four original .gz files", path.display());
    let size = std::fs::metadata(path).with_context(hint)?.len();
    if size > MOST {
        bail!("{}: {size} bytes, at most {MOST} expected", path.display());
    }
    std::fs::read(path).with_context(hint)
}
