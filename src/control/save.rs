//! A file takes the place of another one whole, or not at all: written beside it, made durable, and renamed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

/// Replaces what `file` holds; owner and permissions stay, a link goes on pointing at it.
///
/// # Errors
/// What the system says; `file` is as it was, and nothing is left beside it.
pub fn replace(file: &Path, text: &str) -> io::Result<()> {
    let file = fs::canonicalize(file)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // A name of our own, so that what a crash leaves behind is found and used again.
    let beside = file.with_file_name(format!(".{name}.new"));
    let done = write(&file, &beside, text).and_then(|()| fs::rename(&beside, &file));
    if done.is_err() {
        let _never_made = fs::remove_file(&beside);
        return done;
    }
    let folder = file.parent().unwrap_or(Path::new("/"));
    File::open(folder)?.sync_all()
}

fn write(file: &Path, beside: &Path, text: &str) -> io::Result<()> {
    let like = fs::metadata(file)?;
    // Private until it is as its model: keys stand beside configurations, and this one may name them.
    let mut new = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(beside)?;
    new.write_all(text.as_bytes())?;
    let made = new.metadata()?;
    if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
        fchown(&new, Some(like.uid()), Some(like.gid()))?;
    }
    new.set_permissions(like.permissions())?;
    new.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("twinpath-save-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_behind_its_link_and_keeps_its_permissions() {
        let folder = folder("link");
        let (file, link) = (folder.join("real.toml"), folder.join("link.toml"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        // Left behind by a crash.
        fs::write(folder.join(".real.toml.new"), "half of something longer").unwrap();
        replace(&link, "new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(names(&folder), ["link.toml", "real.toml"]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_can_not_be_written_leaves_the_file_as_it_was() {
        let folder = folder("failed");
        let file = folder.join("real.toml");
        fs::write(&file, "old").unwrap();
        fs::create_dir(folder.join(".real.toml.new")).unwrap();
        assert!(replace(&file, "new").is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert!(replace(&folder.join("missing.toml"), "new").is_err());
        assert_eq!(names(&folder), [".real.toml.new", "real.toml"]);
        fs::remove_dir_all(folder).unwrap();
    }
}
