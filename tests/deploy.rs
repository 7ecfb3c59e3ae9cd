//! The files under `deploy/` against the program: what they name exists, and they agree with `platform up`. No containers.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test ends by a panic")]

#[path = "deploy/scheduled.rs"]
mod scheduled;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser as _;
use platform::cmd::Cli;
use platform::config::Settings;
use serde_json::Value;

const SECRETS: &str = "/run/platform-secrets";
const OWN_IMAGE: &str = "platform:local";
/// Services that end; the others live and have a health check.
const JOBS: [&str; 6] =
    ["platform-secrets", "platform-migrate", "platform-key", "platform-load", "platform-connector", "platform"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn services() -> BTreeMap<String, Value> {
    serde_json::from_value(yaml("deploy/compose.yml")["services"].clone()).expect("services by name")
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|item| item.as_str().expect("a text").to_owned()).collect()
}

fn environment(service: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(service["environment"].clone()).unwrap_or_default()
}

/// `source:target[:ro]` of each volume.
fn volumes(service: &Value) -> Vec<(String, String, bool)> {
    let parse = |text: String| {
        let words: Vec<&str> = text.split(':').collect();
        (words[0].to_owned(), words[1].to_owned(), words.get(2) == Some(&"ro"))
    };
    texts(&service["volumes"]).into_iter().map(parse).collect()
}

fn dependencies(service: &Value) -> BTreeMap<String, String> {
    let conditions = service["depends_on"].as_object().into_iter().flatten();
    conditions.map(|(name, how)| (name.clone(), how["condition"].as_str().expect("a condition").to_owned())).collect()
}

fn all_before(services: &BTreeMap<String, Value>, name: &str) -> BTreeSet<String> {
    let direct = dependencies(&services[name]);
    direct.keys().flat_map(|before| all_before(services, before).into_iter().chain([before.clone()])).collect()
}

fn dockerfiles() -> Vec<(&'static str, String)> {
    ["deploy/Dockerfile", "deploy/connect/Dockerfile", "deploy/airflow/Dockerfile"]
        .map(|path| (path, read(path)))
        .into()
}

/// The images that a Dockerfile starts from.
fn bases(dockerfile: &str) -> Vec<String> {
    let words = dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")?.split(' ').next());
    words.map(str::to_owned).collect()
}

/// A file's `("key", "value")` pairs of literals.
fn literal_pairs(source: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| {
        let inner = line.trim().strip_prefix("(\"")?.strip_suffix("\"),")?;
        let (key, value) = inner.split_once("\", \"")?;
        Some((key.to_owned(), value.to_owned()))
    };
    let source = source.replace("MESSAGE_BYTES_MAX)", "\"67108864\")");
    assert!(read("src/embedded/up/part/kafka.rs").contains("MESSAGE_BYTES_MAX: &str = \"67108864\""));
    source.lines().filter_map(pair).collect()
}

#[test]
fn the_root_file_includes_the_stack_under_the_same_name() {
    let file = yaml("compose.yaml");
    assert_eq!(texts(&file["include"]), ["deploy/compose.yml"]);
    assert_eq!(
        file["name"],
        yaml("deploy/compose.yml")["name"],
        "else the two ways to start it would not share volumes"
    );
}

#[test]
fn ports_are_on_loopback_and_those_of_platform_up() {
    let up = Settings::from_overrides([]).expect("the defaults").up;
    let expected = BTreeMap::from([
        ("postgres", up.postgres_port),
        ("kafka", up.kafka_port),
        ("connect", up.connect_port),
        ("clickhouse", up.clickhouse_port),
        ("platform-api", up.api_port),
        ("platform-sink", up.sink_port),
        ("airflow", 8080),
    ]);
    let services = services();
    let mut found = BTreeMap::new();
    for (name, service) in &services {
        for port in texts(&service["ports"]) {
            let rest = port.strip_prefix("127.0.0.1:${PLATFORM_").unwrap_or_else(|| panic!("{name}: {port}"));
            let (_, rest) = rest.split_once(":-").expect("a default");
            let (published, target) = rest.split_once("}:").expect("a port inside");
            found.insert(name.as_str(), published.parse().expect("a number"));
            // Kafka tells clients on this machine another address than clients in the network.
            assert_eq!(target, if name == "kafka" { "29092" } else { published }, "{name}");
        }
    }
    assert_eq!(found, expected);
    let listeners = &environment(&services["kafka"])["KAFKA_ADVERTISED_LISTENERS"];
    assert!(
        listeners.contains(&format!("HOST://localhost:${{PLATFORM_KAFKA_PORT:-{}}}", up.kafka_port)),
        "{listeners}"
    );
}

#[test]
fn every_variable_is_a_key_of_the_configuration() {
    let mut count = 0;
    for (name, service) in services() {
        for (variable, value) in environment(&service) {
            let Some(key) = variable.strip_prefix("PLATFORM__") else { continue };
            let (key, value) = match key.strip_suffix("_FILE") {
                Some(key) => (key, "from a file"),
                None => (key, value.as_str()),
            };
            let key = key.replace("__", ".").to_lowercase();
            Settings::from_overrides([(key.as_str(), value)])
                .unwrap_or_else(|error| panic!("{name}: {variable}: {error:#}"));
            count += 1;
        }
    }
    assert!(count > 30, "only {count} variables found");
}

#[test]
fn every_command_is_one_of_this_program() {
    let mut lines = Vec::new();
    for (name, service) in services() {
        let checked = texts(&service["healthcheck"]["test"]);
        if let Some(["CMD", "/usr/local/bin/platform", rest @ ..]) =
            checked.iter().map(String::as_str).collect::<Vec<_>>().get(..)
        {
            lines.push((name.clone(), rest.join(" ")));
        }
        if service["image"] == OWN_IMAGE && service["entrypoint"].is_null() && name != "platform" {
            lines.push((name.clone(), texts(&service["command"]).join(" ")));
        }
    }
    let script = "deploy/compose/first-load.sh";
    for call in read(script).lines().filter_map(|line| line.trim().strip_prefix("platform ")) {
        lines.push((script.to_owned(), call.trim_end_matches(" &").to_owned()));
    }
    lines.extend(scheduled::commands());
    assert_eq!(lines.len(), 17, "{lines:?}");
    for (place, line) in lines {
        let words = ["platform"].into_iter().chain(line.split(' '));
        Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{place}: platform {line}: {error}"));
    }
}

#[test]
fn every_image_is_built_here_or_pinned() {
    let services = services();
    let built: Vec<&Value> =
        services.values().filter(|service| !service["build"].is_null()).map(|service| &service["image"]).collect();
    let mut images: Vec<String> = dockerfiles().iter().flat_map(|(_, text)| bases(text)).collect();
    for (name, service) in &services {
        if built.contains(&&service["image"]) {
            assert_eq!(service["pull_policy"], "never", "{name}: nobody else's image of that name");
        } else {
            images.push(service["image"].as_str().expect("a name").to_owned());
        }
    }
    for image in &images {
        let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
        let numbers = tag.split(['.', '-', '_']).filter(|word| word.parse::<u32>().is_ok()).count();
        assert!(numbers >= 2 || tag.starts_with("bookworm-2"), "{image}: the tag moves");
    }
    let toolchain = read("rust-toolchain.toml");
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).expect("a channel");
    let rust = format!("rust:{}-bookworm", channel.trim_matches('"'));
    assert!(images.contains(&rust), "{rust} is not what deploy/Dockerfile builds with");
}

#[test]
fn every_file_that_is_named_exists() {
    let deploy = root().join("deploy");
    for (name, service) in services() {
        for (source, ..) in volumes(&service) {
            assert!(!source.starts_with('.') || deploy.join(&source).is_file(), "{name}: {source}");
        }
        if let Some(context) = service["build"]["context"].as_str() {
            let file = service["build"]["dockerfile"].as_str().unwrap_or("Dockerfile");
            assert!(deploy.join(context).join(file).is_file(), "{name}: {context}/{file}");
        }
    }
    for (path, context) in [
        ("deploy/Dockerfile", "."),
        ("deploy/connect/Dockerfile", "deploy"),
        ("deploy/airflow/Dockerfile", "deploy/airflow"),
    ] {
        for source in copied(&read(path)) {
            assert!(root().join(context).join(&source).exists(), "{path}: {source}");
        }
    }
}

/// What a Dockerfile copies out of its context.
fn copied(dockerfile: &str) -> Vec<String> {
    let lines =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from"));
    lines.flat_map(|line| line.split(' ').rev().skip(1).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// A file that is compiled in but not copied fails the build of the image, long after `cargo build` was green.
#[test]
fn everything_that_is_compiled_in_reaches_the_image() {
    let copied = copied(&read("deploy/Dockerfile"));
    let ignore = read(".dockerignore");
    for source in &copied {
        assert!(ignore.lines().any(|line| line == format!("!{source}")), ".dockerignore keeps {source} out");
    }
    let mut found = BTreeSet::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                found.extend(included(&text).into_iter().map(|name| (path.clone(), name)));
            }
        }
    }
    assert!(found.len() >= 3, "only {found:?}");
    for (path, name) in found {
        let outside = name.trim_start_matches("../").trim_start_matches("$CARGO_MANIFEST_DIR/");
        let fine = outside.starts_with("tests/")
            || copied.iter().any(|source| outside == source || outside.starts_with(&format!("{source}/")));
        assert!(fine, "{} compiles in {name}, which deploy/Dockerfile does not copy", path.display());
    }
}

/// The first text after each `include_…!(` that names something outside `src`.
fn included(source: &str) -> Vec<String> {
    let calls = ["include_str!(", "include_bytes!(", "include_dir!("].map(|call| source.split(call).skip(1));
    let names = calls.into_iter().flatten().filter_map(|rest| rest.split('"').nth(1));
    names.filter(|name| name.starts_with("../") || name.starts_with('$')).map(str::to_owned).collect()
}

#[test]
fn kafka_connect_and_postgresql_are_set_as_platform_up_sets_them() {
    let services = services();
    let kafka = environment(&services["kafka"]);
    let pairs = literal_pairs(&read("src/embedded/up/part/kafka.rs"));
    // Compose has listeners and a folder of its own.
    let own = ["log.dirs", "listener.security.protocol.map"];
    let pairs: Vec<_> = pairs.iter().filter(|(key, _)| !own.contains(&key.as_str())).collect();
    assert!(pairs.len() >= 15, "{pairs:?}");
    for (key, value) in pairs {
        let variable = format!("KAFKA_{}", key.replace('.', "_").to_uppercase());
        assert_eq!(kafka.get(&variable), Some(value), "{variable}");
    }

    let text = read("deploy/connect/worker.properties");
    let worker: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let pairs = literal_pairs(&read("src/embedded/up/part/connect.rs"));
    assert!(pairs.len() >= 20, "{pairs:?}");
    for (key, value) in pairs.iter().filter(|(key, _)| *key != "rest.advertised.host.name") {
        assert_eq!(worker.get(key.as_str()), Some(&value.as_str()), "{key}");
    }

    let source = read("src/embedded/up/part/postgres.rs");
    let command = texts(&services["postgres"]["command"]);
    for setting in
        ["wal_level", "max_replication_slots", "max_wal_senders", "max_slot_wal_keep_size", "password_encryption"]
    {
        let given = command.iter().find_map(|word| word.strip_prefix("-c").filter(|word| word.starts_with(setting)));
        let given = given.unwrap_or_else(|| panic!("{setting} is not set"));
        assert!(source.contains(&format!("\"{given}\"")), "{given}");
    }
}

#[test]
fn services_are_bounded_and_have_no_more_rights_than_they_need() {
    for (name, service) in services() {
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert!(service["logging"]["options"]["max-size"].is_string(), "{name}: its log grows without end");
        assert!(service["mem_limit"].is_string(), "{name}: its memory has no limit");
        assert!(service["read_only"] == true || name == "kafka", "{name}");
        let job = JOBS.contains(&name.as_str());
        assert_eq!(service["healthcheck"].is_null(), job, "{name}: a health check");
        assert_eq!(service["restart"] == "unless-stopped", !job, "{name}: restart");
    }
}

#[test]
fn parts_start_in_the_order_of_platform_up() {
    let services = services();
    for (name, service) in &services {
        for (before, condition) in dependencies(service) {
            let job = JOBS.contains(&before.as_str());
            let expected = if job { "service_completed_successfully" } else { "service_healthy" };
            assert_eq!(condition, expected, "{name} after {before}");
        }
    }
    let chains: [(&str, &[&str]); 5] = [
        ("platform-migrate", &["platform-secrets", "postgres", "kafka", "clickhouse"]),
        ("platform-load", &["platform-migrate", "connect"]),
        ("platform-connector", &["platform-load"]),
        ("platform-sink", &["platform-connector"]),
        ("platform-api", &["platform-key", "platform-load"]),
    ];
    for (name, needed) in chains {
        let before = all_before(&services, name);
        assert!(needed.iter().all(|one| before.contains(*one)), "{name} starts after {before:?} only");
    }
}

/// Runs the script that makes the secrets, with a `chown` that does nothing: only root may give files away.
fn make_secrets(folder: &Path) {
    let bin = folder.join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    std::fs::write(bin.join("chown"), "#!/bin/sh\nexit 0\n").expect("written");
    std::fs::set_permissions(bin.join("chown"), std::fs::Permissions::from_mode(0o755)).expect("executable");
    for expected in ["13 made, 0 kept", "0 made, 13 kept"] {
        let mut command = Command::new("bash");
        command.arg(root().join("deploy/compose/secrets.sh")).arg("make");
        command.env("PLATFORM_SECRETS", folder.join("secrets"));
        command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        // An ordinary user cannot write into a folder of mode 0500; root in the container can.
        open(&folder.join("secrets"));
        let output = command.output().expect("bash runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains(expected), "{said}");
    }
}

fn open(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).expect("ours");
    }
}

#[test]
fn each_service_gets_the_secrets_it_names_and_nobody_elses() {
    let folder = tempfile::tempdir().expect("a folder");
    make_secrets(folder.path());
    let secrets = folder.path().join("secrets");
    let services = services();
    let maker: BTreeMap<String, PathBuf> = volumes(&services["platform-secrets"])
        .into_iter()
        .filter_map(|(source, target, _)| Some((source, secrets.join(target.strip_prefix("/secrets/")?))))
        .collect();
    for (name, service) in services.iter().filter(|(name, _)| *name != "platform-secrets") {
        let mounted: Vec<_> = volumes(service).into_iter().filter(|(_, target, _)| target == SECRETS).collect();
        for (source, _, read_only) in &mounted {
            assert!(*read_only && source != "secrets", "{name}: {source}");
        }
        for (variable, value) in environment(service) {
            let file = value.split([' ', ':']).find_map(|word| word.strip_prefix(SECRETS)?.strip_prefix('/'));
            let Some(file) = file else { continue };
            let path = maker[&mounted[0].0].join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {variable}: {error}"));
            assert!(text.len() >= 32 && !text.ends_with('\n'), "{name}: {file}");
        }
    }
    let sharing =
        |volume: &str| services.values().filter(|one| volumes(one).iter().any(|(source, ..)| source == volume)).count();
    assert_eq!(
        [sharing("secrets"), sharing("secrets-api"), sharing("secrets-sink"), sharing("secrets-airflow")],
        [1, 2, 2, 2]
    );
    let key = std::fs::read_to_string(secrets.join("all/api_key")).expect("made");
    assert!(key.starts_with("pk_") && key.len() == 3 + 8 + 1 + 64, "the shape that the API reads: {} bytes", key.len());
    open(&secrets);
}
