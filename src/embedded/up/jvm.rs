//! What Kafka and Connect have in common: a Java program with a folder of jars and a file of properties.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::process::Launch;

/// Where Java finds a program.
#[derive(Debug, Clone)]
pub(super) struct Jvm {
    /// Java itself.
    pub(super) java: PathBuf,
    /// The folder of jars.
    pub(super) jars: PathBuf,
    /// An archive of the classes of these jars, which spares Java reading and verifying them.
    pub(super) classes: Option<PathBuf>,
}

impl Jvm {
    /// The program `main_class`.
    pub(super) fn program(&self, main_class: &str, flags: &[&str]) -> Launch {
        let classes = self.classes.as_ref().map(|path| format!("-XX:SharedArchiveFile={}", path.display()));
        Launch::foreign(&self.java)
            .args(flags.iter().copied())
            .args(classes)
            .args([
                // Without memory a worker would stay as a zombie that answers and does nothing.
                "-XX:+ExitOnOutOfMemoryError",
                "-Djava.awt.headless=true",
                "-Dfile.encoding=UTF-8",
                // slf4j-simple: everything to one stream, with the time, without the clients' dumps of their settings.
                "-Dorg.slf4j.simpleLogger.logFile=System.out",
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
                "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSX",
                "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.clients=warn",
                "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
                "-cp",
            ])
            .arg(format!("{}/*", self.jars.display()))
            .arg(main_class)
    }
}

/// A heap that fits a machine for development.
pub(super) const SERVICE_HEAP: [&str; 2] = ["-Xms128m", "-Xmx512m"];
/// For a command that ends after a second: as little compilation and memory as can be.
pub(super) const COMMAND_HEAP: [&str; 3] = ["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/// The text of a properties file; Java reads it as Latin-1, so that other letters are written as `\uXXXX`.
pub(super) fn properties(entries: &[(&str, &str)]) -> String {
    let mut text = String::from("# Written by `platform up` at every start.\n");
    for (key, value) in entries {
        text.push_str(key);
        text.push('=');
        for letter in value.chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                ' '..='~' => text.push(letter),
                _ => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        let _ = write!(text, "\\u{unit:04x}");
                    }
                }
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_escape_what_java_would_read_otherwise() {
        let text = properties(&[("a.b", "x y=z:1"), ("path", "/Bücher/\\n/𝄞")]);
        assert!(text.ends_with("a.b=x y=z:1\npath=/B\\u00fccher/\\\\n/\\ud834\\udd1e\n"), "{text}");
    }
}
