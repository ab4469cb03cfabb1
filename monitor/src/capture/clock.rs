//! Kernel time (since boot) into wall time. The offset between them is read anew for every batch:
//! wall time may have been set.

use monitor_core::ids::WallTime;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// The offset between both clocks as of one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    wall_minus_boot_ns: i128,
}

/// Now, as the kernel stamps it.
pub(super) fn boot_ns() -> u64 {
    u64::try_from(nanoseconds(clock_gettime(ClockId::Boottime))).unwrap_or(0)
}

impl Clock {
    pub(super) fn read() -> Self {
        let boot = nanoseconds(clock_gettime(ClockId::Boottime));
        let wall = nanoseconds(clock_gettime(ClockId::Realtime));
        Self { wall_minus_boot_ns: wall - boot }
    }

    /// The wall time of a kernel timestamp.
    pub(super) fn wall(self, boot_ns: u64) -> WallTime {
        let microseconds = (i128::from(boot_ns) + self.wall_minus_boot_ns) / 1000;
        WallTime(i64::try_from(microseconds).unwrap_or(i64::MAX))
    }
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_time_is_counted_from_boot() {
        let clock = Clock { wall_minus_boot_ns: 1_000_000_000_000_000 };
        assert_eq!(clock.wall(5_000), WallTime(1_000_000_000_005));
        assert_eq!(clock.wall(u64::MAX).0, 1_000_000_000_000 + 18_446_744_073_709_551);
    }
}
