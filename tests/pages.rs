//! The pages for people: what they point at must be there.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold no page of ours.
const NOT_OURS: &[&str] = &["target", ".git"];

#[test]
fn links_between_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = pages(root);
    assert!(pages.iter().any(|page| page.ends_with("src/README.md")), "the search finds pages: {pages:?}");
    let mut broken = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).expect("a page");
        let folder = page.parent().expect("a page lies in a folder");
        for target in local_links(&text).filter(|target| !folder.join(target).exists()) {
            broken.push(format!("{}: {target}", page.display()));
        }
    }
    assert!(broken.is_empty(), "these links lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn every_folder_of_the_top_level_has_its_plate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in fs::read_dir(root).expect("the repository") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy();
        let is_ours = path.is_dir() && !name.starts_with('.') && !NOT_OURS.contains(&&*name);
        assert!(!is_ours || path.join("README.md").exists(), "{name}/ has no README.md");
    }
}

/// Each cell of the contract names the tests that hold it; a test that is renamed or gone leaves the cell without proof.
#[test]
fn the_tests_that_the_contract_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("README.md")).expect("the page");
    let notes: Vec<&str> = page.lines().filter(|line| line.starts_with("[^")).collect();
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        for file in files(&root.join(folder), "rs") {
            sources.push_str(&fs::read_to_string(file).expect("a source file"));
        }
    }
    let quoted = notes.iter().flat_map(|note| note.split('`').skip(1).step_by(2));
    let (paths, names): (Vec<&str>, Vec<&str>) = quoted.partition(|word| word.contains('/'));
    assert!(notes.len() >= 10 && names.len() >= 10, "the notes name tests: {notes:?}");
    let gone = names.iter().filter(|name| !sources.contains(&format!("fn {name}()")));
    let gone: Vec<&&str> = gone.chain(paths.iter().filter(|path| !root.join(path).exists())).collect();
    assert!(gone.is_empty(), "README.md names tests that are not there: {gone:?}");
    let mut table = page.lines().skip_while(|line| !line.starts_with("| what happens |"));
    let rows = table.by_ref().skip(2).take_while(|line| line.starts_with('|'));
    let cells: Vec<&str> = rows.flat_map(|row| row.split('|').skip(2).take(3)).collect();
    assert!(cells.len() >= 30, "the contract is a table: {cells:?}");
    let unproved: Vec<&&str> = cells.iter().filter(|cell| !cell.contains("[^")).collect();
    assert!(unproved.is_empty(), "these cells of the contract name no test: {unproved:?}");
    for cell in page.split("[^").skip(1).filter_map(|rest| rest.split_once(']')).map(|(number, _)| number) {
        assert!(notes.iter().any(|note| note.starts_with(&format!("[^{cell}]:"))), "no note {cell}");
    }
}

#[test]
fn only_links_into_the_repository_are_followed() {
    let text = "[a](src/README.md) [b](https://example.org) [c](#part) [`d`](../x.md#part) ![e](e.png) [f] (g)";
    assert_eq!(local_links(text).collect::<Vec<_>>(), ["src/README.md", "../x.md", "e.png"]);
}

/// The targets of a page's links that are paths.
fn local_links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets
        .filter(|target| !target.contains("://"))
        .map(|target| target.split('#').next().unwrap_or(target))
        .filter(|path| !path.is_empty())
}

fn pages(folder: &Path) -> Vec<PathBuf> {
    files(folder, "md")
}

/// The files below a folder whose names end so.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy();
        if path.is_dir() && !NOT_OURS.contains(&&*name) {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found
}
