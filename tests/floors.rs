//! The floors of `src/README.md`, enforced: who may use whom, and which things of the world each may touch.
//!
//! The table on that page is the rule; this reads it, and the sources, as text. Comments, strings and test code don't
//! count. It sees what is written as a path (`crate::…`, `super::…`, `std::fs`), which is how this house is written; it is a
//! fence against habits, not against intent.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Words that only some places may use: the word as a path, the places, and what else to do.
const FENCES: &[Fence] = &[
    Fence {
        paths: &["glommio", "io_uring"],
        allowed: &["runtime"],
        instead: "sockets and executors are the runtime's",
    },
    Fence {
        paths: &["tokio", "axum", "hyper", "hyper_util", "prometheus"],
        allowed: &["control"],
        instead: "HTTP and tokio are the control thread's",
    },
    Fence { paths: &["clap"], allowed: &["main", "cli", "config"], instead: "the command line is floor 7's" },
    Fence {
        paths: &["Instant::now", "SystemTime::now", "clock_gettime", "thread::sleep"],
        allowed: &["runtime/clock.rs", "runtime/listen.rs", "control"],
        instead: "the clock is an argument: take a crate::time::Instant",
    },
    Fence {
        paths: &["std::net", "std::fs", "std::process", "std::env", "std::thread", "std::os", "socket2"],
        allowed: &["main", "cli", "control", "config", "runtime"],
        instead: "floors 0 to 4 do no I/O: facts come in as arguments, effects go out as values",
    },
];

/// One rule about the world outside.
struct Fence {
    paths: &'static [&'static str],
    allowed: &'static [&'static str],
    instead: &'static str,
}

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

#[test]
fn every_file_keeps_to_its_floor() {
    let floors = floors(&fs::read_to_string(root().join("src/README.md")).expect("the architecture page"));
    let mut violations = Vec::new();
    for file in rust_files(&root().join("src")).into_iter().filter(|file| !is_test_code(file)) {
        let name = relative(&file, "src");
        violations.extend(check(&name, &fs::read_to_string(&file).expect("a source file"), &floors));
    }
    // Floor 0 has no crate to look into: it may touch nothing outside, from any of its files.
    for file in rust_files(&root().join("protocol/wire/src")) {
        let name = relative(&file, "protocol/wire/src");
        let source = code_of(&fs::read_to_string(&file).expect("a source file"));
        violations.extend(check_fences(&format!("wire/{name}"), "wire", &source));
    }
    let list: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "\n{}\n(the floors are in src/README.md)", list.join("\n"));
}

#[test]
fn the_page_has_every_room_and_no_other() {
    let page = fs::read_to_string(root().join("src/README.md")).expect("the architecture page");
    let floors = floors(&page);
    for expected in [("main", 7), ("control", 6), ("runtime", 5), ("shard", 4), ("store", 2), ("time", 1)] {
        assert_eq!(floors.get(expected.0), Some(&expected.1), "floor of {}", expected.0);
    }
    for file in rust_files(&root().join("src")) {
        let module = module_of(&relative(&file, "src"));
        assert!(
            module == "lib" || floors.contains_key(&module),
            "{} stands on no floor of src/README.md",
            file.display()
        );
    }
}

#[test]
fn the_way_of_one_request_names_files_that_exist() {
    let page = fs::read_to_string(root().join("src/README.md")).expect("the architecture page");
    let (_, way) = page.split_once("## The way of one request").expect("the section");
    let way = way.split("\n## ").next().unwrap_or(way);
    let named: Vec<&str> = way.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs")).collect();
    assert!(named.len() >= 5, "the page names the files of the way: {named:?}");
    for file in named {
        assert!(root().join("src").join(file).exists(), "src/README.md names {file}, which is not there");
    }
}

#[test]
fn a_planted_breach_is_found() {
    let page = "| 7 | `main.rs`, `cli/` | |\n| 6 | `control/`, `config.rs` | |\n| 5 | `runtime/` | |\n| 4 | `shard/` | |\n\
                | 2 | `store/` | |\n| 1 | `time.rs` | |\n";
    let floors = floors(page);
    let found = |file: &str, source: &str| check(file, source, &floors).len();

    assert_eq!(found("store/segment.rs", "use crate::shard::Shard;"), 1, "upwards");
    assert_eq!(
        found("store/segment.rs", "use crate::{time::Instant, runtime::{Node, Idle}};"),
        1,
        "upwards in a group"
    );
    assert_eq!(found("store/segment.rs", "fn f() { crate::control::serve::run(); }"), 1, "upwards in an expression");
    assert_eq!(found("store/mod.rs", "use super::shard::Shard;"), 1, "upwards by super");
    assert_eq!(found("store/arena/map.rs", "use super::super::super::shard::Shard;"), 1, "upwards by three supers");
    assert_eq!(found("main.rs", "use quoit::control::serve;"), 0, "the command line is above everything");
    assert_eq!(found("shard/mod.rs", "use glommio::Timer;"), 1, "glommio outside the runtime");
    assert_eq!(found("control/mod.rs", "let ring = io_uring::IoUring::new(8);"), 1, "io_uring outside the runtime");
    assert_eq!(found("runtime/core.rs", "let now = std::time::Instant::now();"), 1, "a clock outside clock.rs");
    assert_eq!(found("shard/mod.rs", "use std::net::SocketAddr;"), 1, "the network below the runtime");
    assert_eq!(found("store/mod.rs", "use std::{fs, fmt};"), 1, "files below the runtime, in a group");
    assert_eq!(found("runtime/mod.rs", "use tokio::net::TcpListener;"), 1, "tokio outside control");

    assert_eq!(found("shard/mod.rs", "use crate::store::Store;\nuse crate::time::Instant;"), 0, "downwards");
    assert_eq!(found("control/serve.rs", "use crate::config::Config;"), 0, "on one floor");
    assert_eq!(found("store/arena/map.rs", "use super::super::index::Index;"), 0, "within the store");
    assert_eq!(found("runtime/ring.rs", "use io_uring::IoUring;"), 0, "the ring's place");
    assert_eq!(found("runtime/clock.rs", "let time = libc::clock_gettime(1, 2);"), 0, "the clock's place");
    assert_eq!(
        found("store/mod.rs", "//! See [`crate::shard`].\n/* crate::shard */ const A: &str = \"crate::shard\";"),
        0
    );
    assert_eq!(
        found("store/mod.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; use crate::shard::Shard; }"),
        0
    );
    assert_eq!(
        found("store/mod.rs", "fn f<'a>(x: &'a str) -> char { 'c' }\nuse crate::shard::Shard;"),
        1,
        "after a lifetime"
    );
    assert_eq!(
        found("store/mod.rs", "fn f() -> (char, &'static str) { ('\"', r#\"a\"b\"#) }\nuse crate::shard::S;"),
        1
    );

    let violation = &check("store/a.rs", "\n\nuse crate::shard::Shard;", &floors)[0];
    assert_eq!((violation.file.as_str(), violation.line), ("store/a.rs", 3));
}

/// The floor of each room, by the table: rows that begin with a number, rooms in backticks.
fn floors(page: &str) -> BTreeMap<String, u8> {
    let mut floors = BTreeMap::new();
    for line in page.lines() {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        let (Some(floor), Some(places)) = (cells.next().and_then(|cell| cell.parse().ok()), cells.next()) else {
            continue;
        };
        for place in places.split('`').skip(1).step_by(2) {
            floors.insert(module_of(place), floor);
        }
    }
    floors
}

/// Everything a file of `src/` does that its floor may not.
fn check(file: &str, source: &str, floors: &BTreeMap<String, u8>) -> Vec<Violation> {
    let module = module_of(file);
    let source = code_of(source);
    let mut violations = check_fences(file, &module, &source);
    let Some(own_floor) = floors.get(&module) else { return violations };
    for (line, path) in paths(&source) {
        let Some(target) = target_module(file, &path) else { continue };
        if let Some(floor) = floors.get(target)
            && target != module
            && floor > own_floor
        {
            let what = format!("`{target}` is on floor {floor}, above {module} on floor {own_floor}");
            violations.push(Violation { file: file.to_owned(), line, what });
        }
    }
    violations.dedup();
    violations
}

fn check_fences(file: &str, module: &str, source: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (line, path) in paths(source) {
        let fences = FENCES.iter().filter(|fence| !fence.allowed.contains(&module) && !fence.allowed.contains(&file));
        for fence in fences {
            let touches = |word: &&&str| {
                path == **word || path.starts_with(&format!("{word}::")) || path.ends_with(&format!("::{word}"))
            };
            if let Some(word) = fence.paths.iter().find(touches) {
                let what = format!("`{word}` may not be used here: {}", fence.instead);
                violations.push(Violation { file: file.to_owned(), line, what });
            }
        }
    }
    violations
}

/// The top-level module that `path`, written in `file`, leads into; `None` when it stays inside the file's own or leaves
/// the crate.
fn target_module<'a>(file: &str, path: &'a str) -> Option<&'a str> {
    let mut names = path.split("::");
    let first = names.next()?;
    match first {
        "crate" | "quoit" => names.next(),
        "super" => {
            let ups = path.split("::").take_while(|name| *name == "super").count();
            path.split("::").nth(ups).filter(|_| ups >= module_depth(file))
        }
        _ => None,
    }
}

/// How many names a module path has: `store/mod.rs` and `time.rs` one, `store/index.rs` two.
fn module_depth(file: &str) -> usize {
    let depth = file.split('/').count();
    if file.ends_with("/mod.rs") { depth - 1 } else { depth }
}

/// `store/index.rs`, `store/` and `store.rs` are `store`.
fn module_of(file: &str) -> String {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs").to_owned()
}

/// Every path of two names or more, with its line; groups are written out.
fn paths(source: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
        line += newlines(&rest[..start]);
        let (taken, found) = take_path(&rest[start..], "");
        paths.extend(found.into_iter().filter(|path| path.contains("::")).map(|path| (line, path)));
        line += newlines(&rest[start..start + taken]);
        rest = &rest[start + taken..];
    }
    paths
}

/// Reads one path from the front of `text`, groups written out; returns the bytes read, and the paths.
fn take_path(text: &str, prefix: &str) -> (usize, Vec<String>) {
    let name_end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let path = format!("{prefix}{}", &text[..name_end]);
    let after = &text[name_end..];
    let Some(next) = after.strip_prefix("::") else { return (name_end, vec![path]) };
    let next_start = name_end + 2;
    if next.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        let (taken, paths) = take_path(next, &format!("{path}::"));
        return (next_start + taken, paths);
    }
    let Some(mut group) = next.strip_prefix('{') else { return (next_start, vec![path]) };
    let group_start = next_start + 1;
    let (length, mut paths) = (group.len(), Vec::new());
    loop {
        group = group.trim_start_matches(|c: char| c.is_whitespace() || c == ',' || c == '*');
        if group.is_empty() || group.starts_with('}') {
            return (group_start + length - group.len(), paths);
        }
        let (taken, found) = take_path(group, &format!("{path}::"));
        paths.extend(found);
        // `as name`, or a character that is no path: step over it.
        group = group[taken.max(1).min(group.len())..].trim_start();
        if let Some(renamed) = group.strip_prefix("as ") {
            group = renamed.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        }
    }
}

/// Whether a whole file is test code, by its name.
fn is_test_code(file: &Path) -> bool {
    file.file_stem().is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_test"))
}

/// The source without comments, texts and test modules; lines stay where they are.
fn code_of(source: &str) -> String {
    let source = source.split("#[cfg(test)]").next().unwrap_or(source);
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = 2 + hashes;
            rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len())
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push(' ');
        code.extend(std::iter::repeat_n('\n', newlines(&rest[..skipped])));
        rest = &rest[skipped..];
    }
    code
}

/// The number of hashes of a raw string that `text` begins with.
fn raw_string(text: &str) -> Option<usize> {
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// Whether the quote that `text` begins with opens a character, not a lifetime.
fn is_character(text: &str) -> bool {
    let mut after = text.chars().skip(1);
    after.next() == Some('\\') || after.next() == Some('\'')
}

/// Bytes to past the closing quote.
fn quoted(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        if character == '\\' {
            characters.next();
        } else if character == quote {
            return at + character.len_utf8();
        }
    }
    text.len()
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(file: &Path, below: &str) -> String {
    file.strip_prefix(root().join(below)).expect("a file below it").to_string_lossy().into_owned()
}

/// All sources below `folder`, but for modules that are only tests.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
