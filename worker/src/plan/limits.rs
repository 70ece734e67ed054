//! What a process that plans holds itself to, before it plans. It lives beside a worker that runs a job, in the same container:
//! it must not take the memory and the processors that the job needs, however a script was written.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};

/// Seconds of processor time. Planning takes milliseconds, and some seconds where a script is as large as it may be.
pub const CPU_SECONDS: u64 = 30;

/// Bytes beyond what the process has at its start and the planner's stack.
pub const DEFAULT_MEMORY: u64 = 512 << 20;

/// A worker's reserve, which pays for this, is nearly half of its memory.
const WORKERS_SHARE: u64 = 4;

/// No less, however small a worker is: a plan of some hundred lines takes some ten MiB.
const LEAST_MEMORY: u64 = 96 << 20;

/// Of the kernel's scale, on which a process is chosen that has to go when memory is short: this one before all others.
const FIRST_TO_GO: &str = "1000";

/// Steps behind the worker in the queue for processors.
const NICE: i32 = 5;

/// What planning may take beside a worker with so much memory.
pub fn beside(worker: u64) -> u64 {
    (worker / WORKERS_SHARE).clamp(LEAST_MEMORY, DEFAULT_MEMORY)
}

/// Holds this process to so many bytes beyond what it has already, and to [`CPU_SECONDS`].
pub fn hold(memory: u64) {
    limit(Resource::Cpu, CPU_SECONDS);
    // A crash is told by its signal; a core would fill the disk that state is on.
    limit(Resource::Core, 0);
    if let Some(now) = address_space() {
        limit(Resource::As, now + weir_sql::PLANNING_STACK as u64 + memory);
    }
    let _ = fs::write("/proc/self/oom_score_adj", FIRST_TO_GO);
    let _ = nice(NICE);
}

fn limit(resource: Resource, amount: u64) {
    let Rlimit { maximum, .. } = getrlimit(resource);
    let current = Some(maximum.map_or(amount, |maximum| maximum.min(amount)));
    if let Err(error) = setrlimit(resource, Rlimit { current, maximum }) {
        tracing::warn!(?resource, %error, "planning is not limited");
    }
}

/// Bytes of address space that this process has; none where the system does not say.
fn address_space() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planning_takes_a_quarter_of_a_worker_within_bounds() {
        assert_eq!(beside(1 << 30), 256 << 20);
        assert_eq!(beside(64 << 20), LEAST_MEMORY);
        assert_eq!(beside(64 << 30), DEFAULT_MEMORY);
        assert!(address_space().is_none_or(|bytes| bytes > 1 << 20));
    }
}
