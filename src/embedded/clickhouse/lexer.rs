//! ClickHouse's lexical rules, as far as needed to find the words of a statement and where its data begin.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A bare word or a number: keywords, names, `1e5`.
    Word,
    /// `'text'`, `"name"`, `` `name` ``, `$tag$text$tag$`, and the typographic quotes.
    Quoted,
    /// One other character.
    Symbol(u8),
}

/// A token and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a [u8],
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Token<'_> {
    /// Whether it is this keyword, in any case.
    pub(super) fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(keyword.as_bytes())
    }
}

/// The tokens of a text, without blanks and comments. An unfinished quote or comment takes the rest.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Length up to and with `end`, searched behind the first `skip` bytes; else the whole rest.
    fn through(&self, skip: usize, end: &[u8]) -> usize {
        let rest = self.rest();
        let searched = rest.get(skip..).unwrap_or_default();
        let found = searched.windows(end.len()).position(|window| window == end);
        found.map_or(rest.len(), |position| skip + position + end.len())
    }

    fn blank_or_comment(&self) -> usize {
        match self.rest() {
            [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c, ..] => 1,
            [0xc2, 0xa0, ..] => 2,
            [b'-', b'-', ..] | [b'#', b' ' | b'!', ..] => self.through(1, b"\n"),
            [b'/', b'*', ..] => self.through(2, b"*/"),
            _ => 0,
        }
    }

    /// A quote in which a backslash escapes and the quote itself may be doubled.
    fn quoted(&self, quote: u8) -> usize {
        let rest = self.rest();
        let mut at = 1;
        while let Some(&byte) = rest.get(at) {
            match byte {
                b'\\' => at += 2,
                byte if byte == quote && rest.get(at + 1) == Some(&quote) => at += 2,
                byte if byte == quote => return at + 1,
                _ => at += 1,
            }
        }
        rest.len()
    }

    /// `$tag$ … $tag$`, if both are there.
    fn heredoc(&self) -> Option<usize> {
        let rest = self.rest();
        let name = rest.get(1..)?.iter().position(|&byte| !word_byte(byte) || byte == b'$')?;
        let tag = rest.get(..name + 2).filter(|tag| tag.ends_with(b"$"))?;
        let body = rest.get(tag.len()..)?;
        let end = body.windows(tag.len()).position(|window| window == tag)?;
        Some(tag.len() + end + tag.len())
    }

    fn token(&self) -> (Kind, usize) {
        match self.rest() {
            [quote @ (b'\'' | b'"' | b'`'), ..] => (Kind::Quoted, self.quoted(*quote)),
            // ‘…’ and “…”
            [0xe2, 0x80, 0x98, ..] => (Kind::Quoted, self.through(3, &[0xe2, 0x80, 0x99])),
            [0xe2, 0x80, 0x9c, ..] => (Kind::Quoted, self.through(3, &[0xe2, 0x80, 0x9d])),
            [byte, ..] if word_byte(*byte) => {
                if let Some(length) = (*byte == b'$').then(|| self.heredoc()).flatten() {
                    return (Kind::Quoted, length);
                }
                let rest = self.rest();
                (Kind::Word, rest.iter().position(|&byte| !word_byte(byte)).unwrap_or(rest.len()))
            }
            [byte, ..] => (Kind::Symbol(*byte), 1),
            [] => (Kind::Symbol(0), 0),
        }
    }
}

fn word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            match self.blank_or_comment() {
                0 => break,
                length => self.at += length,
            }
        }
        let (kind, length) = self.token();
        let start = self.at;
        let text = self.rest().get(..length)?;
        self.at += length;
        (length > 0).then_some(Token { kind, text, start, end: self.at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        Lexer::new(text.as_bytes()).map(|token| std::str::from_utf8(token.text).expect("utf-8")).collect()
    }

    #[test]
    fn quotes_comments_and_heredocs_hide_what_they_hold() {
        assert_eq!(words("a -- b\nc /* d */ e"), ["a", "c", "e"]);
        assert_eq!(words(r"'it''s \' fine' x"), [r"'it''s \' fine'", "x"]);
        assert_eq!(words("`a``b` \"c\\\"d\""), ["`a``b`", "\"c\\\"d\""]);
        assert_eq!(words("$q$ FORMAT $q$ z"), ["$q$ FORMAT $q$", "z"]);
        assert_eq!(words("$1 + a$b"), ["$1", "+", "a$b"]);
        assert_eq!(words("# note\n‘x FORMAT y’ w"), ["‘x FORMAT y’", "w"]);
        assert_eq!(words("'open FORMAT x"), ["'open FORMAT x"]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_cut_into_pieces_that_lie_in_order(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut at = 0;
            for token in Lexer::new(&text) {
                proptest::prop_assert!(token.start >= at && token.end > token.start && token.end <= text.len());
                at = token.end;
            }
        }
    }
}
