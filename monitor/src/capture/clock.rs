//! Kernel time (since boot), and wall time from it. The offset between them is read anew for every
//! batch: wall time may have been set.

use std::sync::LazyLock;

use monitor_core::ids::WallTime;
use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// The offset between both clocks as of one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    wall_minus_boot_ns: i128,
}

/// Nanoseconds since the machine was started, as the kernel stamps them, whatever namespace of time
/// this process is in.
#[must_use]
pub fn boot_ns() -> u64 {
    stamped(nanoseconds(clock_gettime(ClockId::Boottime)), *AHEAD_NS)
}

/// How long the kernel's tick lasts, by which its coarse clocks go.
pub(super) fn tick_ns() -> u64 {
    u64::try_from(nanoseconds(clock_getres(ClockId::MonotonicCoarse))).unwrap_or(0)
}

/// Milliseconds since the machine was started, of which the upper part is cut off: for short spans.
pub(super) fn boot_ms() -> u32 {
    let milliseconds = boot_ns() / 1_000_000 % (1 << 32);
    u32::try_from(milliseconds).unwrap_or(0)
}

/// A time since boot that the kernel showed this process, in `/proc` for one, as it stamps it.
pub(super) fn shown_ns(shown_ns: u64) -> u64 {
    stamped(shown_ns.into(), *AHEAD_NS)
}

fn stamped(own_ns: i128, ahead_ns: i128) -> u64 {
    u64::try_from(own_ns - ahead_ns).unwrap_or(0)
}

impl Clock {
    pub(super) fn read() -> Self {
        let boot = i128::from(boot_ns());
        let wall = nanoseconds(clock_gettime(ClockId::Realtime));
        Self { wall_minus_boot_ns: wall - boot }
    }

    /// The wall time of a kernel timestamp.
    pub(super) fn wall(self, boot_ns: u64) -> WallTime {
        let microseconds = (i128::from(boot_ns) + self.wall_minus_boot_ns) / 1000;
        WallTime(i64::try_from(microseconds).unwrap_or(i64::MAX))
    }
}

/// How far our boot clock is ahead of the kernel's own, whose timestamps know no namespace of time. It
/// does not change while a process lives.
static AHEAD_NS: LazyLock<i128> = LazyLock::new(|| {
    // Kernels before 5.6 have no such file, and no such namespaces.
    let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    boot_offset_ns(&offsets).unwrap_or(0)
});

/// Finds `boottime SECONDS NANOSECONDS`.
fn boot_offset_ns(offsets: &str) -> Option<i128> {
    let offset = offsets.lines().find_map(|line| line.trim_start().strip_prefix("boottime"))?;
    let mut numbers = offset.split_whitespace().map(str::parse::<i128>);
    let (seconds, nanoseconds) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(seconds * 1_000_000_000 + nanoseconds)
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_of_time_is_taken_off() {
        let offsets = "monotonic           0         0\nboottime        86400         5\n";
        assert_eq!(boot_offset_ns(offsets), Some(86_400_000_000_005));
        assert_eq!(boot_offset_ns("boottime -3 0"), Some(-3_000_000_000));
        assert_eq!(boot_offset_ns(""), None);
        assert_eq!(stamped(86_400_000_000_007, 86_400_000_000_005), 2);
        assert_eq!(stamped(2, -3_000_000_000), 3_000_000_002);
        assert_eq!(stamped(2, 3), 0, "nothing was before the start");
    }

    #[test]
    fn kernel_time_is_counted_from_boot() {
        let clock = Clock { wall_minus_boot_ns: 1_000_000_000_000_000 };
        assert_eq!(clock.wall(5_000), WallTime(1_000_000_000_005));
        assert_eq!(clock.wall(u64::MAX).0, 1_000_000_000_000 + 18_446_744_073_709_551);
    }
}
