//! Kafka's record batches (message format 2), taken apart without a copy a record. Pure.
//!
//! Format: <https://kafka.apache.org/documentation/#recordbatch>. Headers are passed over: nothing here reads them.

use std::io::Read as _;

use bytes::Bytes;

use super::buffers::Buffers;
use super::kafka::Record;

/// Bytes of a batch before its records.
const HEADER: usize = 61;
/// Bytes of a batch before those that its length counts.
const PREFIX: usize = 12;
/// Largest batch after decompression, in bytes: a producer's largest request is 64 MiB.
const UNPACKED_MAX: usize = 256 << 20;
const CONTROL: i16 = 0x20;

/// Why records cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BatchError {
    /// Cut or inconsistent.
    #[error("a record batch is malformed")]
    Malformed,
    /// Its checksum is wrong.
    #[error("a record batch is damaged: its CRC-32C is wrong")]
    Damaged,
    /// Of a format that brokers have not written since 0.11.
    #[error("a record batch is of format {0}, not 2")]
    Format(u8),
    /// A marker of a transaction: what it aborts would be read as if it were committed.
    #[error("the topic holds control batch records of transactions; keep exactly.once.source.support off")]
    Control,
    /// It unpacks to more than is read at once.
    #[error("a record batch unpacks to more than {} MiB", UNPACKED_MAX >> 20)]
    TooLarge,
    /// Its packing is not known.
    #[error("a record batch is packed in the unknown way {0}")]
    Packing(i16),
}

type Result<T> = std::result::Result<T, BatchError>;

/// The offset after the last whole batch of `set`; `None` when there is none.
pub(super) fn next_offset(set: &Bytes) -> Option<i64> {
    let mut next = None;
    for batch in batches(set) {
        let last = batch.get(23..27).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes)?;
        let base = batch.first_chunk::<8>().map(|bytes| i64::from_be_bytes(*bytes))?;
        next = base.checked_add(i64::from(last))?.checked_add(1);
    }
    next
}

/// The records of all whole batches from `offset` on: a batch is stored whole, so the first may begin before it.
pub(super) fn records(set: &Bytes, offset: i64, buffers: &Buffers) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for batch in batches(set) {
        read_batch(&batch, offset, buffers, &mut records)?;
    }
    Ok(records)
}

/// Whole batches; the last one of a fetch may be cut, and is fetched again.
fn batches(set: &Bytes) -> impl Iterator<Item = Bytes> {
    let mut rest = set.clone();
    std::iter::from_fn(move || {
        let length = rest.get(8..PREFIX)?.try_into().map(i32::from_be_bytes).ok()?;
        let end = usize::try_from(length).ok()?.checked_add(PREFIX)?;
        (end >= HEADER && rest.len() >= end).then(|| rest.split_to(end))
    })
}

fn read_batch(batch: &Bytes, offset: i64, buffers: &Buffers, records: &mut Vec<Record>) -> Result<()> {
    let mut header = batch.get(..HEADER).ok_or(BatchError::Malformed)?;
    let base = take_i64(&mut header)?;
    let (_length, _epoch) = (take_i32(&mut header)?, take_i32(&mut header)?);
    let format = take::<1>(&mut header)?[0];
    if format != 2 {
        return Err(BatchError::Format(format));
    }
    let crc = u32::from_be_bytes(take(&mut header)?);
    if crc32c::crc32c(batch.get(21..).ok_or(BatchError::Malformed)?) != crc {
        return Err(BatchError::Damaged);
    }
    let attributes = i16::from_be_bytes(take(&mut header)?);
    if attributes & CONTROL != 0 {
        return Err(BatchError::Control);
    }
    let _last_delta = take_i32(&mut header)?;
    // Two times, the producer's number, epoch and sequence: 8 + 8 + 8 + 2 + 4 bytes.
    take::<30>(&mut header)?;
    let count = usize::try_from(take_i32(&mut header)?).map_err(|_| BatchError::Malformed)?;
    let packed = batch.slice(HEADER..);
    let data = match attributes & 7 {
        0 => packed,
        1 => unpack(flate2::read::MultiGzDecoder::new(&*packed))?,
        2 => snappy(&packed)?,
        3 => lz4(&packed, buffers)?,
        4 => unpack(zstd::stream::read::Decoder::new(&*packed).map_err(|_| BatchError::Malformed)?)?,
        other => return Err(BatchError::Packing(other)),
    };
    let mut at = 0;
    records.reserve(count.min(data.len()));
    for _ in 0..count {
        let record = read_record(&data, &mut at, base)?;
        if record.offset >= offset {
            records.push(record);
        }
    }
    Ok(())
}

fn read_record(data: &Bytes, at: &mut usize, base: i64) -> Result<Record> {
    let length = usize::try_from(varint(data, at)?).map_err(|_| BatchError::Malformed)?;
    let end = at.checked_add(length).filter(|end| *end <= data.len()).ok_or(BatchError::Malformed)?;
    *at = at.checked_add(1).ok_or(BatchError::Malformed)?; // attributes, unused
    let _time = varint(data, at)?;
    let delta = varint(data, at)?;
    let (key, value) = (take_bytes(data, at)?, take_bytes(data, at)?);
    if *at > end {
        return Err(BatchError::Malformed);
    }
    *at = end;
    Ok(Record { offset: base.checked_add(delta).ok_or(BatchError::Malformed)?, key, value })
}

fn take_bytes(data: &Bytes, at: &mut usize) -> Result<Option<Bytes>> {
    let Ok(length) = usize::try_from(varint(data, at)?) else { return Ok(None) };
    let end = at.checked_add(length).filter(|end| *end <= data.len()).ok_or(BatchError::Malformed)?;
    let bytes = data.slice(*at..end);
    *at = end;
    Ok(Some(bytes))
}

/// A zigzag number of up to 64 bits.
fn varint(data: &[u8], at: &mut usize) -> Result<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *data.get(*at).ok_or(BatchError::Malformed)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    Err(BatchError::Malformed)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (value, rest) = bytes.split_first_chunk::<N>().ok_or(BatchError::Malformed)?;
    *bytes = rest;
    Ok(*value)
}

fn take_i32(bytes: &mut &[u8]) -> Result<i32> {
    take(bytes).map(i32::from_be_bytes)
}

fn take_i64(bytes: &mut &[u8]) -> Result<i64> {
    take(bytes).map(i64::from_be_bytes)
}

fn unpack(reader: impl std::io::Read) -> Result<Bytes> {
    let mut out = Vec::new();
    let limit = u64::try_from(UNPACKED_MAX).unwrap_or(u64::MAX);
    reader.take(limit + 1).read_to_end(&mut out).map_err(|_| BatchError::Malformed)?;
    if out.len() > UNPACKED_MAX { Err(BatchError::TooLarge) } else { Ok(out.into()) }
}

/// An LZ4 frame, its independent blocks straight into one buffer. Its own checksums are passed over: the batch's CRC-32C
/// covers them. What producers of Kafka do not write (linked blocks, dictionaries) is left to the general decoder.
fn lz4(packed: &[u8], buffers: &Buffers) -> Result<Bytes> {
    const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
    let mut rest = packed;
    if take::<4>(&mut rest)? != MAGIC {
        return Err(BatchError::Malformed);
    }
    let [flags, sizes] = take::<2>(&mut rest)?;
    let (independent, block_checksums, content_size) = (flags & 0x20 != 0, flags & 0x10 != 0, flags & 0x08 != 0);
    if !independent || flags & 0x01 != 0 {
        return unpack(lz4_flex::frame::FrameDecoder::new(packed));
    }
    let block_max: usize = match (sizes >> 4) & 7 {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => 4 << 20,
        _ => return Err(BatchError::Malformed),
    };
    if content_size {
        take::<8>(&mut rest)?;
    }
    take::<1>(&mut rest)?; // checksum of the frame's header
    let mut out = buffers.take();
    let mut filled = 0;
    loop {
        let size = u32::from_le_bytes(take(&mut rest)?);
        if size == 0 {
            return Ok(buffers.freeze(out, filled));
        }
        let length = usize::try_from(size & 0x7fff_ffff).map_err(|_| BatchError::Malformed)?;
        let block = rest.split_off(..length).ok_or(BatchError::Malformed)?;
        if block_checksums {
            take::<4>(&mut rest)?;
        }
        // What the buffer held before is overwritten; clearing it would cost as much as unpacking half of it.
        let room = filled + block_max.max(length);
        if out.len() < room {
            out.resize(room, 0);
        }
        let target = out.get_mut(filled..).ok_or(BatchError::Malformed)?;
        filled += if size & 0x8000_0000 != 0 {
            target.get_mut(..length).ok_or(BatchError::Malformed)?.copy_from_slice(block);
            length
        } else {
            let most = i32::try_from(block_max).map_err(|_| BatchError::Malformed)?;
            lz4::block::decompress_to_buffer(block, Some(most), target).map_err(|_| BatchError::Malformed)?
        };
        if filled > UNPACKED_MAX {
            return Err(BatchError::TooLarge);
        }
    }
}

/// Snappy: one raw block, or the framing of Java's library: a magic of 16 bytes, then length and block, again and again.
fn snappy(packed: &[u8]) -> Result<Bytes> {
    const MAGIC: &[u8] = b"\x82SNAPPY\0";
    let raw = |block: &[u8]| {
        let length = snap::raw::decompress_len(block).map_err(|_| BatchError::Malformed)?;
        if length > UNPACKED_MAX {
            return Err(BatchError::TooLarge);
        }
        snap::raw::Decoder::new().decompress_vec(block).map_err(|_| BatchError::Malformed)
    };
    if !packed.starts_with(MAGIC) {
        return raw(packed).map(Bytes::from);
    }
    let mut rest = packed.get(16..).ok_or(BatchError::Malformed)?;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let length = usize::try_from(take_i32(&mut rest)?).map_err(|_| BatchError::Malformed)?;
        out.extend(raw(rest.split_off(..length).ok_or(BatchError::Malformed)?)?);
        if out.len() > UNPACKED_MAX {
            return Err(BatchError::TooLarge);
        }
    }
    Ok(out.into())
}

#[cfg(test)]
#[path = "record_batch_tests.rs"]
mod tests;
