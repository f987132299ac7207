//! Owner, mode, ACL and extended attributes of a file, for the new file that takes its place.

use crate::failure::{Failure, Kind, words};
use rustix::fs::{XattrFlags, fremovexattr, fsetxattr, getxattr, listxattr};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

/// The access control list (acl(5)).
const ACL: &CStr = c"system.posix_acl_access";

/// Attributes that belong to a file's bytes: the kernel itself removes or remakes them when the
/// bytes change.
const OF_BYTES: [&CStr; 3] = [c"security.capability", c"security.ima", c"security.evm"];

/// The kernel's limits for all names of a file, and for one value (xattr(7)).
const LONGEST_LIST: usize = 65_536;
const LONGEST_VALUE: usize = 65_536;

/// Gives `new` the owner, the group, the mode, the ACL and the extended attributes of the file at
/// `path`, so that nobody gets more rights, or fewer, by the replacement. `old` is that file's
/// metadata, and `name` its name for messages.
pub(crate) fn adopt(new: &File, path: &Path, old: &Metadata, name: &str) -> Result<(), Failure> {
    let failed = |error: &io::Error| Failure::io(Kind::Output, name, error);
    let refused = |what: String, why: &io::Error| {
        let why = words(why);
        Failure::new(
            Kind::Output,
            format!("{name}: a new file in its place cannot have its {what}: {why}"),
        )
        .remedy("use `> FILE`, which writes into the file itself")
    };
    let now = new.metadata().map_err(|error| failed(&error))?;
    if (now.uid(), now.gid()) != (old.uid(), old.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid())).map_err(|error| {
            refused(format!("owner (user {}, group {})", old.uid(), old.gid()), &error)
        })?;
    }
    let attributes = attributes(path).map_err(|errno| failed(&errno.into()))?;
    let has_acl = attributes.iter().any(|name| name.as_c_str() == ACL);
    // With an ACL the group's bits of the mode are the ACL's mask. Until the ACL is there they
    // would be the group's rights.
    let mode = old.mode() & if has_acl { 0o7707 } else { 0o7777 };
    new.set_permissions(Permissions::from_mode(mode)).map_err(|error| failed(&error))?;
    if !has_acl {
        match fremovexattr(new, ACL) {
            // The directory's default ACL, if any, is gone with it.
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(refused("mode without an ACL".to_owned(), &errno.into())),
        }
    }
    for attribute in &attributes {
        let attribute = attribute.as_c_str();
        copy(new, path, attribute).map_err(|errno| {
            let what = if attribute == ACL {
                "access control list".to_owned()
            } else {
                format!(
                    "extended attribute {}",
                    crate::name::shown(attribute.to_string_lossy().as_ref())
                )
            };
            refused(what, &errno.into())
        })?;
    }
    Ok(())
}

/// The names of the extended attributes that a new file must have too.
fn attributes(path: &Path) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut bytes = vec![0; LONGEST_LIST];
    let count = match listxattr(path, &mut bytes[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    let names = bytes[..count].split_inclusive(|&byte| byte == 0);
    let names = names.filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    Ok(names.filter(|name| !OF_BYTES.contains(name)).map(CStr::to_owned).collect())
}

fn copy(new: &File, path: &Path, attribute: &CStr) -> Result<(), Errno> {
    let mut value = vec![0; LONGEST_VALUE];
    let count = match getxattr(path, attribute, &mut value[..]) {
        // It was removed meanwhile.
        Err(Errno::NODATA) => return Ok(()),
        result => result?,
    };
    fsetxattr(new, attribute, &value[..count], XattrFlags::empty()).or_else(|errno| {
        // A label that the security policy gave the new file already need not be set.
        let mut own = vec![0; LONGEST_VALUE];
        let same = rustix::fs::fgetxattr(new, attribute, &mut own[..])
            .is_ok_and(|has| own[..has] == value[..count]);
        if same { Ok(()) } else { Err(errno) }
    })
}
