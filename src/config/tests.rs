//! Every option from every source, good and bad; which source wins; and that any text is answered.

use std::collections::HashMap;
use std::path::Path;

use clap::{Args, FromArgMatches};
use proptest::prelude::*;

use super::*;

const MEMORY_BYTES: u64 = 8 << 30;

fn machine() -> Machine {
    Machine { cpus_online: vec![0, 1, 2, 3], cpus_allowed: vec![0, 1, 3], memory_bytes: MEMORY_BYTES }
}

fn flags(arguments: &[&str]) -> ServeFlags {
    let command = ServeFlags::augment_args(clap::Command::new("serve").no_binary_name(true));
    let matches = command.try_get_matches_from(arguments).expect("flags clap knows");
    ServeFlags::from_arg_matches(&matches).expect("flags clap knows")
}

pub(super) fn load(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let environment: HashMap<&str, &str> = environment.iter().copied().collect();
    Config::load(&flags(arguments), |name| environment.get(name).map(OsString::from), &machine())
}

/// The configuration that a file alone gives.
fn load_file(text: &str) -> Result<Config, ConfigErrors> {
    let settings = sources::parse_file(Path::new("quoit.toml"), text)
        .map_err(|errors| ConfigErrors(errors.into_iter().map(ConfigError::Source).collect()))?;
    Config::check(&settings, &machine())
}

pub(super) fn error_of(result: Result<Config, ConfigErrors>) -> String {
    result.expect_err("a bad option is refused").to_string()
}

#[test]
fn without_options_the_defaults_hold() {
    let config = load(&[], &[]).expect("the defaults are valid");
    assert_eq!(config.listen.to_string(), "127.0.0.1:7400");
    assert_eq!(config.advertise, None);
    assert_eq!(config.admin.to_string(), "127.0.0.1:7401");
    assert_eq!(config.cpus, [0, 1, 3], "all that the process may run on");
    assert_eq!(config.memory_bytes as u64, MEMORY_BYTES / 4);
    assert_eq!(config.eviction, PolicyKind::S3Fifo);
    assert_eq!(config.idle, Idle::Adaptive);
    assert_eq!((config.value_bytes_max, config.connections_max, config.state_dir), (None, None, None));
    assert_eq!(config.vnode_bits, topology::VNODE_BITS_DEFAULT);
    assert_eq!(config.log, LogFormat::Human);
    assert_eq!(config.log_level.to_string(), "info");
}

#[test]
fn the_example_file_has_every_option_at_its_default() {
    let example = include_str!("../../deploy/quoit.toml");
    let settings = sources::parse_file(Path::new("deploy/quoit.toml"), example).expect("the example is valid");
    for key in Key::ALL.iter().copied().filter(|key| *key != Key::Config) {
        assert!(settings.iter().any(|setting| setting.key == key), "{key} is missing from deploy/quoit.toml");
    }
    assert_eq!(load_file(example).expect("the example is valid"), load(&[], &[]).expect("the defaults are valid"));
}

/// A default of `auto` or of nothing may be told in prose; any other is told as it stands in the table.
#[test]
fn the_help_tells_every_default_and_suggests_only_what_is_taken() {
    let command = ServeFlags::augment_args(clap::Command::new("serve"));
    // A switch that is off, and the file, which there is one of or none.
    for key in Key::ALL.iter().copied().filter(|key| !key.is_switch() && *key != Key::Config) {
        let flag =
            command.get_arguments().find(|flag| flag.get_long() == Some(key.name())).expect("every option is a flag");
        let help = flag.get_help().expect("every flag is explained").to_string();
        let told = help.split_once("[default: ").and_then(|(_, rest)| rest.strip_suffix(']'));
        let told = told.unwrap_or_else(|| panic!("--{key} does not end with its default: {help}"));
        match key.default_text() {
            "" => assert!(told == "none" || told.starts_with("none, "), "--{key}: {told}"),
            "auto" => {
                assert!(told == "auto" || told.contains(' '), "--{key}: {told} is a value, and auto is the default");
            }
            default => assert_eq!(told, default, "--{key}"),
        }
        let suggested = flag.get_possible_values();
        for value in &suggested {
            let argument = format!("--{key}={}", value.get_name());
            assert!(load(&[&argument], &[]).is_ok(), "{argument} is suggested, and refused");
        }
        assert!(
            suggested.is_empty() || suggested.iter().any(|value| value.matches(key.default_text(), false)),
            "--{key}: the default is not among what shells complete"
        );
    }
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let directory = std::env::temp_dir().join(format!("quoit-config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for the test");
    let path = directory.join("quoit.toml");
    std::fs::write(&path, "memory = '1GiB'\neviction = 'none'\nidle = 'spin'\n").expect("a file for the test");
    let path = path.to_str().expect("a path of plain letters");

    let environment = [("QUOIT_MEMORY", "2GiB"), ("QUOIT_EVICTION", "lru"), ("QUOIT_CONFIG", path)];
    let config = load(&["--memory", "3GiB"], &environment).expect("valid options");
    assert_eq!(config.memory_bytes, 3 << 30, "the flag wins");
    assert_eq!(config.eviction, PolicyKind::Lru, "the environment wins over the file");
    assert_eq!(config.idle, Idle::Spin, "the file wins over the default");
    assert_eq!(config.log, LogFormat::Human, "the default is left");
    std::fs::remove_dir_all(directory).expect("the test's own directory");
}

#[test]
fn good_values_are_read() {
    let config = load(
        &["--cores", "0-1,3,3", "--idle", "50", "--value-max", "64k", "--connections-max", "10", "--vnodes", "64"],
        &[
            ("QUOIT_LOG", "json"),
            ("QUOIT_LOG_LEVEL", "warn,quoit::runtime=debug"),
            ("QUOIT_STATE_DIR", "/var/lib/quoit"),
        ],
    );
    let config = config.expect("valid options");
    assert_eq!(config.cpus, [0, 1, 3, 3]);
    assert_eq!(config.idle, Idle::SpinThenPark(Duration::from_micros(50)));
    assert_eq!((config.value_bytes_max, config.connections_max, config.vnode_bits), (Some(65_536), Some(10), 6));
    assert_eq!(config.log, LogFormat::Json);
    assert_eq!(config.state_dir.as_deref(), Some(Path::new("/var/lib/quoit")));
}

/// A host of 253 bytes, the most that there may be, and a port: too much for the cluster's records.
const LONG_ADDRESS: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.\
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:7400";

#[test]
fn what_is_advertised_is_a_name_or_an_address() {
    for address in ["cache-1:7400", "cache_1.example.net:65535", "10.1.2.3:7400", "[2001:db8::1]:7400"] {
        let config = load(&["--advertise", address], &[]).expect("a valid address");
        assert_eq!(config.runtime_options(1).advertise.as_deref(), Some(address));
    }
    let config = load(&[], &[("QUOIT_ADVERTISE", "cache-1:7400")]).expect("a valid address");
    assert_eq!(config.advertise.as_deref(), Some("cache-1:7400"));
    assert_eq!(load_file("advertise = 'auto'\n").expect("a valid file").advertise, None);
}

#[test]
fn a_file_may_use_tomls_own_types() {
    let config = load_file("cores = [0, 3]\nidle = 20\ninsecure = true\nlisten = '0.0.0.0:1'\nconnections-max = 5\n");
    let config = config.expect("a valid file");
    assert_eq!(config.cpus, [0, 3]);
    assert_eq!(config.idle, Idle::SpinThenPark(Duration::from_micros(20)));
    assert_eq!(config.connections_max, Some(5));
}

#[test]
fn bad_values_are_refused_with_what_was_expected() {
    for (key, value, message) in [
        ("listen", "localhost", "not an IP address with a port"),
        ("listen", "127.0.0.1", "not an IP address with a port"),
        ("advertise", "cache-1", "not a host and a port"),
        ("advertise", "cache 1:7400", "not a host and a port"),
        ("advertise", "10.1.2:7400", "not a host and a port"),
        ("advertise", "2001:db8::1:7400", "not a host and a port"),
        ("advertise", ":7400", "not a host and a port"),
        ("advertise", "cache-1:0", "not from 1 to 65535"),
        ("advertise", "10.1.2.3:0", "not from 1 to 65535"),
        ("advertise", LONG_ADDRESS, "at most 255 bytes together"),
        ("advertise", "0.0.0.0:7400", "nobody can connect to this address"),
        ("advertise", "[::]:7400", "nobody can connect to this address"),
        ("admin", "127.0.0.1:70000", "not an IP address with a port"),
        ("cores", "", "neither a CPU's number nor a range"),
        ("cores", "1-0", "ends before it begins"),
        ("cores", "2", "CPU 2 exists, but this process may not run on it"),
        ("cores", "0,7", "there is no CPU 7"),
        ("memory", "12q", "there is no unit \"q\""),
        ("memory", "0%", "a whole percentage"),
        ("memory", "101%", "a whole percentage"),
        ("memory", "64MiB", "3 cores need at least 89MiB together"),
        ("memory", "8.5GiB", "this process may use 8GiB"),
        ("eviction", "fifo", "there are s3-fifo, lru, "),
        ("idle", "sleep", "none of the words"),
        ("idle", "1000001", "not from 0 to 1000000"),
        ("value-max", "0", "not from 1 to 16777216"),
        ("value-max", "17MiB", "not from 1 to 16777216"),
        ("connections-max", "0", "not from 1 to 1000000"),
        ("connections-max", "ten", "not a whole number"),
        ("vnodes", "1000", "not a power of two"),
        ("vnodes", "131072", "not from 1 to 65536"),
        ("vnodes", "2", "3 cores can't each own one"),
        ("insecure", "yes", "none of the words"),
        ("log", "xml", "none of the words"),
        ("log-level", "debgu", "names no level"),
        ("log-level", "info,loud=quiet", "names no level"),
    ] {
        let known = Key::from_name(key).expect("a key");
        let error = error_of(load(&[], &[(&known.environment(), value)]));
        assert!(error.starts_with(&format!("{key} = \"{value}\" (environment): ")), "{error}");
        assert!(error.contains(message), "{key}: {error}");
        assert!(error.contains(&format!("\n  expected: {}\n", known.expected())), "{error}");
        assert!(error.contains("\n  to mend:  "), "{error}");
    }
}

#[test]
fn a_value_may_be_an_eighth_of_a_cores_arena() {
    let error = error_of(load(&["--memory", "128MiB", "--cores", "0", "--value-max", "16MiB"], &[]));
    assert!(error.contains("1/8 of a core's arena is ") && error.contains("--value-max auto"), "{error}");
    assert!(load(&["--memory", "256MiB", "--cores", "0", "--value-max", "16MiB"], &[]).is_ok());
}

#[test]
fn a_message_says_where_the_value_came_from_and_mends_it_there() {
    let flag = error_of(load(&["--memory", "12q"], &[]));
    assert!(flag.contains("(command line)") && flag.contains("to mend:  --memory 256MiB"), "{flag}");
    let environment = error_of(load(&[], &[("QUOIT_VALUE_MAX", "1x")]));
    assert!(environment.contains("to mend:  QUOIT_VALUE_MAX=auto"), "{environment}");
    let file = error_of(load_file("# options\n\nmemory = '12q'\n"));
    assert!(file.contains("(quoit.toml:3)") && file.contains("to mend:  memory = \"256MiB\""), "{file}");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let error = error_of(load(&["--memory", "x", "--idle", "x"], &[("QUOIT_LOG", "x")]));
    for key in ["memory", "idle", "log"] {
        assert!(error.contains(&format!("{key} = \"x\"")), "{error}");
    }
}

#[test]
fn files_that_are_no_configuration_are_refused_by_line() {
    for (text, message) in [
        ("memory = ", "quoit.toml:1: "),
        ("listen = '127.0.0.1:1'\nmemori = '1GiB'\n", "quoit.toml:2: there is no option \"memori\"\n  to mend: memory"),
        ("value_max = 5\n", "quoit.toml:1: there is no option \"value_max\"\n  to mend: value-max"),
        ("zzz = 1\n", "to mend: one of listen, advertise"),
        ("config = 'x'\n", "there is no option \"config\""),
        ("memory = 1.5\n", "quoit.toml:1: memory has TOML's type float"),
        ("\n[memory]\nsize = 1\n", "quoit.toml:2: memory has TOML's type table"),
        ("cores = [[0]]\n", "cores has TOML's type array"),
        ("memory = '1GiB'\nmemory = '2GiB'\n", "quoit.toml:2: "),
    ] {
        let error = error_of(load_file(text));
        assert!(error.contains(message), "{error}");
    }
    let missing = error_of(load(&["--config", "/no/such/file"], &[]));
    assert!(missing.contains("can't read the configuration file /no/such/file"), "{missing}");
}

#[test]
fn listening_off_loopback_takes_consent() {
    for address in ["0.0.0.0:7400", "10.1.2.3:7400", "[::]:7400", "[::ffff:10.1.2.3]:7400"] {
        for flag in ["--listen", "--admin"] {
            let error = error_of(load(&[flag, address], &[]));
            assert!(error.contains("no authentication") && error.contains("--insecure"), "{error}");
            assert!(load(&[flag, address, "--insecure"], &[]).is_ok());
        }
    }
    for address in ["127.0.0.1:0", "127.8.9.1:7400", "[::1]:7400", "[::ffff:127.0.0.1]:7400"] {
        assert!(load(&["--listen", address], &[]).is_ok(), "{address}");
    }
}

#[test]
fn the_flags_are_the_options() {
    let command = ServeFlags::augment_args(clap::Command::new("serve"));
    let flags: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let keys: Vec<&str> = Key::ALL.iter().map(|key| key.name()).collect();
    assert_eq!(flags, keys);
    for argument in command.get_arguments() {
        let key = argument.get_long().and_then(Key::from_name).expect("a key");
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let told = help.contains("[default: ") || key.is_switch() || key == Key::Config;
        assert!(told, "the help of --{key} names its default");
    }
}

proptest! {
    #[test]
    fn any_value_is_answered_without_a_panic(index in 0..Key::ALL.len(), value in "[0-9a-z,.:%=-]{0,20}|\\PC{0,12}") {
        let key = Key::ALL[index];
        prop_assume!(key != Key::Config);
        let settings = [Setting { key, text: value.clone(), origin: Origin::Environment }];
        if let Err(errors) = Config::check(&settings, &machine()) {
            prop_assert!(errors.to_string().contains(&value));
        }
    }

    #[test]
    fn any_file_is_answered_without_a_panic(text in "([a-z-]{1,10} ?= ?[0-9'\"\\[\\]a-z]{0,8}\n){0,4}|\\PC{0,40}") {
        let _ = load_file(&text);
    }
}
