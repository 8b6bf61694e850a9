//! Which cores the threads of the generator and of the echo run on.

use std::fmt;
use std::str::FromStr;

/// A list of cores as people write it: `1`, `0,2`, `4-7`. Repeats are allowed: two threads then share a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreList(pub(crate) Vec<usize>);

/// Cores in one list; more are a typing error.
const CORES_MAX: usize = 1024;

/// Why a list of cores is none, or can't be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CoreError {
    /// The text is not a list.
    #[error("\"{0}\" is not a list of cores; write for example 1, 0,2 or 4-7")]
    Text(String),
    /// The machine has no such core, or this process may not use it.
    #[error("core {wanted} can't be used here; this process may run on {available}")]
    Missing {
        /// The core asked for.
        wanted: usize,
        /// The cores there are.
        available: CoreList,
    },
}

impl FromStr for CoreList {
    type Err = CoreError;

    fn from_str(text: &str) -> Result<Self, CoreError> {
        let wrong = || CoreError::Text(text.to_owned());
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| wrong())?;
            let last: usize = last.trim().parse().map_err(|_| wrong())?;
            if first > last || last - first >= CORES_MAX || cores.len() >= CORES_MAX {
                return Err(wrong());
            }
            cores.extend(first..=last);
        }
        Ok(Self(cores))
    }
}

impl fmt::Display for CoreList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, core) in self.0.iter().enumerate() {
            write!(f, "{}{core}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl CoreList {
    /// Checks that this process may run on every core of the list.
    pub(crate) fn check(&self) -> Result<(), CoreError> {
        let available: Vec<usize> =
            core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
        match self.0.iter().find(|core| !available.contains(core)) {
            None => Ok(()),
            Some(&wanted) => Err(CoreError::Missing { wanted, available: Self(available) }),
        }
    }
}

/// Pins the calling thread; false when the system refuses.
pub(crate) fn pin_to(core: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

/// Lets the calling thread, and what it starts, run on these cores alone; false when the system refuses.
pub(crate) fn pin_to_any_of(cores: &CoreList) -> bool {
    let possible = cores.0.iter().filter(|&&core| core < libc::CPU_SETSIZE as usize);
    // SAFETY: the set is a plain array of bits, of which zero is a valid one, and lives until the call returns.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        possible.for_each(|&core| libc::CPU_SET(core, &mut set));
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_people_write_them() {
        assert_eq!("1".parse(), Ok(CoreList(vec![1])));
        assert_eq!("0,2".parse(), Ok(CoreList(vec![0, 2])));
        assert_eq!("4-7,0,0".parse(), Ok(CoreList(vec![4, 5, 6, 7, 0, 0])));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "a", "1-", "-1", "3-1", "1,,2", "0-99999999"] {
            assert_eq!(text.parse::<CoreList>(), Err(CoreError::Text(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_core_that_does_not_exist_is_named() {
        let missing = CoreList(vec![1_000_000]).check();
        assert!(matches!(missing, Err(CoreError::Missing { wanted: 1_000_000, .. })), "{missing:?}");
    }
}
