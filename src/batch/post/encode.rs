//! Rows of PostgreSQL's binary COPY format (its documentation, "COPY", "Binary Format"), written without a driver's detours.

use bytes::{BufMut as _, BytesMut};

use super::{COLUMNS, Post, Thousandths};

/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
const EPOCH_2000: i64 = 946_684_800_000_000;
/// OID of the type `text`, the element type of `hashtags`.
const TEXT_OID: u32 = 25;
/// Rows are cut at lines of 16 MiB long before a length could leave 31 bits.
const TOO_LONG: &str = "a value of less than 2 GiB";

/// Appends one row with the columns of `COLUMNS`.
pub fn encode(post: &Post<'_>, out: &mut BytesMut) {
    let columns: i16 = COLUMNS.len().try_into().unwrap_or(i16::MAX);
    out.put_i16(columns);
    text(&post.platform, out);
    text(&post.post_id, out);
    optional(post.author.as_deref(), out);
    text(&post.content, out);
    optional(post.lang.as_deref(), out);
    optional(post.topic.as_deref(), out);
    array(post, out);
    text(post.label.as_str(), out);
    numeric(post.score, out);
    numeric(post.confidence, out);
    for number in [post.likes, post.replies, post.shares] {
        out.put_i32(4);
        out.put_i32(number);
    }
    optional(post.model_name.as_deref(), out);
    json(post.raw.as_deref(), out);
    out.put_i32(8);
    out.put_i64(post.posted_at.micros() - EPOCH_2000);
}

fn length(bytes: usize) -> i32 {
    debug_assert!(i32::try_from(bytes).is_ok(), "{TOO_LONG}");
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

fn text(value: &str, out: &mut BytesMut) {
    out.put_i32(length(value.len()));
    out.put_slice(value.as_bytes());
}

fn optional(value: Option<&str>, out: &mut BytesMut) {
    match value {
        Some(value) => text(value, out),
        None => out.put_i32(-1),
    }
}

fn array(post: &Post<'_>, out: &mut BytesMut) {
    let tags = &post.hashtags;
    if tags.is_empty() {
        out.put_i32(12);
        out.put_i32(0);
        out.put_i32(0);
        out.put_u32(TEXT_OID);
        return;
    }
    let elements: usize = tags.iter().map(|tag| 4 + tag.as_deref().map_or(0, str::len)).sum();
    out.put_i32(length(20 + elements));
    out.put_i32(1);
    out.put_i32(i32::from(tags.iter().any(Option::is_none)));
    out.put_u32(TEXT_OID);
    out.put_i32(length(tags.len()));
    out.put_i32(1);
    for tag in tags {
        optional(tag.as_deref(), out);
    }
}

/// `numeric` travels as digits of base 10,000: count, weight of the first, sign, decimals shown, digits.
fn numeric(value: Option<Thousandths>, out: &mut BytesMut) {
    let Some(value) = value else {
        out.put_i32(-1);
        return;
    };
    let thousandths = value.get();
    let (units, fraction) = (thousandths.abs() / 1000, thousandths.abs() % 1000 * 10);
    let digits: &[i16] = match (units, fraction) {
        (0, 0) => &[],
        (0, _) => &[fraction],
        (_, 0) => &[units],
        (_, _) => &[units, fraction],
    };
    out.put_i32(length(8 + 2 * digits.len()));
    out.put_i16(digits.len().try_into().unwrap_or(i16::MAX));
    out.put_i16(if units == 0 && fraction != 0 { -1 } else { 0 });
    out.put_u16(if thousandths < 0 { 0x4000 } else { 0 });
    out.put_i16(3);
    for digit in digits {
        out.put_i16(*digit);
    }
}

/// `jsonb` travels as its text after a version byte.
fn json(value: Option<&str>, out: &mut BytesMut) {
    match value {
        Some(value) => {
            out.put_i32(length(value.len() + 1));
            out.put_u8(1);
            out.put_slice(value.as_bytes());
        }
        None => out.put_i32(-1),
    }
}
