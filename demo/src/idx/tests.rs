use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn header(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn images(count: u32, rows: u32, columns: u32, bytes: usize) -> Vec<u8> {
    let mut file = header(&[0x0803, count, rows, columns]);
    file.resize(file.len() + bytes, 7);
    gzip(&file)
}

fn labels(count: u32, items: &[u8]) -> Vec<u8> {
    let mut file = header(&[0x0801, count]);
    file.extend_from_slice(items);
    gzip(&file)
}

#[test]
fn whole_files_are_read() {
    assert_eq!(read_images(&images(2, 28, 28, 2 * PIXELS)).unwrap(), vec![7; 2 * PIXELS]);
    assert_eq!(read_labels(&labels(3, &[0, 9, 4])).unwrap(), [0, 9, 4]);
}

#[test]
fn a_file_of_the_other_kind_is_refused() {
    let magic = IdxError::Magic { found: 0x0803, expected: 0x0801 };
    assert_eq!(read_labels(&images(1, 28, 28, PIXELS)), Err(magic));
    let magic = IdxError::Magic { found: 0x0801, expected: 0x0803 };
    assert_eq!(read_images(&labels(1, &[1])), Err(magic));
    // Same dimensions, but signed bytes (0x09) instead of unsigned ones.
    let file = gzip(&header(&[0x0903, 1, 28, 28]));
    assert!(matches!(read_images(&file), Err(IdxError::Magic { found: 0x0903, .. })));
}

#[test]
fn counts_and_shapes_out_of_bounds_are_refused_before_anything_is_reserved() {
    for count in [0, MAX_ITEMS as u32 + 1, u32::MAX] {
        assert_eq!(read_images(&images(count, 28, 28, PIXELS)), Err(IdxError::Count(count)));
        assert_eq!(read_labels(&labels(count, &[1])), Err(IdxError::Count(count)));
    }
    for (rows, columns) in [(28, 27), (0, 28), (784, 1), (u32::MAX, u32::MAX)] {
        assert_eq!(read_images(&images(1, rows, columns, PIXELS)), Err(IdxError::Shape { rows, columns }));
    }
}

#[test]
fn missing_and_surplus_bytes_are_refused() {
    let short = read_images(&images(2, 28, 28, 2 * PIXELS - 1));
    assert_eq!(short, Err(IdxError::Length { expected: 2 * PIXELS, found: 2 * PIXELS - 1 }));
    let long = read_images(&images(1, 28, 28, 50 * PIXELS));
    assert_eq!(long, Err(IdxError::Length { expected: PIXELS, found: PIXELS + 1 }));
    assert_eq!(read_labels(&labels(2, &[1])), Err(IdxError::Length { expected: 2, found: 1 }));
    // A second gzip member is part of the same stream: bytes cannot hide behind the first.
    let mut two = labels(1, &[1]);
    two.extend(gzip(&[1]));
    assert_eq!(read_labels(&two), Err(IdxError::Length { expected: 1, found: 2 }));
}

#[test]
fn labels_above_nine_are_refused() {
    assert_eq!(read_labels(&labels(3, &[0, 10, 255])), Err(IdxError::Label { item: 1, label: 10 }));
}

#[test]
fn damaged_and_cut_streams_are_refused_and_never_panic() {
    let whole = images(3, 28, 28, 3 * PIXELS);
    for cut in 0..whole.len() {
        assert!(read_images(&whole[..cut]).is_err(), "accepted when cut to {cut} bytes");
    }
    for position in 10..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x55;
        // Some damage has no effect: padding bits, another distance in a run of one byte. All other is noticed.
        let outcome = read_images(&damaged);
        assert!(outcome.is_err() || outcome == read_images(&whole), "accepted with byte {position} damaged");
    }
    assert!(read_images(b"not gzip at all").is_err());
    assert!(read_labels(b"").is_err());
    assert_eq!(read_labels(&gzip(&[0, 0, 8])), Err(IdxError::HeaderCut));
}
