//! Headers of analytics endpoints (`sql/endpoints/NAME.sql`): what a file says about itself, checked against its SQL.
//!
//! `docs/endpoints.md` describes the form for people. A header that is wrong in any way stops the program at its start
//! with the file and the line, so that no endpoint is served that differs from its description.

use super::endpoint_parameter::{Parameter, Presence, Type};
use super::endpoint_range::Range;
use super::endpoint_sql::placeholders;

/// One analytics endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Last part of its path: `GET /v1/analytics/NAME`.
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// More for people; may be empty.
    pub description: String,
    /// Tables of the database `analytics` that it reads: their state and the watermark decide whether it can answer.
    pub tables: Vec<String>,
    /// What a request may say, in the order of the file.
    pub parameters: Vec<Parameter>,
    /// Two parameters of which the first must be the earlier one.
    pub span: Option<(String, String)>,
    /// What `{rows}` stands for in the SELECT.
    pub range: Option<Range>,
    /// Whether its answer depends on nothing but its tables and parameters, so that it may be given again: not when the header says
    /// `-- cache: off`, nor when the SELECT asks for the time, chance or the server.
    pub is_pure: bool,
    /// The SELECT, without the header, with its `{rows}`.
    pub sql: String,
    /// Line of the file on which the SELECT begins, counted from 1.
    pub first_line: usize,
}

/// A file is wrong; the text names the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}.sql, line {line}: {text}")]
pub struct HeaderError {
    /// The endpoint.
    pub name: String,
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub text: String,
}

/// Names that every analytics endpoint has already.
const RESERVED: [&str; 1] = ["format"];

impl Endpoint {
    /// Reads a file. `name` is the file's name without `.sql`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(name: &str, text: &str) -> Result<Self, HeaderError> {
        let error = |line: usize, text: String| HeaderError { name: name.to_owned(), line, text };
        if !is_name(name, '-') {
            return Err(error(1, "the file's name must be lower-case letters, digits and hyphens".to_owned()));
        }
        let mut endpoint = Self {
            name: name.to_owned(),
            summary: String::new(),
            description: String::new(),
            tables: Vec::new(),
            parameters: Vec::new(),
            span: None,
            range: None,
            is_pure: true,
            sql: String::new(),
            first_line: 1,
        };
        let mut header_lines = 0;
        for (at, line) in text.lines().enumerate() {
            let Some(comment) = line.strip_prefix("--") else { break };
            endpoint.read_line(comment.trim(), at + 1).map_err(|text| error(at + 1, text))?;
            header_lines = at + 1;
        }
        endpoint.sql = text.lines().skip(header_lines).collect::<Vec<_>>().join("\n").trim().to_owned();
        let blank = text.lines().skip(header_lines).take_while(|line| line.trim().is_empty()).count();
        endpoint.first_line = header_lines + blank + 1;
        endpoint.is_pure &= !asks_the_moment(&endpoint.sql);
        endpoint.check().map_err(|text| error(header_lines.max(1), text))?;
        endpoint.check_range(text, header_lines).map_err(|(line, text)| error(line, text))?;
        check_placeholders(&endpoint, text, header_lines).map_err(|(line, text)| error(line, text))?;
        Ok(endpoint)
    }

    fn read_line(&mut self, comment: &str, at: usize) -> Result<(), String> {
        if comment.is_empty() {
            return Ok(());
        }
        if let Some(rest) = comment.strip_prefix("param ") {
            let parameter = parse_parameter(rest)?;
            if self.parameters.iter().any(|known| known.name == parameter.name) {
                return Err(format!("parameter {} is described twice", parameter.name));
            }
            self.parameters.push(parameter);
            return Ok(());
        }
        let (key, value) = comment.split_once(':').unwrap_or((comment, ""));
        let value = value.trim();
        match key {
            "summary" if !self.summary.is_empty() => return Err("there is already a summary".to_owned()),
            "summary" => value.clone_into(&mut self.summary),
            "description" if self.description.is_empty() => value.clone_into(&mut self.description),
            "description" => self.description = format!("{} {value}", self.description),
            "table" if is_table(value) => self.tables.push(value.to_owned()),
            "table" => return Err(format!("{value:?} is not a table's name")),
            "cache" if value == "off" => self.is_pure = false,
            "cache" => return Err("write `-- cache: off`, or leave the line out".to_owned()),
            "span" => match value.split_whitespace().collect::<Vec<_>>().as_slice() {
                [from, to] => self.span = Some(((*from).to_owned(), (*to).to_owned())),
                _ => return Err("write `-- span: FROM TO`, two parameters".to_owned()),
            },
            "range" if self.range.is_some() => return Err("there is already a range".to_owned()),
            "range" => self.range = Some(Range::parse(value, at)?),
            _ => {
                return Err(format!(
                    "{key:?} is not known here; a header line is `-- summary: …`, `-- description: …`, `-- table: NAME`, \
                     `-- span: FROM TO`, `-- range: COLUMN FROM TO`, `-- cache: off` or `-- param NAME TYPE required|optional|default VALUE [min N] [max N]: …`"
                ));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if self.summary.is_empty() {
            return Err("the header has no `-- summary: …`".to_owned());
        }
        if self.tables.is_empty() {
            return Err("the header names no table: `-- table: NAME`".to_owned());
        }
        if self.sql.is_empty() {
            return Err("there is no SELECT after the header".to_owned());
        }
        if self.sql.ends_with(';') {
            return Err("the SELECT must not end with a semicolon".to_owned());
        }
        let Some((from, to)) = &self.span else { return Ok(()) };
        let kind = |name: &String| self.parameters.iter().find(|known| known.name == *name).map(|known| &known.kind);
        match (kind(from), kind(to)) {
            (Some(Type::Date), Some(Type::Date)) | (Some(Type::DateTime), Some(Type::DateTime)) => Ok(()),
            _ => Err(format!("the span's {from} and {to} must both be parameters of type Date, or both DateTime")),
        }
    }
}

/// Functions whose value changes although no row does: time, chance, the server and its state.
const MOMENTARY: [&str; 24] = [
    "now",
    "now64",
    "nowinblock",
    "nowinblock64",
    "today",
    "yesterday",
    "current_timestamp",
    "current_date",
    "curdate",
    "utc_timestamp",
    "utctimestamp",
    "timezone",
    "rand",
    "rand32",
    "rand64",
    "randcanonical",
    "randconstant",
    "generateuuidv4",
    "generateuuidv7",
    "hostname",
    "uptime",
    "queryid",
    "currentuser",
    "connectionid",
];

/// Whether a word of the SELECT is one of them, or reads what is not a table of ours. A word in a string counts too: then the
/// answer is only computed each time.
fn asks_the_moment(sql: &str) -> bool {
    let words = sql.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_ascii_lowercase);
    let outside = ["system", "information_schema", "url", "file", "s3", "remote", "postgresql", "dictget"];
    words.into_iter().any(|word| {
        MOMENTARY.contains(&word.as_str())
            || outside.contains(&word.as_str())
            || word.starts_with("rand") && word.len() < 14
    })
}

/// Lower-case letters, digits and `joint`, beginning with a letter.
fn is_name(text: &str, joint: char) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == joint)
}

/// As the mirror names it: `table`, or `schema.table` outside of `public`.
fn is_table(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))
}

/// `NAME TYPE required|optional|default VALUE [min N] [max N]: description`
fn parse_parameter(rest: &str) -> Result<Parameter, String> {
    let (spec, description) = rest.split_once(": ").ok_or("the description is missing: `…: what it means`")?;
    let mut words = spec.split_whitespace();
    let mut word = |what: &str| words.next().ok_or_else(|| format!("{what} is missing"));
    let name = word("the parameter's name")?;
    if !is_name(name, '_') || RESERVED.contains(&name) {
        return Err(format!(
            "{name:?} cannot be a parameter's name: lower-case letters, digits and underscores, not `format`"
        ));
    }
    let kind = parse_type(word("the type")?)?;
    let presence = match word("required, optional or default")? {
        "required" => Presence::Required,
        "optional" => Presence::Optional,
        "default" => Presence::Default(word("the default's value")?.to_owned()),
        other => return Err(format!("{other:?} must be required, optional or default VALUE")),
    };
    let (mut min, mut max) = (None, None);
    while let Ok(bound) = word("") {
        let number = word("the bound's number")?;
        let number = number.parse().map_err(|_| format!("{number:?} is not a whole number"))?;
        match bound {
            "min" if kind.is_number() => min = Some(number),
            "max" if kind.is_number() || kind == Type::String => max = Some(number),
            other => {
                return Err(format!("{other:?} does not go with {kind}: numbers have min and max, String has max"));
            }
        }
    }
    let parameter =
        Parameter { name: name.to_owned(), kind, presence, min, max, description: description.trim().to_owned() };
    if parameter.description.is_empty() {
        return Err("the description is empty".to_owned());
    }
    if let Presence::Default(value) = &parameter.presence {
        parameter.accept(value).map_err(|refused| format!("the default {value:?} {refused}"))?;
    }
    Ok(parameter)
}

fn parse_type(text: &str) -> Result<Type, String> {
    if let Some(words) = text.strip_prefix("Enum(").and_then(|rest| rest.strip_suffix(')')) {
        let words: Vec<String> = words.split(',').map(str::to_owned).collect();
        if words.iter().any(|word| !is_name(word, '_')) {
            return Err(format!("{text}: write Enum(first,second) without blanks"));
        }
        return Ok(Type::Enum(words));
    }
    match text {
        "Date" => Ok(Type::Date),
        "DateTime" => Ok(Type::DateTime),
        "String" => Ok(Type::String),
        "UInt32" => Ok(Type::UInt32),
        "Int64" => Ok(Type::Int64),
        _ => Err(format!("{text:?} is not a type: Date, DateTime, String, Enum(a,b), UInt32, Int64")),
    }
}

/// Every `{name:Type}` of the SQL is described, under its own type, and every description is used.
fn check_placeholders(endpoint: &Endpoint, text: &str, header_lines: usize) -> Result<(), (usize, String)> {
    let plain = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    let mut used = Vec::new();
    for (at, line) in text.lines().enumerate().skip(header_lines) {
        for (name, kind) in placeholders(line) {
            let Some(parameter) = endpoint.parameters.iter().find(|parameter| parameter.name == name) else {
                return Err((at + 1, format!("{{{name}:{kind}}} has no `-- param {name} …`")));
            };
            let expected = parameter.clickhouse();
            if plain(kind) != plain(&expected) {
                return Err((at + 1, format!("{{{name}:{kind}}} must be {{{name}:{expected}}}, as its header says")));
            }
            used.push(name);
        }
    }
    if let Some(range) = &endpoint.range {
        used.extend([range.from.as_str(), range.to.as_str()]);
    }
    match endpoint.parameters.iter().find(|parameter| !used.contains(&parameter.name.as_str())) {
        Some(unused) => {
            Err((header_lines, format!("the SELECT does not use {{{}:{}}}", unused.name, unused.clickhouse())))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "-- summary: Posts\n-- description: One\n-- description: two.\n-- table: posts\n-- span: from to\n\
        -- param from DateTime required: first\n-- param to DateTime required: end\n\
        -- param limit UInt32 default 10 min 1 max 100: rows\n-- param topic String optional: topic\n\
        select '{not:String}' -- {nor:String}\nfrom analytics.posts where t >= {from:DateTime64(6,'UTC')} and\n\
        t < {to:DateTime64(6, 'UTC')} and topic = {topic:Nullable(String)} limit {limit:UInt32}\n";

    #[test]
    fn a_good_file_is_read() {
        let endpoint = Endpoint::parse("posts-by-topic", GOOD).expect("good");
        assert_eq!(endpoint.description, "One two.");
        assert_eq!(endpoint.tables, ["posts"]);
        assert_eq!(
            endpoint.parameters.iter().map(Parameter::clickhouse).collect::<Vec<_>>(),
            ["DateTime64(6, 'UTC')", "DateTime64(6, 'UTC')", "UInt32", "Nullable(String)"]
        );
        assert!(endpoint.sql.starts_with("select") && endpoint.first_line == 10, "{endpoint:?}");
    }

    #[test]
    fn what_depends_on_the_moment_is_not_pure() {
        let pure = |sql: &str, line: &str| {
            let text = format!("-- summary: x\n-- table: t\n{line}select {sql} from analytics.t");
            Endpoint::parse("x", &text).expect("good").is_pure
        };
        assert!(pure("count(), known, brand_new", ""));
        for sql in ["Now64(6)", "today()", "rand()", "randUniform(0, 1)", "(select 1 from system.parts)"] {
            assert!(!pure(sql, ""), "{sql}");
        }
        assert!(!pure("count()", "-- cache: off\n"));
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_line() {
        let cases: [(&str, &str, usize, &str); 16] = [
            ("-- summary: Posts", "-- sumary: Posts", 1, "sumary"),
            ("-- summary: Posts\n", "", 8, "no `-- summary"),
            ("-- table: posts", "-- table: Posts!", 4, "not a table's name"),
            ("-- span: from to", "-- span: from", 5, "two parameters"),
            ("-- span: from to", "-- span: from limit", 9, "both"),
            ("-- param from DateTime required", "-- param from Datum required", 6, "not a type"),
            ("-- param from DateTime required: first", "-- param from DateTime required", 6, "description is missing"),
            ("param from DateTime required", "param from DateTime needed", 6, "needed"),
            ("param to DateTime", "param from DateTime", 7, "twice"),
            ("default 10 min", "default 1000 min", 8, "from 1 to 100"),
            ("min 1 max 100", "min one max 100", 8, "not a whole number"),
            ("param topic String optional", "param topic String optional min 3", 9, "does not go with"),
            ("param topic String", "param format String", 9, "cannot be"),
            ("{limit:UInt32}", "{limit:UInt64}", 12, "must be {limit:UInt32}"),
            ("limit {limit:UInt32}", "limit {limits:UInt32}", 12, "no `-- param limits"),
            ("limit {limit:UInt32}", "limit 5;", 9, "semicolon"),
        ];
        for (from, to, line, text) in cases {
            assert!(GOOD.contains(from), "{from}");
            let error = Endpoint::parse("posts", &GOOD.replacen(from, to, 1)).expect_err(to);
            assert!(error.line == line && error.text.contains(text), "{to:?}: {error}");
        }
        let unused = Endpoint::parse("posts", &GOOD.replace("limit {limit:UInt32}", "limit 5")).expect_err("unused");
        assert!(unused.text.contains("does not use {limit:UInt32}"), "{unused}");
        assert!(Endpoint::parse("Posts", GOOD).is_err());
    }
}
