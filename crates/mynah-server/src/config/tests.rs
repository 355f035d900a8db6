//! The configuration as its users meet it: texts with places, variables, and the documented file beside the code.

use std::fs;

use super::tree::{Node, Value};
use super::units::Span;
use super::*;

fn vars(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn loaded(yaml: &str, env: &[(&str, &str)]) -> Config {
    match parse(yaml, "m.yaml".to_owned(), &vars(env)) {
        Ok(loaded) => loaded.config,
        Err(refused) => panic!("{:#?}", refused.lines()),
    }
}

fn refused(yaml: &str, env: &[(&str, &str)]) -> Vec<String> {
    match parse(yaml, "m.yaml".to_owned(), &vars(env)) {
        Ok(loaded) => panic!("accepted: {:#?}", loaded.config),
        Err(refused) => refused.lines(),
    }
}

/// One problem whose line starts with `start` and contains `part`.
#[track_caller]
fn check_refused(yaml: &str, start: &str, part: &str) {
    let lines = refused(yaml, &[]);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].starts_with(start) && lines[0].contains(part), "{}", lines[0]);
}

#[test]
fn the_documented_file_is_the_defaults() {
    assert_eq!(loaded(DOCUMENTED_DEFAULTS, &[]), Config::default());
    assert_eq!(loaded("", &[]), Config::default());
}

#[test]
fn the_documented_file_names_every_key() {
    let json = serde_json::to_value(Config::default()).unwrap();
    let tree = Node::parse(DOCUMENTED_DEFAULTS).unwrap();
    let mut missing = Vec::new();
    missing_keys(&json, Some(&tree), "", &mut missing);
    assert!(missing.is_empty(), "not in config/mynah.yaml: {missing:?}");
}

/// Keys of `json` that are neither in `tree` nor, where their default is nothing, in a comment of the file.
fn missing_keys(json: &serde_json::Value, tree: Option<&Node>, path: &str, missing: &mut Vec<String>) {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the rest are leaves")]
    match json {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                let node = tree.and_then(|tree| tree.get(key));
                let here = format!("{path}.{key}");
                let in_comment = value.is_null()
                    && DOCUMENTED_DEFAULTS
                        .lines()
                        .any(|line| line.trim_start().starts_with('#') && line.contains(&format!("{key}:")));
                if node.is_none() && !in_comment {
                    missing.push(here.clone());
                }
                missing_keys(value, node, &here, missing);
            }
        }
        serde_json::Value::Array(items) => {
            let Some(Value::List(nodes)) = tree.map(|tree| &tree.value) else { return };
            for (item, node) in items.iter().zip(nodes) {
                missing_keys(item, Some(node), path, missing);
            }
        }
        _ => {}
    }
}

#[test]
fn every_key_of_the_documented_file_has_a_line_of_why() {
    let lines: Vec<&str> = DOCUMENTED_DEFAULTS.lines().collect();
    for section in ["limits:", "queues:", "log:"] {
        let start = lines.iter().position(|line| *line == section).unwrap();
        let mut commented = false;
        for line in lines[start + 1..].iter().take_while(|line| line.starts_with("  ")) {
            let is_comment = line.trim_start().starts_with('#');
            // A pair of bounds (messages, bytes) may share one comment.
            let pair = line.contains("_bytes");
            assert!(is_comment || commented || pair, "no line of why above: {line}");
            commented = is_comment;
        }
    }
}

#[test]
fn a_file_changes_only_what_it_names() {
    let config =
        loaded("log: { level: debug }\nlimits:\n  message_bytes_max: 1MiB\n  login_timeout: 5s\n", &[]);
    assert_eq!(config.log.level.as_str(), "debug");
    assert_eq!(config.limits.message_bytes_max, Size::mib(1));
    assert_eq!(config.limits.login_timeout, Span::secs(5));
    assert_eq!(config.limits.login_timeout_stomp, Span::secs(60));
    assert_eq!(config.listeners, Config::default().listeners);
    // A section whose keys are all commented out.
    assert_eq!(loaded("limits:\n  # nothing\nlog:\n", &[]), Config::default());
}

#[test]
fn yaml_syntax_errors_have_a_place() {
    check_refused("log: { level: info\nlimits: [", "m.yaml:", "not valid YAML");
    check_refused("a: b: c\n", "m.yaml:1:", "not valid YAML");
    check_refused("log:\n  level: info\n  level: warn\n", "m.yaml:3:3: not valid YAML", "level");
    check_refused("log:\n\tlevel: info\n", "m.yaml:2:", "not valid YAML");
    check_refused("- a\n", "m.yaml:1:1: expected a map of keys", "found a list");
}

#[test]
fn unknown_keys_suggest_the_one_meant() {
    check_refused(
        "listner: []\n",
        "m.yaml:1:1: listner: unknown key; did you mean \"listeners\"?",
        "allowed: data_dir",
    );
    check_refused("log:\n  levle: info\n", "m.yaml:2:3: log.levle: unknown key; did you mean \"level\"?", "");
    check_refused("zebra: 1\n", "m.yaml:1:1: zebra: unknown key (allowed: data_dir, listeners", "");
    check_refused(
        "listeners:\n  - { name: a, protocol: mqtt, binds: \"127.0.0.1:1\" }\n",
        "m.yaml:2:32: listeners[0].binds: unknown key; did you mean \"bind\"?",
        "",
    );
}

#[test]
fn wrong_types_and_values_say_what_is_expected() {
    check_refused(
        "log:\n  level: debgu\n",
        "m.yaml:2:10: log.level: unknown value \"debgu\"; did you mean \"debug\"?",
        "trace",
    );
    check_refused("log: 3\n", "m.yaml:1:6: log: expected a map of keys, found a whole number", "");
    check_refused("listeners: 3\n", "m.yaml:1:12: listeners: expected a list, found a whole number", "");
    check_refused(
        "limits:\n  connections_max: many\n",
        "m.yaml:2:20: limits.connections_max: expected a whole number",
        "",
    );
    check_refused("limits:\n  connections_max: -1\n", "m.yaml:2:20: limits.connections_max: expected", "-1");
    check_refused(
        "limits:\n  message_bytes_max: 16 apples\n",
        "m.yaml:2:22: limits.message_bytes_max: expected a size such as",
        "apples",
    );
    check_refused(
        "limits:\n  login_timeout: soon\n",
        "m.yaml:2:18: limits.login_timeout: expected a duration such as",
        "soon",
    );
    check_refused(
        "queues:\n  auto_create: maybe\n",
        "m.yaml:2:16: queues.auto_create: expected true or false",
        "",
    );
    check_refused(
        "admin:\n  bind: localhost\n",
        "m.yaml:2:9: admin.bind: \"localhost\" is not an address and port",
        "127.0.0.1:1883",
    );
    check_refused(
        "auth:\n  users: [ { name: a, password: 123 } ]\n",
        "m.yaml:2:33: auth.users[0].password: expected text (put it in quotes",
        "",
    );
    check_refused(
        "listeners: [ { name: a, protocol: mqtt } ]\n",
        "m.yaml:1:14: listeners[0]: the key \"bind\" is missing",
        "",
    );
}

#[test]
fn a_value_that_must_stay_secret_is_never_quoted() {
    for yaml in [
        "auth: { users: [ { name: a, password: 987654 } ] }\n",
        "auth: { users: [ { name: a, password_hash: hush987654 } ] }\n",
        "auth: { users: [ { name: a, password: hush987654, password_hash: hush987654 } ] }\n",
    ] {
        let lines = refused(yaml, &[]).join("\n");
        assert!(!lines.contains("987654"), "{lines}");
    }
    let shown = format!("{:?}", loaded("auth: { users: [ { name: a, password: hush987654 } ] }\n", &[]));
    assert!(!shown.contains("hush"), "{shown}");
}

#[test]
fn values_that_are_wrong_together() {
    let two = "listeners:\n  - { name: a, protocol: mqtt, bind: \"127.0.0.1:1\" }\n  - { name: a, protocol: stomp, bind: \"127.0.0.1:2\" }\n";
    check_refused(two, "m.yaml:3:13: listeners[1].name: \"a\" is the name of listeners[0] already", "");
    let same = "listeners:\n  - { name: a, protocol: mqtt, bind: \"127.0.0.1:15672\" }\n";
    check_refused(same, "m.yaml:2:38: listeners[0].bind: 127.0.0.1:15672 is taken by admin.bind already", "");
    check_refused("listeners: []\n", "m.yaml:1:12: listeners: is empty", "protocol: mqtt");
    let listener =
        |more: &str| format!("listeners: [ {{ name: w, protocol: mqtt, bind: \"127.0.0.1:1\", {more} }} ]\n");
    for (more, problem) in [
        ("origins: [x]", "origins: is for listeners of protocol websocket"),
        ("proxy_protocol: [10.0.0.0/33]", "is neither an address nor a network"),
        ("tls: { cert: a, key: b, client_cert: required }", "client_cert needs client_ca"),
        ("tls: { cert: a, key: b, user_from: subject }", "user_from needs client_cert"),
        ("mqtt: { qos_max: 3 }", "qos_max is 0, 1 or 2"),
        ("mqtt: { mount_point: a/+ }", "no + and no #"),
    ] {
        check_refused(&listener(more), "m.yaml:1:", problem);
    }
    for (rule, problem) in [
        ("{ to: [a] }", "needs either allow or deny"),
        ("{ allow: [publish], deny: [publish], to: [a] }", "needs either allow or deny"),
        ("{ allow: [publish], to: [] }", "is empty: the rule would never match"),
        ("{ allow: [publish], to: [\"a/#/b\"] }", "stand for whole levels"),
    ] {
        check_refused(&format!("auth: {{ rules: [ {rule} ] }}\n"), "m.yaml:1:", problem);
    }
    check_refused(
        "auth: { users: [ { name: a } ] }\n",
        "m.yaml:1:18: auth.users[0]: needs a password_hash",
        "",
    );
    check_refused(
        "virtual_hosts: [a, a]
",
        "m.yaml:1:20: virtual_hosts[1]: \"a\" is in the list already",
        "",
    );
    check_refused(
        "limits: { message_bytes_max: 1GiB }\n",
        "m.yaml:1:30: limits.message_bytes_max: must be between",
        "",
    );
    check_refused(
        "queues: { consumer_window: 0 }\n",
        "m.yaml:1:28: queues.consumer_window: must be above 0",
        "",
    );
    check_refused("data_dir: \"\"\n", "m.yaml:1:11: data_dir: is empty", "");
}

#[test]
fn password_hashes_are_read_at_check_time() {
    let hash = crate::credentials::hash("x", false).unwrap();
    let yaml = |hash: &str| format!("auth: {{ users: [ {{ name: a, password_hash: \"{hash}\" }} ] }}\n");
    assert_eq!(loaded(&yaml(&hash), &[]).auth.users.len(), 1);
    check_refused(
        &yaml("plain"),
        "m.yaml:1:44: auth.users[0].password_hash: is not a password hash",
        "mynah hash-password",
    );
    check_refused(&yaml(&hash.replace("argon2id", "argon2i")), "m.yaml:1:44:", "argon2id is wanted");
    check_refused(&yaml(hash.rsplit_once('$').unwrap().0), "m.yaml:1:44:", "cut short");
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let lines = refused(
        "log:\n  level: lod\n  formt: text\nlimits:\n  login_timeout: x\nlisteners:\n  - { name: a }\n  - 7\n",
        &[],
    );
    let places: Vec<&str> = lines.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        ["m.yaml:2:10", "m.yaml:3:3", "m.yaml:5:18", "m.yaml:7:5", "m.yaml:8:5"],
        "{lines:#?}"
    );
}

#[test]
fn warnings_do_not_refuse() {
    let yaml = "auth: { anonymous: always, users: [ { name: a, password: b } ] }\n";
    let loaded =
        parse(yaml, "m.yaml".into(), &vars(&[("MYNAH_LISTENERS__MQTT__BIND", "0.0.0.0:1883")])).unwrap();
    let lines: Vec<String> = loaded.warnings.iter().map(|w| w.line("m.yaml").to_string()).collect();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].starts_with("m.yaml:1:20: auth.anonymous: anyone"), "{lines:#?}");
    assert!(lines[1].starts_with("m.yaml:1:58: auth.users[0].password: is in the clear"), "{lines:#?}");
    assert!(parse("", "m.yaml".into(), &[]).unwrap().warnings.is_empty(), "guest is no warning");
}

#[test]
fn variables_override_the_file() {
    let config = loaded(
        "log: { level: warn }\n",
        &[
            ("MYNAH_LOG__LEVEL", "trace"),
            ("MYNAH_ADMIN__BIND", "127.0.0.1:0"),
            ("MYNAH_LIMITS__MESSAGE_BYTES_MAX", "2MiB"),
            ("MYNAH_LIMITS__CONNECTIONS_MAX", "10"),
            ("MYNAH_QUEUES__AUTO_CREATE", "false"),
            ("MYNAH_CONTAINER", "1"),
            ("MYNAH_BIN", "/usr/bin/mynah"),
            ("PATH", "/bin"),
        ],
    );
    assert_eq!(config.log.level.as_str(), "trace");
    assert_eq!(config.admin.bind.0.port(), 0);
    assert_eq!(config.limits.message_bytes_max, Size::mib(2));
    assert_eq!(config.limits.connections_max, 10);
    assert!(!config.queues.auto_create);
}

#[test]
fn variables_reach_list_items_by_number_and_by_name() {
    let config = loaded(
        "",
        &[("MYNAH_LISTENERS__0__BIND", "127.0.0.1:1"), ("MYNAH_LISTENERS__STOMP__BIND", "127.0.0.1:2")],
    );
    let ports: Vec<u16> = config.listeners.iter().map(|l| l.bind.0.port()).collect();
    assert_eq!(ports, [1, 2, 5672, 15674]);
    let config = loaded(
        "auth: { users: [] }\n",
        &[("MYNAH_AUTH__USERS__APP__PASSWORD", "12345"), ("MYNAH_AUTH__USERS__APP__LOOPBACK_ONLY", "true")],
    );
    assert_eq!(config.auth.users.len(), 1);
    assert_eq!(config.auth.users[0].name, "app");
    assert!(config.auth.users[0].loopback_only);
    assert_eq!(config.auth.users[0].password, Some(Secret("12345".into())));
    let config = loaded("", &[("MYNAH_LISTENERS", "[{name: all, protocol: auto, bind: \"127.0.0.1:9\"}]")]);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].protocol, ListenerProtocol::Auto);
}

#[test]
fn wrong_variables_are_named() {
    let one = |name: &str, value: &str| {
        let lines = refused("", &[(name, value)]);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        lines[0].clone()
    };
    assert_eq!(
        one("MYNAH_LOG__LEVLE", "info"),
        "MYNAH_LOG__LEVLE: log.levle: unknown variable; did you mean MYNAH_LOG__LEVEL?"
    );
    assert_eq!(
        one("MYNAH_LOGG__LEVEL", "info"),
        "MYNAH_LOGG__LEVEL: logg: unknown variable; did you mean MYNAH_LOG__LEVEL?"
    );
    assert!(one("MYNAH_ZEBRA", "1").starts_with("MYNAH_ZEBRA: zebra: unknown key (allowed: data_dir"));
    assert!(one("MYNAH_LOG__LEVEL", "lod").starts_with("MYNAH_LOG__LEVEL: log.level: unknown value \"lod\""));
    assert!(
        one("MYNAH_LIMITS__CONNECTIONS_MAX", "x")
            .starts_with("MYNAH_LIMITS__CONNECTIONS_MAX: limits.connections_max: expected a whole number")
    );
    assert!(
        one("MYNAH_LISTENERS__9__BIND", "127.0.0.1:1")
            .starts_with("MYNAH_LISTENERS__9__BIND: there are only 4 items")
    );
    assert!(one("MYNAH_LOG____LEVEL", "info").contains("empty part"));
    assert!(one("MYNAH_LISTENERS__NEW__BIND", "127.0.0.1:1").contains("the key \"protocol\" is missing"));
    assert!(
        one("MYNAH_DATA_DIR__X", "1").starts_with("MYNAH_DATA_DIR__X: data_dir: expected text, found a map")
    );
}

#[test]
fn a_file_variable_reads_the_secret_from_its_file() {
    let path = std::env::temp_dir().join(format!("mynah-secret-{}", std::process::id()));
    fs::write(&path, "hush \n").unwrap();
    let name = path.display().to_string();
    let config = loaded("", &[("MYNAH_AUTH__USERS__APP__PASSWORD_FILE", &name)]);
    // Only the line end goes: a password may end in a space.
    assert_eq!(config.auth.users[1].password, Some(Secret("hush ".into())));
    let lines = refused(
        "",
        &[("MYNAH_AUTH__USERS__APP__PASSWORD_FILE", &name), ("MYNAH_AUTH__USERS__APP__PASSWORD", "x")],
    );
    assert_eq!(
        lines,
        [
            "MYNAH_AUTH__USERS__APP__PASSWORD_FILE: MYNAH_AUTH__USERS__APP__PASSWORD is set as well; keep one of the two"
        ]
    );
    fs::remove_file(&path).unwrap();
    let lines = refused("", &[("MYNAH_AUTH__USERS__APP__PASSWORD_FILE", &name)]);
    assert!(lines[0].contains("cannot read"), "{lines:#?}");
}

#[test]
fn a_file_that_is_not_there_is_said_so() {
    let refused = load(Some(Path::new("/nonexistent/m.yaml")), &[]).unwrap_err();
    assert!(refused.lines()[0].starts_with("/nonexistent/m.yaml: cannot be read: "), "{:?}", refused.lines());
}

#[test]
fn deep_nesting_and_alias_bombs_are_refused() {
    for deep in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
        let lines = refused(&deep, &[]);
        assert!(lines[0].starts_with("m.yaml:1:"), "{}", lines[0]);
    }
    let bomb = (1..12).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
        let ten = vec![format!("*a{}", n - 1); 10].join(", ");
        format!("{text}a{n}: &a{n} [{ten}]\n")
    });
    assert!(!refused(&bomb, &[]).is_empty());
}

mod fuzz {
    use proptest::prelude::*;

    use super::*;

    /// Parts that make a file likely to be YAML, and likely to be wrong.
    fn scrap() -> impl Strategy<Value = String> {
        let known = [
            "listeners",
            "log",
            "level",
            "limits",
            "auth",
            "users",
            "name",
            "bind",
            "password",
            "login_timeout",
        ];
        let odd = [
            "&a", "*a", "<<", "!!str", "|", ">", "---", "...", "? ", "- ", ": ", "{", "}", "[", "]", ", ",
            "\n", "\n  ", "\t", "#", "'", "\"",
        ];
        prop_oneof![
            proptest::sample::select(known.to_vec()).prop_map(str::to_owned),
            proptest::sample::select(odd.to_vec()).prop_map(str::to_owned),
            any::<i64>().prop_map(|n| n.to_string()),
            "\\PC{0,8}",
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn fuzz_no_text_panics(text in proptest::collection::vec(scrap(), 0..40)) {
            let _ = parse(&text.concat(), "m.yaml".to_owned(), &[]);
        }

        #[test]
        fn fuzz_no_damage_to_the_documented_file_panics(at in 0..DOCUMENTED_DEFAULTS.len(), cut in 0..40_usize, put in scrap()) {
            let head = DOCUMENTED_DEFAULTS.get(..at).unwrap_or_default();
            let tail = DOCUMENTED_DEFAULTS.get(at.saturating_add(cut)..).unwrap_or_default();
            let _ = parse(&format!("{head}{put}{tail}"), "m.yaml".to_owned(), &[]);
        }

        #[test]
        fn fuzz_no_variable_panics(name in "MYNAH_[A-Z_0-9]{0,24}", value in "\\PC{0,16}") {
            let _ = parse("", "m.yaml".to_owned(), &vars(&[(&name, &value)]));
        }
    }
}
