//! Bytes that lie encrypted, for fuzzing: however they are written, cut short and read, they are the plain ones.

use std::{
    fs::{File, OpenOptions},
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use fedbasin_cipher::{FileKey, KEY_BYTES, WrappingKey};
use rebasin::{Digest, Limits, Scanner, Source as _};

use super::{Staging, source::StoredSource};
use crate::error::Code;

/// A file's key, wrapped for the file of that name.
const WRAPPED: &str = "ZcDNrgu5dBjLQ66z43FmVlVzDCHms/j6c+LPeYaguX/Mq8behHaTw5nY2GTr8xcyUDpm8E11tiRxSUZG";
const NAME: &[u8] = b"fuzzed";
const WRAPPING: [u8; KEY_BYTES] = [7; KEY_BYTES];
/// Elements of the largest checkpoint here.
const MOST_ELEMENTS: usize = 2 << 10;

/// An encrypted upload: a first byte that is odd stands for a wrapped key's text; otherwise two bytes say how large it is, and each
/// three that follow what is done: bytes are added, it is opened anew, read somewhere, cut as a power cut would, stored elsewhere.
///
/// # Panics
/// Where what is read is not what was added.
#[must_use]
pub fn staging(bytes: &[u8]) -> bool {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Some((which, bytes)) = bytes.split_first() else { return false };
    if which % 2 == 1 {
        return wrapped(bytes);
    }
    let Some((size, steps)) = bytes.split_first_chunk::<2>() else { return false };
    let folder = FOLDER.get_or_init(crate::fuzzed::folder);
    let path = folder.path().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    let upload = Upload { plain: plain(usize::from(u16::from_le_bytes(*size)) % MOST_ELEMENTS), path: &path };
    let well = upload.run(steps);
    std::fs::remove_file(&path).expect("its file");
    well
}

/// A key opens as the one that was wrapped, for its own file, or not at all.
fn wrapped(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let key = WrappingKey::new(&WRAPPING);
    assert!(key.open(b"other", text.to_owned()).is_err());
    let Ok(opened) = key.open(NAME, text.to_owned()) else { return false };
    let (mut left, mut right) = ([0; 16], [0; 16]);
    opened.cipher.apply(5, &mut left);
    file_key().cipher.apply(5, &mut right);
    assert_eq!(left, right, "{text:?}");
    true
}

fn file_key() -> FileKey {
    WrappingKey::new(&WRAPPING).open(NAME, WRAPPED.to_owned()).expect("the key above")
}

/// A checkpoint of so many elements, all of them finite.
fn plain(elements: usize) -> Vec<u8> {
    let end = elements * 4;
    let json = format!(r#"{{"w":{{"dtype":"F32","shape":[{elements}],"data_offsets":[0,{end}]}}}}"#);
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    for element in 0..elements as u32 {
        file.extend_from_slice(
            &(f32::from_bits(0x3f80_0000 | element.wrapping_mul(2_654_435_761) >> 9)).to_le_bytes(),
        );
    }
    file
}

struct Upload<'a> {
    plain: Vec<u8>,
    path: &'a Path,
}

impl Upload<'_> {
    fn size(&self) -> u64 {
        self.plain.len() as u64
    }

    fn open(&self) -> Staging {
        let scanner = Scanner::new(None, self.size(), Limits::default());
        Staging::open(self.path.to_owned(), self.size(), scanner, Some(file_key())).expect("what was taken")
    }

    fn run(&self, steps: &[u8]) -> bool {
        let mut staging = self.open();
        // Opening reads all that is there.
        let (steps, _) = steps.as_chunks::<3>();
        for &[what, low, high] in steps.iter().take(64) {
            let (number, written) = (u16::from_le_bytes([low, high]), staging.written());
            let (number, at) = (u64::from(number), usize::try_from(written).expect("small"));
            match what % 6 {
                0 | 1 => {
                    let count = usize::try_from(number.min(self.size() - written)).expect("small");
                    staging.append(&self.plain[at..at + count]).expect("as announced");
                    assert_eq!(staging.written(), written + count as u64);
                }
                2 => {
                    drop(staging);
                    staging = self.open();
                    assert_eq!(staging.written(), written, "what was added is there");
                }
                3 => self.look(number, written),
                4 => {
                    // What was not yet on the disk is gone, from anywhere on.
                    drop(staging);
                    let left = number.min(written);
                    OpenOptions::new()
                        .write(true)
                        .open(self.path)
                        .and_then(|file| file.set_len(left))
                        .expect("cut");
                    staging = self.open();
                    assert_eq!(staging.written(), left);
                }
                _ => {
                    if let Some((from, mut bytes)) = staging.unsynced().expect("readable") {
                        file_key().cipher.apply(from, &mut bytes);
                        assert!(
                            self.plain[usize::try_from(from).expect("small")..at] == bytes,
                            "{from}..{at}"
                        );
                    }
                    staging.stored_elsewhere();
                    assert_eq!(staging.durable(), written);
                }
            }
        }
        self.look(0, staging.written());
        if !staging.is_whole() {
            let error = staging.seal(Some(Digest::of(&self.plain))).expect_err("bytes are missing");
            assert_eq!(error.code(), Code::Incomplete);
            return false;
        }
        assert!(staging.append(b"x").is_err(), "more than was announced");
        staging.stored_elsewhere();
        let sealed = staging.seal(Some(Digest::of(&self.plain))).expect("a whole checkpoint");
        assert_eq!(sealed.size, self.size());
        self.stored(steps);
        true
    }

    /// What lies on the disk from `from` on is what was added there, turned.
    fn look(&self, from: u64, written: u64) {
        let mut bytes = std::fs::read(self.path).expect("its file");
        assert_eq!(bytes.len() as u64, written);
        let from = usize::try_from(from.min(written)).expect("small");
        let plain = &self.plain[from..bytes.len()];
        assert!(plain.len() < 16 || plain != &bytes[from..], "it lies plain");
        file_key().cipher.apply(from as u64, &mut bytes[from..]);
        assert!(bytes[from..] == *plain, "from {from} on");
    }

    /// The same of a whole file, as merging and downloads read it.
    fn stored(&self, steps: &[[u8; 3]]) {
        let source = StoredSource::open(File::open(self.path).expect("its file"), Some(file_key().cipher));
        let source = source.expect("a checkpoint");
        assert_eq!(source.header().file_size(), self.size());
        for &[what, low, high] in steps {
            let from = usize::from(u16::from_le_bytes([low, high])).min(self.plain.len());
            let to = (from + usize::from(what)).min(self.plain.len());
            let mut bytes = vec![0; to - from];
            source.read_at(from as u64, &mut bytes).expect("within the file");
            assert!(bytes == self.plain[from..to], "{from}..{to}");
        }
    }
}
