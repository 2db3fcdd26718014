//! DPDK's environment: started once per process, it maps the packet memory, probes the devices and pins one
//! thread per worker; those threads run what `launch` hands them until they return. `stop` undoes it all.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use thiserror::Error;

use super::error::Errno;
use super::{Device, Mempool, PortSet, sys};

/// Where packet memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Ordinary pages, mapped and faulted in at start.
    Plain {
        /// Megabytes.
        mb: u32,
    },
    /// Hugepages, taken without a mount.
    Huge {
        /// Megabytes.
        mb: u32,
    },
}

/// What the EAL is started with.
#[derive(Debug, Clone)]
pub struct EalOptions {
    /// Name of the program in DPDK's messages.
    pub program: String,
    /// Tells several processes on one machine apart.
    pub file_prefix: String,
    /// Packet memory.
    pub memory: Memory,
    /// Core of the calling thread, which becomes the main lcore and is pinned there. Threads spawned
    /// afterwards inherit that until they pin themselves.
    pub main_core: usize,
    /// Core of each worker, in order. Workers may share cores, also with the main lcore.
    pub worker_cores: Vec<usize>,
    /// Devices to probe.
    pub devices: Vec<Device>,
    /// DPDK's own messages: `critical`, `error`, `warning`, `notice`, `info` or `debug`.
    pub log_level: String,
    /// Passed on as they are, last.
    pub extra_args: Vec<String>,
}

/// Why the EAL did not start, run a worker, or stop.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EalError {
    /// DPDK can be started once per process.
    #[error("the EAL was already started in this process")]
    AlreadyStarted,
    /// More workers than DPDK has lcores.
    #[error("{workers} workers are too many: DPDK has room for {most}")]
    TooManyWorkers {
        /// Asked for.
        workers: usize,
        /// Possible.
        most: usize,
    },
    /// Two ports name the same device.
    #[error("device {0} is named twice")]
    DeviceTwice(String),
    /// A zero byte inside an argument.
    #[error("EAL argument {0:?} holds a zero byte")]
    Argument(String),
    /// `rte_eal_init` refused; its own messages are on stderr.
    #[error("the EAL did not start with {arguments}: {cause}")]
    Init {
        /// What it was given.
        arguments: String,
        /// DPDK's answer.
        cause: Errno,
    },
    /// No such worker, or it still runs something.
    #[error("worker {worker} can't be launched: {cause}")]
    Launch {
        /// The worker.
        worker: usize,
        /// DPDK's answer.
        cause: Errno,
    },
    /// Some worker still has queues; nothing was closed.
    #[error("{0} handles of workers still hold queues")]
    QueuesInUse(usize),
    /// Packets are held outside the pool; ports are closed, pool and EAL were left alone.
    #[error("{missing} mbufs have not come back to the pool")]
    MbufsMissing {
        /// How many.
        missing: u32,
    },
    /// Ports did not stop or close.
    #[error("port {port} did not stop: {cause}")]
    PortStop {
        /// Its name in the configuration.
        port: String,
        /// DPDK's answer.
        cause: Errno,
    },
    /// `rte_eal_cleanup` failed.
    #[error("the EAL did not clean up: {0}")]
    Cleanup(Errno),
}

/// What an orderly stop found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EalStopped {
    /// Buffers of the pool, all of which were back: allocated = freed.
    pub mbufs: u32,
    /// Frames found in receive queues after the workers had ended, and freed.
    pub drained: u64,
}

/// The running EAL. Stays on the thread that started it.
#[derive(Debug)]
pub struct Eal {
    workers: usize,
    overcommitted: bool,
    main_lcore_only: PhantomData<*const ()>,
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK on the calling thread. A device that can't be probed does not fail here, but in
    /// [`PortSet::open`], by name.
    ///
    /// # Errors
    /// When it was started before, or memory, cores or arguments are refused.
    pub fn start(options: &EalOptions) -> Result<Self, EalError> {
        let most = sys::TWINPATH_LCORES_MAX as usize - 1;
        let workers = options.worker_cores.len();
        if workers > most {
            return Err(EalError::TooManyWorkers { workers, most });
        }
        let arguments = arguments(options)?;
        let owned: Vec<CString> = arguments
            .iter()
            .map(|text| CString::new(text.as_str()).map_err(|_| EalError::Argument(text.clone())))
            .collect::<Result<_, _>>()?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(EalError::AlreadyStarted);
        }
        init(owned).map_err(|cause| EalError::Init {
            arguments: arguments.join(" "),
            cause,
        })?;
        Ok(Self {
            workers,
            overcommitted: overcommitted(options),
            main_lcore_only: PhantomData,
        })
    }

    /// Number of workers it can run.
    #[must_use]
    pub const fn workers(&self) -> usize {
        self.workers
    }

    /// Whether threads share cores, so that one may lose its core at any moment.
    #[must_use]
    pub const fn is_overcommitted(&self) -> bool {
        self.overcommitted
    }

    /// Runs `job` on worker `worker` (0-based) and returns at once.
    ///
    /// # Errors
    /// When there is no such worker or it is still running something.
    pub fn launch<T, F>(&self, worker: usize, job: F) -> Result<WorkerHandle<T>, EalError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let cause = |cause| EalError::Launch { worker, cause };
        let lcore = u32::try_from(worker + 1).map_err(|_| cause(Errno(libc::EINVAL)))?;
        if worker >= self.workers {
            return Err(cause(Errno(libc::ENODEV)));
        }
        let (sender, result) = sync_channel(1);
        let job: Job = Box::new(move || {
            // The receiver is gone only if nobody wants the result.
            let _ = sender.send(job());
        });
        let argument = Box::into_raw(Box::new(job)).cast::<c_void>();
        // SAFETY: trampoline takes back the box it is given, exactly once; this is the main lcore, because
        // Eal can't leave the thread that started it.
        let code = unsafe { sys::rte_eal_remote_launch(Some(trampoline), argument, lcore) };
        if let Err(refused) = Errno::check(code) {
            // SAFETY: the launch was refused, so the box was not taken.
            drop(unsafe { Box::from_raw(argument.cast::<Job>()) });
            return Err(cause(refused));
        }
        Ok(WorkerHandle {
            lcore,
            result,
            main_lcore_only: PhantomData,
        })
    }

    /// Waits for all workers, drains and closes the ports, proves that every mbuf is back in the pool, and
    /// ends the EAL. The workers must have been told to stop, and have dropped their `Ports`.
    ///
    /// # Errors
    /// When something still holds queues or mbufs: then what it could reach is left alive, and only the
    /// process's end cleans up.
    pub fn stop(self, ports: Vec<PortSet>, pool: Mempool) -> Result<EalStopped, EalError> {
        // SAFETY: called on the main lcore, see `launch`.
        unsafe { sys::rte_eal_mp_wait_lcore() };
        let held: usize = ports.iter().map(PortSet::handles).sum();
        if held != 0 {
            return Err(EalError::QueuesInUse(held));
        }
        let mut drained = 0;
        let mut failed = None;
        for set in ports {
            drained += set.drain();
            failed = failed.or(set.close().err());
        }
        if let Some((port, cause)) = failed {
            return Err(EalError::PortStop { port, cause });
        }
        let mbufs = pool
            .destroy()
            .map_err(|missing| EalError::MbufsMissing { missing })?;
        let folder = runtime_dir();
        // SAFETY: no worker runs, no port is open, no mbuf exists; `self` is consumed, so no call follows.
        let code = unsafe { sys::rte_eal_cleanup() };
        Errno::check(code).map_err(EalError::Cleanup)?;
        // DPDK leaves its folder behind, empty when nothing is shared.
        let _ = std::fs::remove_dir(folder);
        Ok(EalStopped { mbufs, drained })
    }
}

/// The version of the DPDK library in use, as it prints it.
#[must_use]
pub fn version() -> String {
    // SAFETY: returns a pointer to a constant string.
    let text = unsafe { sys::rte_version() };
    // SAFETY: the string is static and zero terminated.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Where DPDK keeps what it shares with other processes.
fn runtime_dir() -> std::path::PathBuf {
    // SAFETY: returns a zero-terminated string in static memory.
    let text = unsafe { sys::rte_eal_get_runtime_dir() };
    // SAFETY: as above; it was written by rte_eal_init and does not change.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
        .into()
}

/// A job on a worker.
#[derive(Debug)]
pub struct WorkerHandle<T> {
    lcore: u32,
    result: Receiver<T>,
    main_lcore_only: PhantomData<*const ()>,
}

impl<T> WorkerHandle<T> {
    /// Waits for the job to return. None when it panicked.
    #[must_use]
    pub fn join(self) -> Option<T> {
        // SAFETY: the handle can't leave the main lcore's thread, and the lcore exists.
        unsafe { sys::rte_eal_wait_lcore(self.lcore) };
        self.result.try_recv().ok()
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Runs a [`Job`] that `launch` boxed.
unsafe extern "C" fn trampoline(argument: *mut c_void) -> c_int {
    // SAFETY: `launch` passes a Box<Job> turned raw, and hands it over with this call.
    let job = unsafe { Box::from_raw(argument.cast::<Job>()) };
    // A panic must not unwind into C. Its message is printed by the panic hook; join reports it.
    c_int::from(catch_unwind(AssertUnwindSafe(*job)).is_err())
}

fn init(arguments: Vec<CString>) -> Result<(), Errno> {
    let count = c_int::try_from(arguments.len()).map_err(|_| Errno(libc::E2BIG))?;
    // DPDK keeps pointers into its arguments, and reorders the array: both live as long as the process.
    let argv: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
    let argv = Box::leak(argv.into_boxed_slice());
    // SAFETY: `count` zero-terminated strings that are never freed; STARTED makes this the only call.
    let code = unsafe { sys::rte_eal_init(count, argv.as_mut_ptr()) };
    if code < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// lcore 0 is the main one, worker i is lcore i + 1, each tied to its core.
fn arguments(options: &EalOptions) -> Result<Vec<String>, EalError> {
    let cores = std::iter::once(&options.main_core).chain(&options.worker_cores);
    let lcores: Vec<String> = cores
        .enumerate()
        .map(|(lcore, core)| format!("{lcore}@{core}"))
        .collect();
    let mut all = vec![
        options.program.clone(),
        format!("--lcores={}", lcores.join(",")),
        "--main-lcore=0".to_owned(),
        format!("--file-prefix={}", options.file_prefix),
        format!("--log-level={}", options.log_level),
        "--no-telemetry".to_owned(),
    ];
    match options.memory {
        // 22.11 refuses --in-memory together with --no-huge.
        Memory::Plain { mb } => {
            all.extend([
                "--no-huge".to_owned(),
                "--no-shconf".to_owned(),
                format!("-m{mb}"),
            ]);
        }
        Memory::Huge { mb } => all.extend(["--in-memory".to_owned(), format!("-m{mb}")]),
    }
    if !options.devices.iter().any(Device::is_pci) {
        all.push("--no-pci".to_owned());
    }
    for (index, device) in options.devices.iter().enumerate() {
        if options.devices[..index]
            .iter()
            .any(|other| other.name() == device.name())
        {
            return Err(EalError::DeviceTwice(device.name().to_owned()));
        }
        all.push(device.eal_argument());
    }
    all.extend(options.extra_args.iter().cloned());
    Ok(all)
}

fn overcommitted(options: &EalOptions) -> bool {
    let mut cores = options.worker_cores.clone();
    cores.push(options.main_core);
    cores.sort_unstable();
    cores.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> EalOptions {
        EalOptions {
            program: "twinpath".to_owned(),
            file_prefix: "node1".to_owned(),
            memory: Memory::Plain { mb: 64 },
            main_core: 0,
            worker_cores: vec![0, 1],
            devices: vec![Device::parse("net_null0").unwrap()],
            log_level: "error".to_owned(),
            extra_args: vec!["--huge-dir=/x".to_owned()],
        }
    }

    #[test]
    fn workers_share_cores_and_plain_memory_goes_without_files() {
        assert_eq!(
            arguments(&options()).unwrap().join(" "),
            "twinpath --lcores=0@0,1@0,2@1 --main-lcore=0 --file-prefix=node1 --log-level=error --no-telemetry \
             --no-huge --no-shconf -m64 --no-pci --vdev=net_null0 --huge-dir=/x"
        );
        assert!(overcommitted(&options()));
        assert!(!overcommitted(&EalOptions {
            worker_cores: vec![1, 2],
            ..options()
        }));
    }

    #[test]
    fn hugepages_stay_in_memory_and_a_pci_device_opens_the_bus() {
        let devices = vec![Device::parse("01:00.0").unwrap()];
        let all = arguments(&EalOptions {
            memory: Memory::Huge { mb: 512 },
            devices,
            ..options()
        })
        .unwrap();
        assert!(all.contains(&"--in-memory".to_owned()));
        assert!(all.contains(&"--allow=0000:01:00.0".to_owned()));
        assert!(!all.contains(&"--no-pci".to_owned()));
    }

    #[test]
    fn a_device_named_twice_is_refused() {
        let twice = |text: &str| Device::parse(text).unwrap();
        let devices = vec![twice("net_null0"), twice("net_null0,copy=1")];
        assert_eq!(
            arguments(&EalOptions { devices, ..options() }),
            Err(EalError::DeviceTwice("net_null0".to_owned()))
        );
    }
}
