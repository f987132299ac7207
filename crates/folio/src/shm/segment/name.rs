//! Names of segments, and the files they stand for: `NAME` is `/dev/shm/folio.NAME`.

use crate::error::{Error, Result, Subject};
use crate::sys;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The prefix of the files of segments.
const PREFIX: &str = "folio.";
/// The names of files on their way to becoming segments, where file systems have none without a
/// name.
const TEMPORARY: &str = ".folio.";
/// The names of FIFOs of notifiers: the segment's number, the owner and the notifier's own follow.
const NOTIFIED: &str = ".folio.bell-";
/// The longest name of a file is 255 bytes; a temporary one has some more than the segment's.
const LONGEST: usize = 200;

/// The directory of named segments: `/dev/shm`, or the value of the environment variable
/// `FOLIO_SHM_DIR` (seen from the present working directory, if it is no whole path). Programs that
/// share a name must agree on it. A program that has more rights than the user that started it
/// (set-user-ID) does not read the variable.
pub fn directory() -> PathBuf {
    std::env::var_os("FOLIO_SHM_DIR")
        .filter(|dir| !dir.is_empty() && !sys::process::has_more_rights_than_its_starter())
        .map_or_else(|| PathBuf::from("/dev/shm"), whole)
}

/// A directory as it is called wherever this process works later: there its segments are taken
/// away.
fn whole(dir: OsString) -> PathBuf {
    std::path::absolute(&dir).unwrap_or_else(|_| dir.into())
}

/// The file of a name.
pub(crate) fn path(call: &'static str, name: &str) -> Result<PathBuf> {
    let plain = |c: char| c != '/' && !c.is_control();
    if name.is_empty() || name.len() > LONGEST || !name.chars().all(plain) {
        return Err(Error::rule(
            call,
            Subject::named(format!("shared memory {name:?}")),
            format!("a name has 1 to {LONGEST} bytes, none of them `/` or a control character"),
            "choose another name; for a file of your own, use the calls that take a path",
        ));
    }
    Ok(directory().join(format!("{PREFIX}{name}")))
}

/// The file of a name in the directory, also of a name that no segment can have. Such a file can be
/// listed and removed.
pub(crate) fn path_of_entry(call: &'static str, name: &OsStr) -> Result<PathBuf> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(Error::rule(
            call,
            Subject::named(format!("shared memory {:?}", name.to_string_lossy())),
            "a name has at least one byte, none of them `/` or zero",
            "see `folio shm ls` for the names that there are",
        ));
    }
    let mut file = OsString::from(PREFIX);
    file.push(name);
    Ok(directory().join(file))
}

/// The name that a file of the directory stands for, if it is a segment's.
pub(crate) fn of_file(file: &OsStr) -> Option<&OsStr> {
    let name = file.as_bytes().strip_prefix(PREFIX.as_bytes())?;
    (!name.is_empty()).then(|| OsStr::from_bytes(name))
}

/// Whether a file of the directory was on its way to becoming a segment.
pub(crate) fn is_temporary(file: &OsStr) -> bool {
    let rest = file.as_bytes().strip_prefix(TEMPORARY.as_bytes());
    rest.is_some_and(|rest| rest.windows(5).any(|part| part == b".new-"))
}

/// The name of a file on its way to `path`.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let short = file.strip_prefix(PREFIX).unwrap_or(&file);
    // As much of it as has room, in whole characters.
    let short = (0..=LONGEST).rev().find_map(|end| short.get(..end)).unwrap_or_default();
    path.with_file_name(format!("{TEMPORARY}{short}.new-{:016x}", crate::shm::random()))
}

/// The name of a notifier's FIFO, in the directory of the segment's file.
pub(crate) fn notifier_fifo(segment: u64, owner: u64, number: u64) -> String {
    format!("{NOTIFIED}{segment:016x}-{owner:016x}-{number:016x}")
}

/// The segment's number and the owner, if a file of the directory is called as the FIFOs of
/// notifiers are.
pub(crate) fn of_notifier_fifo(file: &OsStr) -> Option<(u64, u64)> {
    let mut numbers = file.to_str()?.strip_prefix(NOTIFIED)?.split('-').map(|digits| {
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let number = digits.len() == 16 && digits.bytes().all(plain);
        number.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    });
    let [segment, owner, _] = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some((segment, owner))
}

/// The directory that a file lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::{is_temporary, notifier_fifo, of_file, of_notifier_fifo, temporary};
    use std::path::Path;

    #[test]
    fn a_file_on_its_way_has_a_name_that_has_room() {
        for name in [
            "a".repeat(255),
            format!("a{}", "é".repeat(127)),
            "é".repeat(127),
            "€".repeat(85),
            "a".into(),
        ] {
            let temporary = temporary(Path::new(&name));
            let temporary = temporary.as_os_str();
            assert!(temporary.len() <= 255 && is_temporary(temporary), "{temporary:?}");
        }
    }

    #[test]
    fn each_kind_of_name_is_told_from_the_others() {
        let name = notifier_fifo(7, u64::MAX, 0);
        let of_bell = |name: &str| of_notifier_fifo(name.as_ref());
        assert_eq!(of_bell(&name), Some((7, u64::MAX)));
        assert!(of_file(name.as_ref()).is_none() && !is_temporary(name.as_ref()));
        for other in
            [&name[1..], &name[..name.len() - 1], &format!("{name}-0"), &name.replace('f', "F"), ""]
        {
            assert_eq!(of_bell(other), None, "{other}");
        }
        // A segment that is called like one, on its way.
        let temporary = temporary(Path::new(&format!("folio.bell-{}", &name[12..])));
        let temporary = temporary.to_str().unwrap();
        assert!(is_temporary(temporary.as_ref()) && of_bell(temporary).is_none(), "{temporary}");
    }
}
