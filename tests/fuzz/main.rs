//! Coverage-guided fuzzing by libFuzzer of whatever reads bytes from outside: `scripts/fuzz`.
//!
//! One program for all targets, so that one build serves them: `TWINPATH_FUZZ` names the target, the arguments are
//! libFuzzer's. With `TWINPATH_FUZZ_SEEDS` naming a folder, it writes the target's first inputs there and ends;
//! with `TWINPATH_FUZZ=list` it prints the targets.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod packets;
#[cfg(fuzzing)]
mod session;
#[cfg(fuzzing)]
mod targets;

#[cfg(fuzzing)]
mod entry {
    use std::sync::OnceLock;

    use libfuzzer_sys::fuzz_target;

    use crate::targets::{TARGETS, Target};

    static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

    #[expect(clippy::panic, reason = "a typing error of whoever calls the program")]
    fn choose() {
        let name = std::env::var("TWINPATH_FUZZ").unwrap_or_default();
        if name == "list" {
            for target in TARGETS {
                println!("{}", target.name);
            }
            std::process::exit(0);
        }
        let Some(target) = TARGETS.iter().find(|t| t.name == name) else {
            panic!("TWINPATH_FUZZ names no target: {name:?}");
        };
        if let Some(folder) = std::env::var_os("TWINPATH_FUZZ_SEEDS") {
            for (n, seed) in (target.seeds)().into_iter().enumerate() {
                let path = std::path::Path::new(&folder).join(format!("seed-{n}"));
                if let Err(cause) = std::fs::write(&path, seed) {
                    panic!("{}: {cause}", path.display());
                }
            }
            std::process::exit(0);
        }
        let _first = CHOSEN.set(target);
    }

    fuzz_target!(
        init: choose(),
        |data: &[u8]| {
            if let Some(target) = CHOSEN.get() {
                (target.run)(data);
            }
        }
    );
}

#[cfg(not(fuzzing))]
const fn main() {}
