//! ClickHouse's own block compression (`compress=1`, `decompress=1`) and HTTP's content encodings.
//!
//! A block is a CityHash128 (version 1.0.2, halves swapped) of what follows, a method byte, the size of header and data,
//! the size when unpacked (both u32, little endian), and the data.

use std::io::{self, Read};

use super::exception::{self, Exception};

const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
/// Largest block that is unpacked, so that a forged size cannot take the memory. Clients send up to 64 MiB at once.
const BLOCK_BYTES_MAX: usize = 256 << 20;
/// Bytes in a block that is sent; ClickHouse's `max_compress_block_size`.
const BLOCK_BYTES_SENT: usize = 1 << 20;
const NONE: u8 = 0x02;
const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;

/// Packs bytes into LZ4 blocks.
pub(super) fn compress_blocks(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    for piece in bytes.chunks(BLOCK_BYTES_SENT) {
        let data = lz4_flex::block::compress(piece);
        let mut block = Vec::with_capacity(HEADER_BYTES + data.len());
        block.push(LZ4);
        block.extend_from_slice(&u32::try_from(HEADER_BYTES + data.len()).unwrap_or(u32::MAX).to_le_bytes());
        block.extend_from_slice(&u32::try_from(piece.len()).unwrap_or(u32::MAX).to_le_bytes());
        block.extend_from_slice(&data);
        packed.extend_from_slice(&checksum(&block));
        packed.extend_from_slice(&block);
    }
    packed
}

fn checksum(block: &[u8]) -> [u8; CHECKSUM_BYTES] {
    cityhash_rs::cityhash_102_128(block).rotate_right(64).to_le_bytes()
}

/// Unpacks a sequence of blocks.
pub(super) struct BlockReader<R> {
    inner: R,
    unpacked: io::Cursor<Vec<u8>>,
}

impl<R: Read> BlockReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, unpacked: io::Cursor::default() }
    }

    /// The next block, or nothing at the end.
    fn block(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut prefix = Vec::with_capacity(CHECKSUM_BYTES + HEADER_BYTES);
        let limit = u64::try_from(CHECKSUM_BYTES + HEADER_BYTES).unwrap_or(u64::MAX);
        self.inner.by_ref().take(limit).read_to_end(&mut prefix)?;
        if prefix.is_empty() {
            return Ok(None);
        }
        let (expected, header) = prefix.split_at_checked(CHECKSUM_BYTES).ok_or_else(cut)?;
        let &[method, a, b, c, d, e, f, g, h] = header else { return Err(cut()) };
        let packed = size(u32::from_le_bytes([a, b, c, d]))?.checked_sub(HEADER_BYTES).ok_or_else(cut)?;
        let unpacked = size(u32::from_le_bytes([e, f, g, h]))?;
        let mut block = Vec::with_capacity(HEADER_BYTES + packed.min(BLOCK_BYTES_SENT));
        block.extend_from_slice(header);
        self.inner.by_ref().take(u64::try_from(packed).unwrap_or(u64::MAX)).read_to_end(&mut block)?;
        let data = block.get(HEADER_BYTES..).filter(|data| data.len() == packed).ok_or_else(cut)?;
        if checksum(&block) != expected {
            return Err(refused("Checksum doesn't match: corrupted data"));
        }
        let bytes = match method {
            NONE => data.to_vec(),
            LZ4 => lz4_flex::block::decompress(data, unpacked).map_err(refused)?,
            ZSTD => zstd::bulk::decompress(data, unpacked).map_err(refused)?,
            other => return Err(refused(format_args!("Unknown compression method: {other}"))),
        };
        if bytes.len() != unpacked {
            return Err(refused("the block's size is not the one it states"));
        }
        Ok(Some(bytes))
    }
}

fn size(stated: u32) -> io::Result<usize> {
    let size = usize::try_from(stated).unwrap_or(usize::MAX);
    if size > BLOCK_BYTES_MAX {
        return Err(refused(format_args!(
            "a compressed block of {size} bytes; at most {BLOCK_BYTES_MAX} are accepted"
        )));
    }
    Ok(size)
}

fn cut() -> io::Error {
    Exception::new(exception::CANNOT_READ_ALL_DATA, "Cannot read all data: the compressed body is cut off").into()
}

fn refused(reason: impl std::fmt::Display) -> io::Error {
    Exception::new(exception::CANNOT_DECOMPRESS, format_args!("Cannot decompress: {reason}")).into()
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.unpacked.read(buffer)? {
                0 if !buffer.is_empty() => match self.block()? {
                    Some(bytes) => self.unpacked = io::Cursor::new(bytes),
                    None => return Ok(0),
                },
                count => return Ok(count),
            }
        }
    }
}

/// HTTP's `Content-Encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Zstd,
    Lz4,
}

impl Encoding {
    /// Its name in headers.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Identity),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            "zstd" => Some(Self::Zstd),
            "lz4" => Some(Self::Lz4),
            _ => None,
        }
    }

    /// Of a body that came.
    ///
    /// # Errors
    /// 779 for an encoding that is not known.
    pub(super) fn of_body(header: &str) -> Result<Self, Exception> {
        Self::from_name(header).ok_or_else(|| {
            Exception::new(
                exception::UNSUPPORTED_MEDIA_TYPE,
                format_args!(
                    "Unknown Content-Encoding {}: gzip, deflate, zstd and lz4 are accepted",
                    header.escape_debug()
                ),
            )
        })
    }

    /// For an answer: of those that `Accept-Encoding` names with a weight above 0, the cheapest.
    pub(super) fn of_answer(accepted: &str) -> Self {
        let named: Vec<Self> = accepted
            .split(',')
            .filter_map(|part| {
                let (name, weight) = part.split_once(';').unwrap_or((part, ""));
                let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0_f32));
                (!refused).then(|| Self::from_name(name)).flatten()
            })
            .collect();
        let cheapest = [Self::Lz4, Self::Zstd, Self::Gzip, Self::Deflate];
        cheapest.into_iter().find(|encoding| named.contains(encoding)).unwrap_or(Self::Identity)
    }

    /// Unpacks a body.
    ///
    /// # Errors
    /// No memory for the decoder.
    pub(super) fn decoder<'a>(self, body: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::Identity => Box::new(body),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(body)),
            Self::Deflate => Box::new(flate2::read::ZlibDecoder::new(body)),
            Self::Zstd => Box::new(zstd::Decoder::new(body)?),
            Self::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(body)),
        })
    }
}

/// Packs an answer; what is ready is taken out after each piece.
pub(super) enum Encoder {
    Identity(Vec<u8>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Deflate(flate2::write::ZlibEncoder<Vec<u8>>),
    Zstd(Box<zstd::Encoder<'static, Vec<u8>>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Vec<u8>>>),
}

impl Default for Encoder {
    fn default() -> Self {
        Self::Identity(Vec::new())
    }
}

impl Encoder {
    pub(super) fn new(encoding: Encoding) -> io::Result<Self> {
        let fast = flate2::Compression::fast();
        Ok(match encoding {
            Encoding::Identity => Self::Identity(Vec::new()),
            Encoding::Gzip => Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), fast)),
            Encoding::Deflate => Self::Deflate(flate2::write::ZlibEncoder::new(Vec::new(), fast)),
            Encoding::Zstd => Self::Zstd(Box::new(zstd::Encoder::new(Vec::new(), 1)?)),
            Encoding::Lz4 => Self::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(Vec::new()))),
        })
    }

    /// Packs a piece and returns what is ready.
    pub(super) fn push(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        self.writer().write_all(piece)?;
        Ok(std::mem::take(self.ready()))
    }

    /// Everything that was pushed, so that a client sees rows as they come.
    pub(super) fn flush(&mut self) -> io::Result<Vec<u8>> {
        self.writer().flush()?;
        Ok(std::mem::take(self.ready()))
    }

    fn writer(&mut self) -> &mut dyn io::Write {
        match self {
            Self::Identity(ready) => ready,
            Self::Gzip(encoder) => encoder,
            Self::Deflate(encoder) => encoder,
            Self::Zstd(encoder) => encoder,
            Self::Lz4(encoder) => encoder,
        }
    }

    fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Identity(ready) => ready,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Deflate(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Lz4(encoder) => encoder.get_mut(),
        }
    }

    /// The end of the packed text.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Identity(ready) => Ok(ready),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Deflate(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        BlockReader::new(packed).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn blocks_come_back_as_they_were() {
        for length in [0, 1, 100, BLOCK_BYTES_SENT, BLOCK_BYTES_SENT * 2 + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| u8::try_from(at * 7 % 251).expect("small")).collect();
            assert_eq!(unpack(&compress_blocks(&bytes)).expect("unpacked"), bytes);
        }
    }

    #[test]
    fn zstd_and_plain_blocks_are_read() {
        for (method, data) in [(ZSTD, zstd::bulk::compress(b"hello", 3).expect("packed")), (NONE, b"hello".to_vec())] {
            let mut block = vec![method];
            block.extend_from_slice(&u32::try_from(HEADER_BYTES + data.len()).expect("small").to_le_bytes());
            block.extend_from_slice(&5_u32.to_le_bytes());
            block.extend_from_slice(&data);
            let packed = [checksum(&block).to_vec(), block].concat();
            assert_eq!(unpack(&packed).expect("unpacked"), b"hello");
        }
    }

    #[test]
    fn damaged_cut_and_boasting_blocks_are_errors() {
        let good = compress_blocks(b"some rows");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(unpack(&bad).is_err(), "byte {at}");
            assert!(at == 0 || unpack(&good[..at]).is_err(), "cut at {at}");
        }
        let mut boasting = good;
        boasting[21..25].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(unpack(&boasting).expect_err("too large").to_string().contains("at most"));
    }

    #[test]
    fn encodings_come_back_and_pieces_can_be_read_at_once() {
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd, Encoding::Lz4] {
            let mut encoder = Encoder::new(encoding).expect("made");
            let mut packed = encoder.push(b"first ").expect("packed");
            packed.extend(encoder.flush().expect("packed"));
            assert!(!packed.is_empty(), "{encoding:?} holds nothing back");
            packed.extend(encoder.push(b"second").expect("packed"));
            packed.extend(encoder.finish().expect("finished"));
            let mut bytes = Vec::new();
            encoding.decoder(packed.as_slice()).expect("made").read_to_end(&mut bytes).expect("unpacked");
            assert_eq!(bytes, b"first second", "{encoding:?}");
        }
    }

    #[test]
    fn the_cheapest_accepted_encoding_is_taken() {
        assert_eq!(Encoding::of_answer("gzip, deflate, br, zstd"), Encoding::Zstd);
        assert_eq!(Encoding::of_answer("lz4"), Encoding::Lz4);
        assert_eq!(Encoding::of_answer("gzip;q=0, deflate"), Encoding::Deflate);
        assert_eq!(Encoding::of_answer("br"), Encoding::Identity);
        assert_eq!(Encoding::of_body("br").expect_err("unknown").code, exception::UNSUPPORTED_MEDIA_TYPE);
    }
}
