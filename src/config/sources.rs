//! Where options come from: flags, then environment, then file, then defaults.
//!
//! Every source is brought to the same form, a text with its origin, so that one parser and one message serve all.
//! Values are not judged here.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use toml::de::{DeTable, DeValue};

use super::key::Key;

/// Bytes of a configuration file. One with every key and a page of comments on each is smaller.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// How near a misspelt key must come to a known one for it to be suggested (Jaro–Winkler, 1 is equal).
const NEAR_ENOUGH: f64 = 0.75;

/// Where a value was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flag,
    /// In the environment.
    Environment,
    /// In the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// Nowhere else.
    Default,
}

/// The text of one option, and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The option.
    pub key: Key,
    /// What was given, as text.
    pub text: String,
    /// Where it was given.
    pub origin: Origin,
}

/// Why a source could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file can't be read.
    #[error(
        "can't read the configuration file {path}: {source}\n  to mend: name a file that exists and that this user may read"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is larger than any configuration.
    #[error(
        "{path} is larger than {FILE_BYTES_MAX} bytes\n  to mend: name a configuration file, such as deploy/quoit.toml"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is no TOML.
    #[error(
        "{path}:{line}: {message}\n  expected: lines such as memory = \"256MiB\"; deploy/quoit.toml shows every key"
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the TOML parser says.
        message: String,
    },
    /// The file has a key that is none of ours.
    #[error("{path}:{line}: there is no option \"{name}\"\n  to mend: {}", suggestion(.name))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key as written.
        name: String,
    },
    /// A value of the file is of a type that no option has.
    #[error("{path}:{line}: {name} has TOML's type {found}\n  expected: {}", .name.expected())]
    Type {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The option.
        name: Key,
        /// The type in TOML's terms.
        found: &'static str,
    },
    /// An environment variable is no text.
    #[error("the environment variable {} is not UTF-8\n  expected: {}", .key.environment(), .key.expected())]
    NotText {
        /// The option.
        key: Key,
    },
}

/// The settings of flags and environment, and of the file that `config` names among them; one per option that is given.
///
/// Variables that begin with `QUOIT_` and name no option are left alone: the client commands have their own, and
/// Kubernetes sets some for every service called "quoit".
pub(super) fn gather(
    flags: Vec<Setting>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<Setting>, Vec<SourceError>> {
    let mut errors = Vec::new();
    let mut settings = flags;
    for key in Key::ALL.iter().copied() {
        let Some(value) = environment(&key.environment()) else { continue };
        match value.into_string() {
            Ok(text) => add(&mut settings, Setting { key, text, origin: Origin::Environment }),
            Err(_) => errors.push(SourceError::NotText { key }),
        }
    }
    if let Some(file) = settings.iter().find(|setting| setting.key == Key::Config) {
        match read_file(Path::new(&file.text)) {
            Ok(found) => found.into_iter().for_each(|setting| add(&mut settings, setting)),
            Err(found) => errors.extend(found),
        }
    }
    if errors.is_empty() { Ok(settings) } else { Err(errors) }
}

/// Adds a setting unless an earlier source has it.
fn add(settings: &mut Vec<Setting>, setting: Setting) {
    if !settings.iter().any(|known| known.key == setting.key) {
        settings.push(setting);
    }
}

fn read_file(path: &Path) -> Result<Vec<Setting>, Vec<SourceError>> {
    let unreadable = |source| vec![SourceError::Unreadable { path: path.to_owned(), source }];
    let mut text = String::new();
    // Reading, not asking for the length: a pipe has none.
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(vec![SourceError::TooLarge { path: path.to_owned() }]);
    }
    parse_file(path, &text)
}

/// Reads a file's settings; `path` is for messages.
pub(super) fn parse_file(path: &Path, text: &str) -> Result<Vec<Setting>, Vec<SourceError>> {
    let line_at = |offset: usize| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_at(error.span().map_or(0, |span| span.start));
        vec![SourceError::Syntax { path: path.to_owned(), line, message: error.message().to_owned() }]
    })?;

    let mut settings = Vec::new();
    let mut errors = Vec::new();
    for (name, value) in table.get_ref() {
        let line = line_at(name.span().start);
        let path = || path.to_owned();
        // The file can't name a file.
        let Some(key) = Key::from_name(name.get_ref()).filter(|key| *key != Key::Config) else {
            errors.push(SourceError::UnknownKey { path: path(), line, name: name.get_ref().to_string() });
            continue;
        };
        match text_of(value.get_ref()) {
            Ok(text) => settings.push(Setting { key, text, origin: Origin::File { path: path(), line } }),
            Err(found) => errors.push(SourceError::Type { path: path(), line, name: key, found }),
        }
    }
    if errors.is_empty() { Ok(settings) } else { Err(errors) }
}

/// A TOML value as a flag would give it: `[0, 1]` is `0,1`.
fn text_of(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Ok(truth.to_string()),
        DeValue::Array(parts) if !parts.iter().any(|part| part.get_ref().is_array()) => {
            let parts: Result<Vec<String>, _> = parts.iter().map(|part| text_of(part.get_ref())).collect();
            Ok(parts?.join(","))
        }
        other => Err(other.type_str()),
    }
}

/// The known key that is nearest to `name`, or all of them.
fn suggestion(name: &str) -> String {
    let keys = || Key::ALL.iter().copied().filter(|key| *key != Key::Config);
    let distance = |key: &Key| strsim::jaro_winkler(&name.replace('_', "-"), key.name());
    match keys().max_by(|left, right| distance(left).total_cmp(&distance(right))) {
        Some(nearest) if distance(&nearest) >= NEAR_ENOUGH => format!("{nearest}"),
        _ => format!("one of {}", keys().map(Key::name).collect::<Vec<_>>().join(", ")),
    }
}

impl Origin {
    /// How `key` is given a value there: `--memory 1GiB`, `QUOIT_MEMORY=1GiB`, `memory = "1GiB"`.
    pub fn spell(&self, key: Key, value: &str) -> String {
        match self {
            Self::Flag | Self::Default if key.is_switch() => format!("--{key}"),
            Self::Flag | Self::Default => format!("--{key} {value}"),
            Self::Environment => format!("{}={value}", key.environment()),
            Self::File { .. } => format!("{key} = \"{value}\""),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Environment => f.write_str("environment"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}
