//! Batches as producers write them, in every packing, whole, cut and damaged.

use std::io::Write as _;

use proptest::prelude::*;

use super::*;

type Pair = (Option<Vec<u8>>, Option<Vec<u8>>);

fn push_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).expect("7 bits") | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).expect("7 bits"));
}

fn push_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    push_varint(out, bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).expect("small")));
    out.extend_from_slice(bytes.unwrap_or_default());
}

fn pack(packing: i16, plain: &[u8]) -> Vec<u8> {
    match packing {
        1 => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(plain).expect("packed");
            encoder.finish().expect("packed")
        }
        2 => {
            let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
            for part in plain.chunks(1000) {
                let block = snap::raw::Encoder::new().compress_vec(part).expect("packed");
                out.extend(i32::try_from(block.len()).expect("small").to_be_bytes());
                out.extend(block);
            }
            out
        }
        3 | 5 => {
            let mode =
                if packing == 3 { lz4_flex::frame::BlockMode::Independent } else { lz4_flex::frame::BlockMode::Linked };
            let info = lz4_flex::frame::FrameInfo::new()
                .block_mode(mode)
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_checksums(packing == 3)
                .content_checksum(true);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(plain).expect("packed");
            encoder.finish().expect("packed")
        }
        4 => zstd::encode_all(plain, 1).expect("packed"),
        _ => plain.to_vec(),
    }
}

/// 5 is LZ4 with linked blocks, which is 3 on the wire.
fn batch(base: i64, packing: i16, pairs: &[Pair]) -> Vec<u8> {
    let mut plain = Vec::new();
    for (delta, (key, value)) in pairs.iter().enumerate() {
        let mut record = vec![0];
        push_varint(&mut record, -3);
        push_varint(&mut record, i64::try_from(delta).expect("small"));
        push_bytes(&mut record, key.as_deref());
        push_bytes(&mut record, value.as_deref());
        push_varint(&mut record, 2);
        for value in [Some(&b"header"[..]), None] {
            push_bytes(&mut record, Some(b"name"));
            push_bytes(&mut record, value);
        }
        push_varint(&mut plain, i64::try_from(record.len()).expect("small"));
        plain.extend(record);
    }
    let count = i32::try_from(pairs.len()).expect("small");
    let mut tail = if packing == 5 { 3i16 } else { packing }.to_be_bytes().to_vec();
    tail.extend((count - 1).to_be_bytes());
    tail.extend([0; 30]);
    tail.extend(count.to_be_bytes());
    tail.extend(pack(packing, &plain));
    let mut out = base.to_be_bytes().to_vec();
    out.extend(i32::try_from(tail.len() + 9).expect("small").to_be_bytes());
    out.extend([0, 0, 0, 0, 2]);
    out.extend(crc32c::crc32c(&tail).to_be_bytes());
    out.extend(tail);
    out
}

fn pairs(records: &[Record]) -> Vec<Pair> {
    let owned = |bytes: &Option<Bytes>| bytes.as_deref().map(<[u8]>::to_vec);
    records.iter().map(|record| (owned(&record.key), owned(&record.value))).collect()
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        first: Vec<Pair>,
        second in prop::collection::vec((any::<Option<Vec<u8>>>(), prop::option::of("[a-c]{0,3000}".prop_map(String::into_bytes))), 1..40),
        packing in 0i16..=5,
        cut: prop::sample::Index,
    ) {
        let mut set = if first.is_empty() { Vec::new() } else { batch(7, packing, &first) };
        let base = 7 + i64::try_from(first.len()).expect("small");
        set.extend(batch(base, packing, &second));
        let both: Vec<Pair> = first.iter().chain(&second).cloned().collect();
        let whole = Bytes::from(set);
        let read = records(&whole, 0, &Buffers::new(4, 1 << 20)).expect("readable");
        prop_assert_eq!(pairs(&read), both.clone());
        let end = 7 + i64::try_from(both.len()).expect("small");
        prop_assert_eq!(next_offset(&whole), Some(end));
        prop_assert_eq!(read.iter().map(|record| record.offset).collect::<Vec<_>>(), (7..end).collect::<Vec<_>>());
        // From an offset inside of a batch on, and with the rest cut off.
        let from = records(&whole, base + 1, &Buffers::new(4, 1 << 20)).expect("readable");
        prop_assert_eq!(pairs(&from), second.get(1..).expect("there").to_vec());
        let cut = whole.slice(..cut.index(whole.len()));
        prop_assert!(pairs(&records(&cut, 0, &Buffers::new(4, 1 << 20)).expect("readable")).len() < both.len());
    }

    #[test]
    fn nothing_makes_it_panic(bytes: Vec<u8>, at: prop::sample::Index, byte: u8, packing in 0i16..=5) {
        drop(records(&bytes.into(), 0, &Buffers::new(4, 1 << 20)));
        let mut set = batch(0, packing, &[(None, Some(vec![b'x'; 300]))]);
        let at = at.index(set.len());
        let same = set[at] == byte;
        set[at] = byte;
        let crc = crc32c::crc32c(&set[21..]).to_be_bytes();
        let checked = records(&set.clone().into(), 0, &Buffers::new(4, 1 << 20));
        // The offset, the leader's epoch and the length are outside of what the checksum covers.
        prop_assert!(same || at < 16 || checked.is_err());
        set[17..21].copy_from_slice(&crc);
        drop(records(&set.into(), 0, &Buffers::new(4, 1 << 20)));
    }
}

#[test]
fn markers_of_transactions_are_refused() {
    let mut set = batch(0, 0, &[(None, None)]);
    set[22] |= 0x30;
    let crc = crc32c::crc32c(&set[21..]).to_be_bytes();
    set[17..21].copy_from_slice(&crc);
    assert_eq!(records(&set.into(), 0, &Buffers::new(4, 1 << 20)).expect_err("refused"), BatchError::Control);
}
