//! Style as a test: directions of imports, sizes of files, words that do not belong.
#![allow(clippy::expect_used, clippy::string_slice, clippy::indexing_slicing, reason = "a test may panic")]

use std::path::{Path, PathBuf};

/// What each module may import besides itself, `domain`, `config`, `shutdown` and `telemetry`.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("config", &[]),
    ("shutdown", &[]),
    ("telemetry", &[]),
    ("failpoint", &[]),
    ("catalog", &[]),
    ("store", &["catalog"]),
    ("api", &["store", "catalog"]),
    ("cdc", &["store", "catalog"]),
    ("batch", &["store", "catalog"]),
    ("embedded", &["store", "catalog"]),
    ("cmd", &["api", "cdc", "batch", "embedded", "store", "catalog"]),
];
const EVERYWHERE: &[&str] = &["domain", "config", "shutdown", "telemetry"];
/// Lines of a source file. 80 to 200 is the habit.
const LINES_MAX: usize = 400;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                files.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has no sources");
    files
}

fn module_of(path: &Path) -> String {
    let first = path.components().nth(1).expect("src/MODULE").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The first module of every `crate::…` path that is not in a comment; `{` groups are opened.
fn imported(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for symbol in group.chars() {
                match symbol {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => modules.push(std::mem::take(&mut word)),
                    _ if depth == 0 => word.push(symbol),
                    _ => {}
                }
            }
            modules.push(word);
        } else {
            modules.push(rest.to_owned());
        }
    }
    let name = |text: String| {
        text.trim().chars().take_while(|symbol| symbol.is_alphanumeric() || *symbol == '_').collect::<String>()
    };
    modules.into_iter().map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let module = module_of(&path);
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| *name == module) else {
            assert!(["main", "lib"].contains(&module.as_str()), "{module} has no direction: add it to DIRECTIONS");
            continue;
        };
        for target in imported(&text) {
            let known = DIRECTIONS.iter().any(|(name, _)| *name == target);
            if known
                && target != module
                && !allowed.contains(&target.as_str())
                && !EVERYWHERE.contains(&target.as_str())
            {
                wrong.push(format!("{} imports {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_reader_of_imports_sees_groups_and_skips_comments() {
    assert_eq!(
        imported("use crate::{api::{A, B}, cdc};\n// crate::batch\nlet x = crate::store::y();"),
        ["api", "cdc", "store"]
    );
}

#[test]
fn files_stay_small() {
    let sizes =
        ["src", "tests"].iter().flat_map(|folder| sources(folder)).map(|(path, text)| (path, text.lines().count()));
    let large: Vec<_> = sizes.filter(|(_, lines)| *lines > LINES_MAX).collect();
    assert!(large.is_empty(), "over {LINES_MAX} lines: {large:?}");
}

#[test]
fn only_config_reads_the_environment_and_only_one_file_is_unsafe() {
    let mut unsafe_files = Vec::new();
    for (path, text) in sources("src") {
        let reads = ["env::var(", "env::vars", "env::var_os("].iter().any(|call| text.contains(call));
        assert!(!reads || path == Path::new("src/config.rs"), "{} reads the environment", path.display());
        if text.contains("allow(unsafe_code)") {
            unsafe_files.push(path.clone());
        }
    }
    assert!(unsafe_files.len() <= 1, "{unsafe_files:?}");
}

#[test]
fn crash_points_are_listed_once_and_stand_in_the_code() {
    let mut standing = Vec::new();
    for (_, text) in sources("src") {
        for (at, call) in text.match_indices("failpoint!(\"") {
            let rest = &text[at + call.len()..];
            standing.push(rest.split('"').next().expect("a name").to_owned());
        }
    }
    let mut listed: Vec<_> = platform::failpoint::POINTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    standing.sort_unstable();
    listed.sort_unstable();
    assert_eq!(standing, listed);
}

#[test]
fn nothing_that_is_deployed_is_built_with_crash_points() {
    let mut files = vec![root().join("deploy")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            assert!(!text.contains("failpoints") && !text.contains("all-features"), "{}", path.display());
        }
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("readable");
    assert!(!manifest.lines().any(|line| line.starts_with("default =") && line.contains("failpoints")));
}

#[test]
fn tests_are_not_switched_off() {
    for (path, text) in ["src", "tests"].iter().flat_map(|folder| sources(folder)) {
        if path != Path::new("tests/tidy.rs") {
            assert!(!text.contains("#[ignore"), "{} switches a test off", path.display());
            assert!(
                !text.contains("todo!(") && !text.contains("unimplemented!("),
                "{} is not finished",
                path.display()
            );
        }
    }
}
