//! What the README tells a new user to type does what it says.

use std::process::{Command, Stdio};

use crate::support::Stack;
use crate::support::stack::finish;

/// The shell commands of a section, in their order.
fn commands(section: &str) -> String {
    let readme = std::fs::read_to_string("README.md").expect("the README");
    let (_, rest) = readme.split_once(&format!("## {section}\n")).expect("the section");
    let section = rest.split_once("\n## ").map_or(rest, |(section, _)| section);
    let blocks: Vec<&str> = section
        .split("```sh\n")
        .skip(1)
        .filter_map(|block| block.split_once("```\n"))
        .map(|(commands, _)| commands)
        .collect();
    assert!(blocks.len() > 5, "{blocks:?}");
    blocks.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_five_minutes_work_as_they_are_written() {
    let stack = Stack::start();
    // A clone in which `make up` has run, as far as the commands can tell.
    let clone = tempfile::tempdir().expect("a folder");
    let link = |target: &std::path::Path, name: &str| {
        let path = clone.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::os::unix::fs::symlink(target, path).expect("linked");
    };
    link(stack.data_dir(), ".platform");
    link(env!("CARGO_BIN_EXE_platform").as_ref(), "target/debug/platform");
    link(&std::env::current_dir().expect("a folder").join("examples"), "examples");
    let script = format!(
        "set -euo pipefail\n{}",
        // The second run of a day has nothing to do, and says so by its exit code.
        commands("Five minutes")
            .replace("etl --date 2026-11-01      # exit code 99", "etl --date 2026-11-01 || [[ $? == 99 ]] # ")
    );
    let mut command = Command::new("bash");
    command.arg("-c").arg(&script).current_dir(clone.path()).stdin(Stdio::null());
    let done = tokio::task::spawn_blocking(move || finish(command)).await.expect("ended");
    assert_eq!(done.code, Some(0), "{}\n{}\nof\n{script}", done.stdout, done.stderr);
    for said in [
        r#""inserted":20000"#,
        "HTTP/1.1 201 Created",
        "preference-applied: wait=30",
        r#""dimension":"total""#,
        r#""status":"equal""#,
        "ClickHouse has 1 post",
        "precondition-failed",
    ] {
        assert!(done.stdout.contains(said), "{said} is missing in\n{}\n{}", done.stdout, done.stderr);
    }
}
