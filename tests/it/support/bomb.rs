//! Few compressed bytes that become many: written piece by piece, never held.

use std::io::Write;

/// A gibibyte.
pub(crate) const GIB: u64 = 1 << 30;
const PIECE: usize = 1 << 20;

/// Writes `pattern` again and again, `bytes` of it at least, as gzip.
pub(crate) fn gzip(pattern: &[u8], bytes: u64, to: impl Write) {
    let mut encoder = flate2::write::GzEncoder::new(to, flate2::Compression::best());
    fill(pattern, bytes, &mut encoder);
    encoder.finish().expect("finished");
}

/// As `gzip`, as zstd.
pub(crate) fn zstd(pattern: &[u8], bytes: u64, to: impl Write) {
    let mut encoder = zstd::Encoder::new(to, 1).expect("an encoder");
    fill(pattern, bytes, &mut encoder);
    encoder.finish().expect("finished");
}

fn fill(pattern: &[u8], bytes: u64, to: &mut impl Write) {
    let piece = pattern.repeat(PIECE.div_ceil(pattern.len()));
    let mut written = 0;
    while written < bytes {
        to.write_all(&piece).expect("written");
        written += u64::try_from(piece.len()).expect("a length");
    }
}
