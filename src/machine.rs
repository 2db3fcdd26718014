//! What this machine offers, read once at start and handed to the plan as plain values.

use std::fs;
use std::path::Path;

/// Cores this process may use, ascending. To be called before the EAL starts: afterwards the calling thread
/// is pinned, and this would name one core.
#[must_use]
pub fn cores() -> Vec<usize> {
    let mut cores: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .iter()
        .map(|core| core.id)
        .collect();
    cores.sort_unstable();
    cores
}

/// A random number for hash seeds and process identities, from the kernel.
#[must_use]
pub fn random_seed() -> u64 {
    // The standard library seeds its hashers from the kernel; an empty hash is that seed, mixed.
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

/// Megabytes of free hugepages, of all sizes.
#[must_use]
pub fn hugepages_free_mb() -> u32 {
    free_mb_below(Path::new("/sys/kernel/mm/hugepages"))
}

/// Bytes of memory that can be had without taking any from others; without bound where the kernel doesn't tell.
#[must_use]
pub fn memory_available() -> u64 {
    fs::read_to_string("/proc/meminfo").map_or(u64::MAX, |text| available_bytes(&text))
}

fn available_bytes(meminfo: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib << 10)
}

/// Sums up a folder of `hugepages-<size>kB/free_hugepages`.
fn free_mb_below(folder: &Path) -> u32 {
    let Ok(sizes) = fs::read_dir(folder) else { return 0 };
    let kb = sizes.flatten().filter_map(|size| {
        let name = size.file_name().into_string().ok()?;
        let page_kb: u64 = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let free: u64 = fs::read_to_string(size.path().join("free_hugepages"))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        page_kb.checked_mul(free)
    });
    u32::try_from(kb.sum::<u64>() / 1_024).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_hugepages_of_all_sizes_are_summed_and_rubbish_is_skipped() {
        let folder = std::env::temp_dir().join(format!("twinpath-hugepages-{}", std::process::id()));
        for (name, free) in [
            ("hugepages-2048kB", "3\n"),
            ("hugepages-1048576kB", "2\n"),
            ("hugepages-x", "9\n"),
            ("y", "9"),
        ] {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("free_hugepages"), free).unwrap();
        }
        let found = free_mb_below(&folder);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, 3 * 2 + 2 * 1_024);
        assert_eq!(free_mb_below(&folder), 0);
    }

    #[test]
    fn available_memory_is_what_the_kernel_says() {
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:   3 kB\n"), 3_072);
        assert_eq!(available_bytes("MemTotal: 9 kB\n"), u64::MAX);
        assert!((1 << 20..u64::MAX).contains(&memory_available()));
    }

    #[test]
    fn there_is_at_least_one_core() {
        assert!(!cores().is_empty());
    }
}
