//! Where a figure comes from: the machine, and the build.

use std::fs;
use std::thread;

use super::Machine;

impl Machine {
    /// The machine that this process runs on, and its own build. What cannot be found out is `unknown`, or 0.
    #[must_use]
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: processor(&read("/proc/cpuinfo")).unwrap_or_else(|| "unknown".to_owned()),
            cores: thread::available_parallelism().map_or(0, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
            memory: memory(&read("/proc/meminfo")).unwrap_or(0),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            compiler: env!("BUILD_RUSTC").to_owned(),
            profile: env!("BUILD_PROFILE").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("BUILD_COMMIT").map(str::to_owned),
        }
    }
}

/// The processor's name. ARM kernels do not print one: there its maker's number for it has to do.
fn processor(cpuinfo: &str) -> Option<String> {
    if let Some(name) = field(cpuinfo, "model name") {
        return Some(name.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    Some(format!("implementer {} part {}", field(cpuinfo, "CPU implementer")?, field(cpuinfo, "CPU part")?))
}

fn memory(meminfo: &str) -> Option<u64> {
    let kibibytes: u64 = field(meminfo, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The first line of the form `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(key, value)| key.trim() == name && !value.trim().is_empty())?;
    Some(value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named_on_both_architectures() {
        let intel = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Xeon(R)  CPU @ 2.80GHz\n\nprocessor\t: 1\n";
        assert_eq!(processor(intel).as_deref(), Some("Xeon(R) CPU @ 2.80GHz"));
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        assert_eq!(processor(arm).as_deref(), Some("implementer 0x41 part 0xd0c"));
        assert_eq!(processor(""), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(memory("MemTotal:       8141000 kB\nMemFree: 1 kB\n"), Some(8_141_000 * 1024));
        assert_eq!(memory("MemTotal: much\n"), None);
    }

    #[test]
    fn this_machine_has_cores_and_a_compiler() {
        let here = Machine::here();
        assert!(here.cores > 0);
        assert!(here.compiler.starts_with("rustc "), "{}", here.compiler);
        assert!(["release", "debug"].contains(&here.profile.as_str()), "{}", here.profile);
        // Debug builds do not ask for it: each commit would compile everything again.
        assert!(here.profile == "release" || here.commit.is_none());
    }
}
