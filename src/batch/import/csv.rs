//! CSV with a header, as RFC 4180 and PostgreSQL's `COPY … (format csv)` have it: an empty field is NULL (or the
//! column's default), a quoted empty field is an empty text.

use std::borrow::Cow;
use std::io::{self, BufRead};
use std::ops::Range;

use csv_core::{ReadFieldResult, Reader};

use super::mapping::Mapping;
use super::ndjson;
use super::record::{Next, Overflow, Record};
use crate::batch::post::{COLUMNS, Draft, Given, Rejection};

/// Cuts records and fields.
pub(super) struct Csv {
    reader: Reader,
    /// The column that each field goes into; none is left out.
    header: Vec<Option<&'static str>>,
    /// Unquoted bytes of the record's fields, one after another; longer than what is used.
    text: Vec<u8>,
    fields: Vec<Field>,
}

struct Field {
    range: Range<usize>,
    quoted: bool,
}

impl Csv {
    /// Reads the header out of the first record, whose bytes stay in `record`.
    ///
    /// # Errors
    /// The text says what is wrong with the header.
    pub(super) fn begin(input: &mut dyn BufRead, record: &mut Record, mapping: &Mapping) -> io::Result<Self> {
        let mut csv = Self { reader: Reader::new(), header: Vec::new(), text: Vec::new(), fields: Vec::new() };
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        if csv.read(input, record, &mut |_| Ok(()))? != Next::Whole {
            return Err(wrong("there is no header".into()));
        }
        for field in &csv.fields {
            let name = csv.text.get(field.range.clone()).unwrap_or_default().trim_ascii();
            let name = String::from_utf8_lossy(name);
            let column = mapping.column_of(&name, csv.header.len()).and_then(|at| COLUMNS.get(at).copied());
            if column.is_none() && !mapping.ignore_unknown {
                let (name, known) = (name.chars().take(64).collect::<String>(), mapping.fields());
                return Err(wrong(format!("unknown column {name:?} in the header; known are {known}")));
            }
            if column.is_some() && csv.header.contains(&column) {
                return Err(wrong(format!("column {name} stands in the header twice")));
            }
            csv.header.push(column);
        }
        for column in ["platform", "post_id", "content", "sentiment_label", "posted_at"] {
            if let Some(field) = mapping.field_for(column)
                && !csv.header.contains(&Some(column))
            {
                return Err(wrong(format!("column {field} is missing in the header")));
            }
        }
        Ok(csv)
    }

    /// Reads the next record. Empty lines are skipped.
    ///
    /// # Errors
    /// Those of `input` and `overflow`.
    pub(super) fn read(
        &mut self,
        input: &mut dyn BufRead,
        record: &mut Record,
        overflow: Overflow<'_>,
    ) -> io::Result<Next> {
        record.begin();
        self.fields.clear();
        let (mut start, mut written, mut raw_start) = (0, 0, 0);
        loop {
            let buffer = match input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if record.is_too_long() {
                (start, written) = (0, 0);
                self.fields.clear();
            }
            let needed = written + buffer.len().max(16);
            if self.text.len() < needed {
                self.text.resize(needed, 0);
            }
            let output = self.text.get_mut(written..).unwrap_or_default();
            let (result, used, added) = self.reader.read_field(buffer, output);
            record.take(buffer.get(..used).unwrap_or_default(), overflow)?;
            input.consume(used);
            written += added;
            match result {
                ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull => {}
                ReadFieldResult::Field { record_end } => {
                    let quoted = record.taken().get(raw_start..).is_some_and(|raw| raw.contains(&b'"'));
                    self.fields.push(Field { range: start..written, quoted });
                    (start, raw_start) = (written, record.taken().len());
                    if record_end {
                        return Ok(record.end());
                    }
                }
                ReadFieldResult::End => return Ok(Next::End),
            }
        }
    }

    /// A post's draft out of the record read last.
    ///
    /// # Errors
    /// The number of fields is not the header's, or a field is not UTF-8 or of the wrong form.
    pub(super) fn draft(&self) -> Result<Draft<'_>, Rejection> {
        if self.fields.len() != self.header.len() {
            let (is, should) = (self.fields.len(), self.header.len());
            return Err(Rejection(format!("has {is} fields, the header has {should}")));
        }
        let mut draft = Draft::default();
        for (column, field) in self.header.iter().zip(&self.fields) {
            let Some(column) = column else { continue };
            let bytes = self.text.get(field.range.clone()).unwrap_or_default();
            if bytes.is_empty() && !field.quoted {
                continue;
            }
            let text = std::str::from_utf8(bytes).map_err(|_| Rejection(format!("{column} is not UTF-8")))?;
            set(&mut draft, column, text)?;
        }
        Ok(draft)
    }
}

/// Gives a column its value as text.
///
/// # Errors
/// The text is no list, where one is needed.
pub(super) fn set<'a>(draft: &mut Draft<'a>, column: &str, text: &'a str) -> Result<(), Rejection> {
    let slot = match column {
        "platform" => &mut draft.platform,
        "post_id" => &mut draft.post_id,
        "author" => &mut draft.author,
        "content" => &mut draft.content,
        "lang" => &mut draft.lang,
        "topic" => &mut draft.topic,
        "sentiment_label" => &mut draft.sentiment_label,
        "sentiment_score" => &mut draft.sentiment_score,
        "confidence" => &mut draft.confidence,
        "likes" => &mut draft.likes,
        "replies" => &mut draft.replies,
        "shares" => &mut draft.shares,
        "model_name" => &mut draft.model_name,
        "raw" => &mut draft.raw,
        "posted_at" => &mut draft.posted_at,
        // The last of COLUMNS: the only list.
        _ => {
            draft.hashtags = Given::Value(tags(text)?);
            return Ok(());
        }
    };
    *slot = Given::Value(Cow::Borrowed(text));
    Ok(())
}

/// `["a","b"]` as JSON has it or `{a,b}` as PostgreSQL prints it.
fn tags(text: &str) -> Result<Vec<Option<Cow<'_, str>>>, Rejection> {
    if text.starts_with('[') {
        return ndjson::list("hashtags", text);
    }
    array_literal(text).ok_or_else(|| Rejection("hashtags is neither a JSON list nor an array like {a,b}".into()))
}

/// PostgreSQL's text form of a one-dimensional array (its documentation, "Array Input and Output Syntax").
fn array_literal(text: &str) -> Option<Vec<Option<Cow<'_, str>>>> {
    let mut rest = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut elements = Vec::new();
    if rest.is_empty() {
        return Some(elements);
    }
    loop {
        let (element, after) = if let Some(quoted) = rest.strip_prefix('"') {
            let (element, after) = quoted_element(quoted)?;
            (Some(Cow::Owned(element)), after)
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let (element, after) = rest.split_at_checked(end)?;
            if element.is_empty() || element.contains(['"', '{', '}', '\\']) || element.trim() != element {
                return None;
            }
            ((!element.eq_ignore_ascii_case("null")).then_some(Cow::Borrowed(element)), after)
        };
        elements.push(element);
        if after.is_empty() {
            return Some(elements);
        }
        rest = after.strip_prefix(',')?;
    }
}

fn quoted_element(text: &str) -> Option<(String, &str)> {
    let mut element = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some((element, characters.as_str())),
            '\\' => element.push(characters.next()?),
            other => element.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const HEADER: &str = "platform,post_id,content,sentiment_label,posted_at,author,hashtags\n";

    fn read(text: &str, limit: usize) -> Vec<(u64, String)> {
        // A small buffer puts its borders into the middle of fields.
        let mut input = io::BufReader::with_capacity(7, text.as_bytes());
        let mut record = Record::with_limit(limit);
        let mapping = Mapping::new(&[], &[], false).expect("valid");
        let mut csv = Csv::begin(&mut input, &mut record, &mapping).expect("a header");
        let mut seen = Vec::new();
        loop {
            let mut long = Vec::new();
            let next = csv.read(&mut input, &mut record, &mut |piece| long.write_all(piece));
            let outcome = match next.expect("readable") {
                Next::End => return seen,
                Next::TooLong => format!("too long: {}", String::from_utf8_lossy(&long)),
                Next::Whole => match csv.draft().and_then(Draft::check) {
                    Ok(post) => format!("{:?} {:?} {:?}", post.content, post.author, post.hashtags),
                    Err(rejection) => format!("{rejection} <{}>", String::from_utf8_lossy(record.raw())),
                },
            };
            seen.push((record.line, outcome));
        }
    }

    #[test]
    fn quotes_lines_and_empties_are_told_apart() {
        let rows = "t,1,\"two\nlines, \"\"quoted\"\"\",mixed,2024-01-01T00:00:00Z,,\r\n\r\n\
                    t,2,,mixed,2024-01-01T00:00:00Z,x,\n\
                    t,3,\"\",mixed,2024-01-01T00:00:00Z,\"\",\"{a,\"\"b \\\"\"c\"\",NULL}\"\n\
                    t,4,c\nt,5,c,mixed,2024-01-01T00:00:00Z,NULL,\"[\"\"j\"\"]\"";
        let seen = read(&format!("{HEADER}{rows}"), 1000);
        let expected = [
            (2, "\"two\\nlines, \\\"quoted\\\"\" None []"),
            (5, "content is missing <t,2,,mixed,2024-01-01T00:00:00Z,x,>"),
            (6, "\"\" Some(\"\") [Some(\"a\"), Some(\"b \\\"c\"), None]"),
            (7, "has 3 fields, the header has 7 <t,4,c>"),
            (8, "\"c\" Some(\"NULL\") [Some(\"j\")]"),
        ];
        assert_eq!(seen, expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn an_open_quote_swallows_no_memory() {
        let long = format!("t,1,\"{}", "x,\n".repeat(50));
        let seen = read(&format!("{HEADER}{long}"), 70);
        assert_eq!(seen, [(2, format!("too long: {long}"))]);
    }

    #[test]
    fn headers_are_judged_before_anything_is_read() {
        for (header, reason) in [
            ("", "there is no header"),
            ("platform,secret\n", "unknown column \"secret\""),
            ("platform,platform\n", "column platform stands in the header twice"),
            ("platform,post_id\n", "column content is missing"),
        ] {
            let mapping = Mapping::new(&[], &[], false).expect("valid");
            let mut record = Record::with_limit(100);
            let error = Csv::begin(&mut header.as_bytes(), &mut record, &mapping).err().expect(reason);
            assert!(error.to_string().starts_with(reason), "{error}");
        }
    }

    #[test]
    fn a_header_of_other_names_is_mapped() {
        let maps = ["post_id=id".to_owned(), "content=text".to_owned()];
        let constants = ["platform=t".to_owned(), "sentiment_label=mixed".to_owned()];
        let mapping = Mapping::new(&maps, &constants, true).expect("valid");
        let mut input = "id,extra,text,posted_at\n1,x,c,2024-01-01T00:00:00Z\n".as_bytes();
        let mut record = Record::with_limit(100);
        let mut csv = Csv::begin(&mut input, &mut record, &mapping).expect("a header");
        csv.read(&mut input, &mut record, &mut |_| Ok(())).expect("a record");
        let draft = csv.draft().expect("a draft");
        assert_eq!((draft.post_id, draft.content), (Given::Value("1".into()), Given::Value("c".into())));
    }
}
