//! The files of the settings, which are open already.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::sys::uio::pread;
use skd_tls_protocol::{FileIndex, Settings};
use zeroize::Zeroizing;

/// The maximum size of a file with certificates, keys or an OCSP response, in bytes.
pub(super) const MAX_FILE: usize = 1 << 20;

/// The maximum size of a list of revoked certificates, in bytes: those of some authorities are large.
pub(super) const MAX_CRL: usize = 64 << 20;

/// The files of the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Files<'a> {
    paths: &'a [String],
    descriptors: &'a [OwnedFd],
}

impl<'a> Files<'a> {
    pub(super) fn new(settings: &'a Settings, descriptors: &'a [OwnedFd]) -> Self {
        Self {
            paths: &settings.files,
            descriptors,
        }
    }

    /// Returns the path of a file, for messages.
    pub(super) fn path(&self, file: FileIndex) -> &'a str {
        self.paths
            .get(file.0)
            .map_or("a file that wasn't sent", |it| it)
    }

    /// Returns the descriptor of a file.
    pub(super) fn descriptor(&self, file: FileIndex) -> Result<&'a OwnedFd, String> {
        let descriptor = self.descriptors.get(file.0);
        descriptor.ok_or_else(|| "it wasn't sent".to_owned())
    }

    /// Reads a file from its beginning, without the position in it: others may share the descriptor. Memory is
    /// overwritten before it is freed, since there may be a key in it.
    pub(super) fn read(&self, file: FileIndex, most: usize) -> Result<Zeroizing<Vec<u8>>, String> {
        let descriptor = self.descriptor(file)?;
        let mut bytes = Zeroizing::new(vec![0; 16 << 10]);
        let mut length = 0;
        loop {
            if length == bytes.len() {
                // A Vec that grows by itself would leave a copy.
                let mut larger = Zeroizing::new(vec![0; (2 * length).min(most + 1)]);
                larger[..length].copy_from_slice(&bytes);
                bytes = larger;
            }
            let offset = i64::try_from(length).map_err(|_| "it is too large".to_owned())?;
            match pread(descriptor, &mut bytes[length..], offset) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(Errno::EINTR) => {}
                Err(Errno::ESPIPE) => {
                    return Err("it is no regular file, and is read more than once".into());
                }
                Err(Errno::EISDIR) => return Err("it is a directory".into()),
                Err(why) => return Err(format!("it can't be read: {}", why.desc())),
            }
            if length > most {
                return Err(format!("it is larger than {} MiB", most >> 20));
            }
        }
        if length == 0 {
            return Err("it is empty".into());
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Whether every user may read a file, as far as its mode says. What can't be asked isn't known.
    pub(super) fn is_world_readable(&self, file: FileIndex) -> bool {
        let descriptor = self.descriptor(file).ok();
        let stat = descriptor.and_then(|it| fstat(it).ok());
        stat.is_some_and(|stat| stat.st_mode & 0o004 != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    fn settings() -> Settings {
        Settings {
            files: vec!["a".into()],
            ..Settings::default()
        }
    }

    fn file(contents: &[u8]) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(contents).unwrap();
        file.into()
    }

    #[test]
    fn a_file_is_read_whole_and_its_position_stays() {
        let contents: Vec<u8> = (0..100_000u32).map(|it| it as u8).collect();
        let files = [file(&contents)];
        let settings = settings();
        let read = || Files::new(&settings, &files).read(FileIndex(0), 100_000);
        assert_eq!(*read().unwrap(), contents);
        assert_eq!(*read().unwrap(), contents);
        let mut rest = Vec::new();
        File::from(files[0].try_clone().unwrap())
            .read_to_end(&mut rest)
            .unwrap();
        assert_eq!(rest, b"");
    }

    #[test]
    fn what_cant_be_read_is_refused_with_a_reason() {
        let settings = settings();
        let why = |file: OwnedFd, most| {
            Files::new(&settings, &[file])
                .read(FileIndex(0), most)
                .unwrap_err()
        };
        assert_eq!(
            why(file(&[7; 2 << 20]), MAX_FILE),
            "it is larger than 1 MiB"
        );
        assert_eq!(why(file(b""), MAX_FILE), "it is empty");
        let folder = tempfile::tempdir().unwrap();
        let folder = File::open(folder.path()).unwrap();
        assert_eq!(why(folder.into(), MAX_FILE), "it is a directory");
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        assert!(why(pipe, MAX_FILE).starts_with("it is no regular file"));
        let files = Files::new(&settings, &[]);
        assert_eq!(files.path(FileIndex(0)), "a");
        assert_eq!(files.read(FileIndex(0), 1).unwrap_err(), "it wasn't sent");
        assert_eq!(files.path(FileIndex(9)), "a file that wasn't sent");
    }
}
