//! The state folder: its lock, its manifest, and what lies beside it.
//!
//! ```text
//! DIR/quoit.lock               held by the node that uses the folder
//!     quoit.manifest           what there is; replaced as a whole, by a rename
//!     quoit.manifest.refused   the last manifest that could not be used, set aside
//!     quoit-core-0.items …     the items of a save; worth nothing without a manifest that names them
//! ```
//! Nothing else in the folder is touched. Every step is on the disk before the next one begins.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError};

const LOCK: &str = "quoit.lock";
const MANIFEST: &str = "quoit.manifest";
const MANIFEST_NEW: &str = "quoit.manifest.new";
const MANIFEST_REFUSED: &str = "quoit.manifest.refused";
const TRIAL: &str = "quoit.trial";
const ITEMS_PREFIX: &str = "quoit-core-";
const ITEMS_SUFFIX: &str = ".items";
/// Items are their owner's business.
const FOLDER_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;

/// Why a folder can't be used for state.
#[derive(Debug, thiserror::Error)]
pub enum StateFolderError {
    /// It can't be made, or can't be written to.
    #[error("can't use {} for the node's state: {source}; give --state-dir a folder that this process may write to", .path.display())]
    Unusable {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its file system does not write past the page cache.
    #[error("the file system of {} takes no direct I/O, by which state is written; give --state-dir a folder on another", .path.display())]
    NoDirectIo {
        /// The folder.
        path: PathBuf,
    },
    /// Another node has it.
    #[error("{} is in use by another node that runs; give each node a --state-dir of its own", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// What was found in place of a manifest.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Manifest(Manifest),
    /// It can't be used; in words.
    Unusable(String),
}

/// A folder that this process has for itself.
#[derive(Debug)]
pub(super) struct StateFolder {
    path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

impl StateFolder {
    /// Makes the folder if there is none, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, StateFolderError> {
        let unusable = |path: &Path, source| StateFolderError::Unusable { path: path.to_owned(), source };
        let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path);
        made.map_err(|source| unusable(path, source))?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(&lock_path);
        let lock = lock.map_err(|source| unusable(&lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => {
                let folder = Self { path: path.to_owned(), _lock: lock };
                folder.try_direct_io()?;
                Ok(folder)
            }
            Err(TryLockError::WouldBlock) => Err(StateFolderError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(unusable(&lock_path, source)),
        }
    }

    /// Finds out at the start what would keep the end from saving. (In memory, glommio writes like anybody else.)
    fn try_direct_io(&self) -> Result<(), StateFolderError> {
        let path = self.path.join(TRIAL);
        let flags = if is_in_memory(&self.path) { 0 } else { libc::O_DIRECT };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(FILE_MODE).custom_flags(flags);
        let tried = options.open(&path).and_then(|_| fs::remove_file(&path));
        tried.map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) => StateFolderError::NoDirectIo { path: self.path.clone() },
            _ => StateFolderError::Unusable { path, source },
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the manifest.
    pub(super) fn read_manifest(&self) -> Found {
        let mut bytes = Vec::new();
        let read = File::open(self.path.join(MANIFEST))
            .and_then(|file| file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
        match read.map(|_| Manifest::decode(&bytes)) {
            Ok(Ok(manifest)) => Found::Manifest(manifest),
            Ok(Err(error @ ManifestError::Torn)) if bytes.len() > MANIFEST_BYTES_MAX => {
                Found::Unusable(format!("{error}, and it is too long"))
            }
            Ok(Err(error)) => Found::Unusable(error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(error) => Found::Unusable(format!("it can't be read: {error}")),
        }
    }

    /// Puts `manifest` into the place of the one there is: after a crash at any moment there is either.
    pub(super) fn write_manifest(&self, manifest: &Manifest) -> Result<(), StateFolderError> {
        let new = self.path.join(MANIFEST_NEW);
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
            file.write_all(&manifest.encode())?;
            file.sync_all()?;
            // What it names is there before it is.
            self.sync()?;
            fs::rename(&new, self.path.join(MANIFEST))?;
            self.sync()
        };
        write().map_err(|source| StateFolderError::Unusable { path: new.clone(), source })
    }

    /// Sets a manifest aside that can't be used, for whoever wants to know why.
    pub(super) fn set_manifest_aside(&self) -> Result<(), StateFolderError> {
        let path = self.path.join(MANIFEST);
        let moved = fs::rename(&path, self.path.join(MANIFEST_REFUSED)).and_then(|()| self.sync());
        moved.map_err(|source| StateFolderError::Unusable { path, source })
    }

    /// Removes the files of items, which no manifest names.
    pub(super) fn remove_items(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(ITEMS_PREFIX)?.strip_suffix(ITEMS_SUFFIX));
            if number.is_some_and(|number| number.parse::<u16>().is_ok()) {
                fs::remove_file(self.path.join(&name))?;
            }
        }
        Ok(())
    }

    /// Makes sure that what was created, renamed or removed in the folder stays so.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Whether a folder lies in memory rather than on a disk.
fn is_in_memory(folder: &Path) -> bool {
    let Ok(name) = CString::new(folder.as_os_str().as_bytes()) else { return false };
    // SAFETY: all zeros are a valid `statfs`, which the call fills; the name ends with a zero and outlives the call.
    let (result, status) = unsafe {
        let mut status: libc::statfs = std::mem::zeroed();
        (libc::statfs(name.as_ptr(), &raw mut status), status)
    };
    result == 0 && status.f_type == libc::TMPFS_MAGIC
}

/// The file of one core's items.
pub(super) fn items_path(folder: &Path, file: usize) -> PathBuf {
    folder.join(format!("{ITEMS_PREFIX}{file}{ITEMS_SUFFIX}"))
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{Identity, VnodeState};
    use super::*;

    /// A folder of the test's own, removed with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("quoit-folder-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn manifest(node_id: u64) -> Manifest {
        Manifest { identity: Identity { node_id, seed: 1, vnodes: vec![VnodeState::default()] }, saved: None }
    }

    #[test]
    fn a_folder_belongs_to_one_node_at_a_time() {
        let scratch = Scratch::new("lock");
        let folder = StateFolder::open(&scratch.0).expect("a folder");
        let second = StateFolder::open(&scratch.0).expect_err("it is in use").to_string();
        assert!(second.contains("in use by another node"), "{second}");
        drop(folder);
        StateFolder::open(&scratch.0).expect("it is free again");
    }

    #[test]
    fn a_folder_in_memory_will_do() {
        let path = Path::new("/dev/shm").join(format!("quoit-folder-{}", std::process::id()));
        let scratch = Scratch(path);
        if Path::new("/dev/shm").exists() {
            StateFolder::open(&scratch.0).expect("a folder");
        }
    }

    #[test]
    fn a_place_that_is_no_folder_is_refused() {
        let error = StateFolder::open(Path::new("/proc/version")).expect_err("a file").to_string();
        assert!(error.contains("/proc/version") && error.contains("--state-dir"), "{error}");
    }

    #[test]
    fn a_manifest_replaces_the_one_before_and_one_that_is_none_is_set_aside() {
        let scratch = Scratch::new("manifest");
        let folder = StateFolder::open(&scratch.0).expect("a folder");
        assert!(matches!(folder.read_manifest(), Found::Nothing));
        for node_id in [1, 2] {
            folder.write_manifest(&manifest(node_id)).expect("a disk");
            assert!(matches!(folder.read_manifest(), Found::Manifest(found) if found == manifest(node_id)));
        }
        fs::write(scratch.0.join(MANIFEST), "something else").expect("a disk");
        assert!(matches!(folder.read_manifest(), Found::Unusable(why) if why.contains("not written by Quoit")));
        folder.set_manifest_aside().expect("a disk");
        assert!(matches!(folder.read_manifest(), Found::Nothing));
        assert_eq!(fs::read(scratch.0.join(MANIFEST_REFUSED)).expect("set aside"), b"something else");
    }

    #[test]
    fn only_our_own_files_are_removed() {
        let scratch = Scratch::new("items");
        let folder = StateFolder::open(&scratch.0).expect("a folder");
        let names = [
            "quoit-core-0.items",
            "quoit-core-17.items",
            "quoit-core-x.items",
            "quoit-core-1.items.bak",
            "core-0.items",
        ];
        names.iter().for_each(|name| fs::write(scratch.0.join(name), "x").expect("a disk"));
        folder.remove_items().expect("a disk");
        let left: Vec<bool> = names.iter().map(|name| scratch.0.join(name).exists()).collect();
        assert_eq!(left, [false, false, true, true, true]);
    }
}
