//! How one process learns within moments that another one has died, however suddenly.
//!
//! A socket tells of its owner's death last: the kernel first frees the process's memory, then closes its files one by
//! one, and each packet socket among them takes milliseconds. A robust lock tells first: the kernel walks through those
//! of a dying thread before it touches the memory they lie in.
//!
//! So the data process holds a robust lock in a small shared file from its start to its end ([`Lifeline`]), and the
//! control process has a thread that waits for that lock ([`Watch`]): whoever gets it knows that the holder is gone.
//! Every start makes a file of its own under the same name, with the number that was drawn at that start, so nobody
//! takes one process's lock for another's.

use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Write};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Builder;

/// Marks a file whose lock is ready, laid out as [`Shared`].
const MARK: u64 = u64::from_be_bytes(*b"tp-alive");

// Missing in the libc crate. Not by the shim, which the control process would then need DPDK for.
const PTHREAD_MUTEX_ROBUST: c_int = 1;
unsafe extern "C" {
    fn pthread_mutexattr_setrobust(attributes: *mut libc::pthread_mutexattr_t, robust: c_int) -> c_int;
}

/// Why a lifeline can't be held or watched.
#[derive(Debug, thiserror::Error)]
pub enum LifelineError {
    /// The file can't be made, opened or mapped.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The file is something else.
    #[error("{0} isn't a lifeline")]
    Foreign(PathBuf),
    /// Another start of the process has made the file.
    #[error("{0} is of another process than the one that answers")]
    OtherBoot(PathBuf),
    /// The lock can't be made or taken.
    #[error("the lock of a lifeline: {0}")]
    Lock(io::Error),
    /// Nobody can wait for the lock.
    #[error("the thread or pipe that watches a lifeline: {0}")]
    Watcher(io::Error),
}

/// How a watched process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It let go of its lifeline.
    InOrder,
    /// It died.
    Dead,
}

/// What the file holds.
#[repr(C)]
struct Shared {
    mark: AtomicU64,
    boot: AtomicU64,
    lock: UnsafeCell<libc::pthread_mutex_t>,
}

/// The file in this process's memory.
struct Mapping(NonNull<Shared>);

// SAFETY: a mapping belongs to the process, not to a thread of it.
unsafe impl Send for Mapping {}
// SAFETY: what isn't atomic in it is a lock that exists to be used by several threads and processes.
unsafe impl Sync for Mapping {}

impl Mapping {
    const BYTES: usize = size_of::<Shared>();

    /// `file` must be at least [`Self::BYTES`] long.
    fn of(file: &File) -> io::Result<Self> {
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let at = unsafe { libc::mmap(ptr::null_mut(), Self::BYTES, access, libc::MAP_SHARED, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(at.cast())
            .map(Self)
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn shared(&self) -> &Shared {
        // SAFETY: mapped, page-aligned and as long as it takes until `self` is dropped; any bytes are valid atomics, and the
        // lock is behind an UnsafeCell.
        unsafe { self.0.as_ref() }
    }

    /// Makes the lock. Nobody else may know the file yet.
    fn make_lock(&self) -> io::Result<()> {
        let mut attributes = MaybeUninit::uninit();
        let at = attributes.as_mut_ptr();
        // SAFETY: memory of the right size, for attributes that aren't there yet.
        check(unsafe { libc::pthread_mutexattr_init(at) })?;
        // SAFETY: made in the line above.
        check(unsafe { libc::pthread_mutexattr_setpshared(at, libc::PTHREAD_PROCESS_SHARED) })?;
        // SAFETY: as above; the declaration is that of pthread_mutexattr_setrobust(3).
        check(unsafe { pthread_mutexattr_setrobust(at, PTHREAD_MUTEX_ROBUST) })?;
        // SAFETY: the attributes are complete, and the memory for the lock is in nobody's use. Attributes hold nothing that
        // had to be given back.
        check(unsafe { libc::pthread_mutex_init(self.shared().lock.get(), at) })
    }

    /// Waits for the lock: 0 when its holder has released it, else an error number.
    fn lock(&self) -> c_int {
        // SAFETY: the lock was made before its file got its name, and stays mapped as long as this thread may hold it.
        unsafe { libc::pthread_mutex_lock(self.shared().lock.get()) }
    }

    /// Releases the lock, which this thread holds.
    fn unlock(&self) {
        // SAFETY: as for `lock`. Refused, and without effect, on a thread that doesn't hold it.
        let _held = unsafe { libc::pthread_mutex_unlock(self.shared().lock.get()) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `of` with this length, and no reference into it outlives `self`. Its lock isn't held by a thread of
        // this process any more (else the thread's list of robust locks would lead into nothing): a `Lifeline` and a
        // watching thread release it first. It isn't destroyed: the other process may wait for it still.
        let _unmapped = unsafe { libc::munmap(self.0.as_ptr().cast(), Self::BYTES) };
    }
}

fn check(code: c_int) -> io::Result<()> {
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Held by this process as long as it lives, or until it is dropped.
///
/// It is bound to the thread that took it, since the end of that thread is what the kernel tells of: one that lives until
/// the orderly end of the process has to hold it.
pub struct Lifeline {
    mapping: Mapping,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
    on_its_thread: PhantomData<*mut ()>,
}

impl Lifeline {
    /// Makes the file anew, with the number `boot` of this start in it, and takes its lock.
    ///
    /// # Errors
    /// When the system refuses; then the file at `path` is the one that was there before, if there was one.
    pub fn hold(path: &Path, boot: u64) -> Result<Self, LifelineError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |cause| LifelineError::File { path, cause }
        };
        // Under this name until it is held, so that nobody finds it half made.
        let mut making = path.as_os_str().to_owned();
        making.push(".new");
        let making = PathBuf::from(making);
        match fs::remove_file(&making) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&making)(error)),
            _ => {}
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&making)
            .map_err(at(&making))?;
        let made = Self::make(&file, &making, boot);
        let held = made.and_then(|mut lifeline| {
            fs::rename(&making, path).map_err(at(path))?;
            path.clone_into(&mut lifeline.path);
            Ok(lifeline)
        });
        if held.is_err() {
            let _gone_already = fs::remove_file(&making);
        }
        held
    }

    fn make(file: &File, path: &Path, boot: u64) -> Result<Self, LifelineError> {
        let at = |cause| LifelineError::File {
            path: path.to_owned(),
            cause,
        };
        file.set_len(Mapping::BYTES as u64).map_err(at)?;
        let about = file.metadata().map_err(at)?;
        let mapping = Mapping::of(file).map_err(at)?;
        mapping.make_lock().map_err(LifelineError::Lock)?;
        check(mapping.lock()).map_err(LifelineError::Lock)?;
        mapping.shared().boot.store(boot, Ordering::Relaxed);
        mapping.shared().mark.store(MARK, Ordering::Release);
        Ok(Self {
            mapping,
            path: path.to_owned(),
            file: (about.dev(), about.ino()),
            on_its_thread: PhantomData,
        })
    }
}

impl fmt::Debug for Lifeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lifeline").field(&self.path).finish()
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // The next start may have put its own file there already.
        if fs::symlink_metadata(&self.path).is_ok_and(|about| (about.dev(), about.ino()) == self.file) {
            let _gone_already = fs::remove_file(&self.path);
        }
        self.mapping.unlock();
    }
}

/// A wait for the end of another process.
///
/// Dropping it ends the interest, not the thread that waits: that one ends with the watched process. So watch a process
/// once, however often it is connected to.
#[derive(Debug)]
pub struct Watch {
    told: Arc<Told>,
    readable: PipeReader,
}

/// What the watching thread has to say.
#[derive(Debug)]
struct Told {
    ending: OnceLock<Ending>,
    teller: PipeWriter,
}

impl Watch {
    /// Watches the process that holds the lifeline at `path`, if that is the one whose start drew `boot`.
    ///
    /// # Errors
    /// When there is none, it is of another start, or nobody can wait for it.
    pub fn begin(path: &Path, boot: u64) -> Result<Self, LifelineError> {
        let at = |cause| LifelineError::File {
            path: path.to_owned(),
            cause,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(at)?;
        let about = file.metadata().map_err(at)?;
        if !about.is_file() || about.len() < Mapping::BYTES as u64 {
            return Err(LifelineError::Foreign(path.to_owned()));
        }
        let mapping = Mapping::of(&file).map_err(at)?;
        if mapping.shared().mark.load(Ordering::Acquire) != MARK {
            return Err(LifelineError::Foreign(path.to_owned()));
        }
        if mapping.shared().boot.load(Ordering::Relaxed) != boot {
            return Err(LifelineError::OtherBoot(path.to_owned()));
        }
        let (readable, teller) = io::pipe().map_err(LifelineError::Watcher)?;
        let told = Arc::new(Told {
            ending: OnceLock::new(),
            teller,
        });
        let tell = Arc::clone(&told);
        Builder::new()
            .name("lifeline".to_owned())
            .spawn(move || {
                if let Some(ending) = wait(&mapping) {
                    let _told_once = tell.ending.set(ending);
                    // The first and last byte of the pipe, which has room for it. Without a reader nobody wants to know.
                    let _heard = (&tell.teller).write(&[0]);
                }
            })
            .map_err(LifelineError::Watcher)?;
        Ok(Self { told, readable })
    }

    /// How the process has ended, if it has.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.told.ending.get().copied()
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ending().is_some()
    }

    /// Readable from the process's end on.
    #[must_use]
    pub fn readable(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

/// Waits for the holder's end; none when the lock doesn't tell it, which leaves it to the socket.
fn wait(mapping: &Mapping) -> Option<Ending> {
    match mapping.lock() {
        0 => {
            mapping.unlock();
            Some(Ending::InOrder)
        }
        libc::EOWNERDEAD => {
            // Not made consistent: so it is dead for everybody who asks later, too.
            mapping.unlock();
            Some(Ending::Dead)
        }
        libc::ENOTRECOVERABLE => Some(Ending::Dead),
        code => {
            let error = io::Error::from_raw_os_error(code);
            tracing::warn!(%error, "the data process's lifeline can't be watched");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    /// Where the program of the tests, run again, holds a lifeline; set by its parent only.
    const HOLD: &str = "TWINPATH_LIFELINE_TO_HOLD";
    const BOOT: u64 = 0x1234_5678_9abc_def0;

    /// A directory of its own for each test, removed at the end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("twinpath-lifeline-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn lifeline(&self) -> PathBuf {
            self.0.join("dataplane.alive")
        }

        fn files(&self) -> usize {
            fs::read_dir(&self.0).unwrap().count()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// Another process that holds a lifeline.
    fn holder(path: &Path) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "dpdk::lifeline::tests::hold_where_the_parent_says",
                "--nocapture",
            ])
            .env(HOLD, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(
            said.map_while(Result::ok).any(|line| line.ends_with("held")),
            "it never held"
        );
        child
    }

    /// The part of the other process; nothing in the tests' own.
    #[test]
    fn hold_where_the_parent_says() {
        let Some(path) = std::env::var_os(HOLD) else {
            return;
        };
        let lifeline = Lifeline::hold(Path::new(&path), BOOT).unwrap();
        println!("held");
        // Until the parent closes it or kills.
        io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
        drop(lifeline);
    }

    /// Whether the end is told within `ms`.
    fn told(watch: &Watch, ms: u16) -> bool {
        let mut fds = [PollFd::new(watch.readable(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(ms)).unwrap() == 1
    }

    fn ends(watch: &Watch) -> Option<Ending> {
        assert!(told(watch, 20_000), "the end was not noticed");
        watch.ending()
    }

    #[test]
    fn a_killed_process_is_noticed_by_everybody_and_for_good() {
        let dir = Dir::new("killed");
        let mut child = holder(&dir.lifeline());
        let watches = [(); 2].map(|()| Watch::begin(&dir.lifeline(), BOOT).unwrap());
        assert!(!told(&watches[0], 50), "it lives");
        assert!(!watches[0].is_over());
        child.kill().unwrap();
        assert_eq!(watches.each_ref().map(ends), [Some(Ending::Dead); 2]);
        let late = Watch::begin(&dir.lifeline(), BOOT).unwrap();
        assert_eq!(ends(&late), Some(Ending::Dead));
        child.wait().unwrap();
    }

    #[test]
    fn an_orderly_end_is_told_apart_and_takes_the_file_along() {
        let dir = Dir::new("orderly");
        let mut child = holder(&dir.lifeline());
        let watch = Watch::begin(&dir.lifeline(), BOOT).unwrap();
        drop(child.stdin.take());
        assert_eq!(ends(&watch), Some(Ending::InOrder));
        assert!(child.wait().unwrap().success());
        assert_eq!(dir.files(), 0);
    }

    #[test]
    fn the_end_of_the_holding_thread_is_the_end() {
        let dir = Dir::new("thread");
        let path = dir.lifeline();
        let (held, is_held) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            std::mem::forget(Lifeline::hold(&path, BOOT).unwrap());
            held.send(()).unwrap();
            ended.recv().unwrap_err();
        });
        is_held.recv().unwrap();
        let watch = Watch::begin(&dir.lifeline(), BOOT).unwrap();
        assert!(!watch.is_over());
        drop(end);
        assert_eq!(ends(&watch), Some(Ending::Dead));
        thread.join().unwrap();
    }

    #[test]
    fn a_new_start_has_a_lifeline_of_its_own() {
        let dir = Dir::new("anew");
        let mut child = holder(&dir.lifeline());
        let old = Watch::begin(&dir.lifeline(), BOOT).unwrap();
        let lifeline = Lifeline::hold(&dir.lifeline(), 7).unwrap();
        let watch = Watch::begin(&dir.lifeline(), 7).unwrap();
        let confused = Watch::begin(&dir.lifeline(), BOOT);
        assert!(matches!(confused, Err(LifelineError::OtherBoot(path)) if path == dir.lifeline()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(ends(&old), Some(Ending::Dead));
        assert!(!watch.is_over(), "another process has died");
        drop(lifeline);
        assert_eq!(ends(&watch), Some(Ending::InOrder));
    }

    #[test]
    fn an_orderly_end_leaves_the_next_starts_file_where_it_is() {
        let dir = Dir::new("next");
        let old = Lifeline::hold(&dir.lifeline(), 1).unwrap();
        let new = Lifeline::hold(&dir.lifeline(), 2).unwrap();
        drop(old);
        let watch = Watch::begin(&dir.lifeline(), 2).unwrap();
        assert!(!told(&watch, 50));
        drop(new);
        assert_eq!(ends(&watch), Some(Ending::InOrder));
        assert_eq!(dir.files(), 0);
    }

    #[test]
    fn what_a_killed_start_left_half_made_is_replaced() {
        let dir = Dir::new("half");
        fs::write(dir.0.join("dataplane.alive.new"), "").unwrap();
        let lifeline = Lifeline::hold(&dir.lifeline(), BOOT).unwrap();
        assert_eq!(dir.files(), 1);
        assert_eq!(fs::metadata(dir.lifeline()).unwrap().mode() & 0o777, 0o600);
        drop(lifeline);
    }

    #[test]
    fn without_a_lifeline_the_fault_names_the_file() {
        let dir = Dir::new("none");
        let name = dir.lifeline().display().to_string();
        for content in [None, Some(vec![]), Some(vec![1; 4_096])] {
            if let Some(content) = &content {
                fs::write(dir.lifeline(), content).unwrap();
            }
            let fault = Watch::begin(&dir.lifeline(), BOOT).unwrap_err();
            assert!(fault.to_string().contains(&name), "{content:?}: {fault}");
        }
        let nowhere = dir.0.join("missing/dataplane.alive");
        let fault = Lifeline::hold(&nowhere, BOOT).unwrap_err();
        assert!(fault.to_string().contains("missing/dataplane.alive"), "{fault}");
    }

    #[test]
    fn a_name_that_cannot_be_taken_leaves_nothing_behind() {
        let dir = Dir::new("taken");
        fs::create_dir(dir.lifeline()).unwrap();
        assert!(matches!(
            Lifeline::hold(&dir.lifeline(), BOOT),
            Err(LifelineError::File { .. })
        ));
        assert_eq!(dir.files(), 1);
    }
}
