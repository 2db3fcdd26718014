//! Finds DPDK, compiles the C shim for its static-inline calls and generates bindings of exactly the
//! functions and types that `src/dpdk/` names. Everything generated stays in `OUT_DIR`.
//!
//! What differs between DPDK 22.11, 23.11 and 24.11 (the shape of `struct rte_eth_link`, field markers in
//! `struct rte_mbuf`) is kept behind `shim.c`, which asserts the layout that Rust relies on. The cfgs
//! `dpdk_23_11` and `dpdk_24_11` mark a library at least that new. Only 22.11 has been built so far.

use std::env;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Oldest release whose API and mbuf layout the code was written against.
const DPDK_MIN: &str = "22.11";

/// Libraries called directly. Drivers are plugins that the EAL loads itself.
const LIBRARIES: &[&str] = &["rte_ethdev", "rte_hash", "rte_mbuf", "rte_mempool", "rte_eal"];

/// Every DPDK function that Rust calls; a name missing here can't be called.
const FUNCTIONS: &[&str] = &[
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_eal_remote_launch",
    "rte_eal_wait_lcore",
    "rte_eal_mp_wait_lcore",
    "rte_get_tsc_hz",
    "rte_strerror",
    "rte_version",
    "rte_pktmbuf_pool_create_by_ops",
    "rte_pktmbuf_free_bulk",
    "rte_mempool_free",
    "rte_mempool_avail_count",
    "rte_mempool_in_use_count",
    "rte_dev_probe",
    "rte_dev_remove",
    "rte_eth_dev_callback_register",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_configure",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_close",
    "rte_eth_rx_queue_setup",
    "rte_eth_tx_queue_setup",
    "rte_eth_promiscuous_enable",
    "rte_eth_macaddr_get",
    "rte_eth_dev_rss_hash_conf_get",
    "rte_eth_dev_rss_hash_update",
    "rte_eth_dev_rss_reta_query",
    "rte_eth_dev_rss_reta_update",
    "rte_eth_stats_get",
    "rte_eth_xstats_get",
    "rte_eth_xstats_get_names",
    "rte_hash_create",
    "rte_hash_free",
    "rte_hash_add_key",
    "rte_hash_lookup_bulk",
    "twinpath_.*",
];

/// Types that are only passed around by pointer.
const OPAQUE: &[&str] = &["rte_mbuf", "rte_mempool", "rte_device", "rte_hash"];

fn main() -> ExitCode {
    println!("cargo::rustc-check-cfg=cfg(dpdk_23_11)");
    println!("cargo::rustc-check-cfg=cfg(dpdk_24_11)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/dpdk/shim.c");
    println!("cargo::rerun-if-changed=src/dpdk/shim.h");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            for line in cause.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let dpdk = pkg_config::Config::new()
        .atleast_version(DPDK_MIN)
        .cargo_metadata(false)
        .probe("libdpdk")
        .map_err(|error| {
            missing(
                &format!("DPDK {DPDK_MIN} or newer was not found by pkg-config"),
                error,
            )
        })?;
    version_cfgs(&dpdk.version);
    compile_shim(&dpdk.include_paths)?;
    generate_bindings(&dpdk.include_paths, &out.join("bindings.rs"))?;
    for path in &dpdk.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }
    for library in LIBRARIES {
        println!("cargo::rustc-link-lib=dylib={library}");
    }
    Ok(())
}

/// What to tell somebody whose machine lacks a part.
fn missing(what: &str, error: impl Display) -> String {
    format!(
        "{what}\n\
         twinpath needs DPDK {DPDK_MIN} or newer, a C compiler and libclang. On Debian 12:\n\
         \x20   apt-get install libdpdk-dev libclang-dev clang pkg-config gcc\n\
         A DPDK built from source is found through PKG_CONFIG_PATH.\n\
         cause: {error}"
    )
}

fn version_cfgs(version: &str) {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    for (least, cfg) in [((23, 11), "dpdk_23_11"), ((24, 11), "dpdk_24_11")] {
        if found >= least {
            println!("cargo::rustc-cfg={cfg}");
        }
    }
}

fn compile_shim(includes: &[PathBuf]) -> Result<(), String> {
    cc::Build::new()
        .file("src/dpdk/shim.c")
        .includes(includes)
        .flag("-include")
        .flag("rte_config.h")
        // DPDK's inline functions need at least SSE4.2, its own baseline on x86-64.
        .flag_if_supported("-march=corei7")
        .flag_if_supported("-Wno-deprecated-declarations")
        .opt_level(3)
        .try_compile("twinpath_shim")
        .map_err(|error| missing("the DPDK shim does not compile", error))
}

fn generate_bindings(includes: &[PathBuf], target: &Path) -> Result<(), String> {
    let mut builder = bindgen::Builder::default()
        .header("src/dpdk/shim.h")
        .clang_args(["-include", "rte_config.h", "-march=corei7"])
        .clang_args(includes.iter().map(|path| format!("-I{}", path.display())))
        .allowlist_var("TWINPATH_.*")
        .rust_edition(bindgen::RustEdition::Edition2024)
        .generate_comments(false)
        .derive_default(true)
        .merge_extern_blocks(true);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    // A missing libclang is a panic inside bindgen; it must read like every other missing part.
    let bindings = catch_unwind(AssertUnwindSafe(|| builder.generate()))
        .map_err(|_| missing("libclang was not found", "bindgen could not load libclang"))?
        .map_err(|error| missing("bindings for DPDK could not be generated", error))?;
    bindings
        .write_to_file(target)
        .map_err(|error| format!("{}: {error}", target.display()))
}
