//! Output formats: which can be streamed, and what must be cut off every piece but the first.
//!
//! The engine writes each piece of a streamed answer as a whole document of its own. Formats whose documents can be put
//! one behind the other are streamed, those that begin with the columns' names after these are cut off; all others
//! (JSON, Parquet, Arrow, Pretty, …) are run to their end first.

/// What each piece begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preamble {
    Nothing,
    /// Lines of tab-separated text or JSON, in which a newline is always escaped.
    Lines(usize),
    /// CSV records, in which a newline may stand in quotes.
    Records(usize),
    /// A varint with the number of columns, then that many strings this many times, each a varint and its bytes.
    Strings(usize),
}

/// Cuts the preamble off every piece but the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Splicer {
    preamble: Preamble,
    first: bool,
}

impl Splicer {
    /// For a format that can be streamed.
    pub(super) fn new(format: &str) -> Option<Self> {
        let preamble = match format.to_ascii_lowercase().as_str() {
            "native"
            | "rowbinary"
            | "tabseparated"
            | "tsv"
            | "tabseparatedraw"
            | "tsvraw"
            | "csv"
            | "jsoneachrow"
            | "jsonlines"
            | "ndjson"
            | "jsoncompacteachrow"
            | "jsonstringseachrow"
            | "jsoncompactstringseachrow" => Preamble::Nothing,
            "tabseparatedwithnames" | "tsvwithnames" | "jsoncompacteachrowwithnames" => Preamble::Lines(1),
            "tabseparatedwithnamesandtypes" | "tsvwithnamesandtypes" | "jsoncompacteachrowwithnamesandtypes" => {
                Preamble::Lines(2)
            }
            "csvwithnames" => Preamble::Records(1),
            "csvwithnamesandtypes" => Preamble::Records(2),
            "rowbinarywithnames" => Preamble::Strings(1),
            "rowbinarywithnamesandtypes" => Preamble::Strings(2),
            _ => return None,
        };
        Some(Self { preamble, first: true })
    }

    /// What of this piece belongs into the answer.
    pub(super) fn splice<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        if std::mem::take(&mut self.first) {
            return piece;
        }
        let length = match self.preamble {
            Preamble::Nothing => 0,
            Preamble::Lines(count) => lines(piece, count, false),
            Preamble::Records(count) => lines(piece, count, true),
            Preamble::Strings(count) => strings(piece, count).unwrap_or(piece.len()),
        };
        piece.get(length..).unwrap_or_default()
    }
}

/// Length of the first `count` lines.
fn lines(piece: &[u8], count: usize, quotes: bool) -> usize {
    let mut left = count;
    let mut quoted = false;
    for (at, byte) in piece.iter().enumerate() {
        match byte {
            b'"' if quotes => quoted = !quoted,
            b'\n' if !quoted => {
                left -= 1;
                if left == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    piece.len()
}

/// Length of the number of columns and `rounds` times that many strings.
fn strings(piece: &[u8], rounds: usize) -> Option<usize> {
    let mut at = 0;
    let columns = varint(piece, &mut at)?;
    for _ in 0..columns.checked_mul(rounds)? {
        let length = varint(piece, &mut at)?;
        at = at.checked_add(length).filter(|end| *end <= piece.len())?;
    }
    Some(at)
}

fn varint(piece: &[u8], at: &mut usize) -> Option<usize> {
    let mut value = 0_usize;
    for shift in (0..63).step_by(7) {
        let byte = *piece.get(*at)?;
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// `Content-Type` of an answer, as ClickHouse names them.
pub(super) fn content_type(format: &str) -> &'static str {
    let name = format.to_ascii_lowercase();
    match name.as_str() {
        "jsoneachrow" | "jsonlines" | "ndjson" | "jsonstringseachrow" => "application/x-ndjson; charset=UTF-8",
        "json"
        | "jsonstrings"
        | "jsoncompact"
        | "jsoncompactstrings"
        | "jsoncolumns"
        | "jsoncompactcolumns"
        | "jsoncolumnswithmetadata"
        | "jsonobjecteachrow" => "application/json; charset=UTF-8",
        "xml" => "application/xml; charset=UTF-8",
        "native"
        | "rowbinary"
        | "rowbinarywithnames"
        | "rowbinarywithnamesandtypes"
        | "parquet"
        | "arrow"
        | "arrowstream"
        | "orc"
        | "avro"
        | "msgpack"
        | "protobuf"
        | "npy" => "application/octet-stream",
        _ if name.starts_with("jsoncompact") => "application/x-ndjson; charset=UTF-8",
        _ if name.starts_with("csv") => "text/csv; charset=UTF-8; header=absent",
        _ if name.starts_with("tabseparated") || name.starts_with("tsv") => "text/tab-separated-values; charset=UTF-8",
        _ => "text/plain; charset=UTF-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(format: &str, pieces: &[&[u8]]) -> Vec<u8> {
        let mut splicer = Splicer::new(format).expect("can be streamed");
        pieces.iter().flat_map(|piece| splicer.splice(piece).to_vec()).collect()
    }

    #[test]
    fn names_stay_in_the_first_piece_only() {
        assert_eq!(spliced("CSVWithNames", &[b"\"a\n\"\"\"\n1\n", b"\"a\n\"\"\"\n2\n"]), b"\"a\n\"\"\"\n1\n2\n");
        assert_eq!(spliced("TSVWithNamesAndTypes", &[b"a\nT\n1\n", b"a\nT\n2\n"]), b"a\nT\n1\n2\n");
        assert_eq!(spliced("TSV", &[b"1\n", b"2\n"]), b"1\n2\n");
        let header = b"\x02\x01a\x01b\x05UInt8\x06String";
        let piece = |rows: &[u8]| [&header[..], rows].concat();
        assert_eq!(
            spliced("RowBinaryWithNamesAndTypes", &[&piece(b"\x01\x00"), &piece(b"\x02\x00"), &piece(b"")]),
            piece(b"\x01\x00\x02\x00")
        );
    }

    #[test]
    fn documents_are_not_streamed() {
        for format in ["JSON", "Parquet", "ArrowStream", "PrettyCompact", "XML", "Values"] {
            assert_eq!(Splicer::new(format), None, "{format}");
        }
    }
}
