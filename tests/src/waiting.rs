//! Waiting for something to become true: the only pause in these tests.

use std::ffi::OsString;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// On a machine that is many times slower, such as an emulated one, every deadline is so many times
/// later. It changes no verdict: only how long one waits for it.
static PATIENCE: LazyLock<u32> =
    LazyLock::new(|| times(std::env::var_os("EDGEWATCH_TEST_PATIENCE")));

/// How many times, as it is said; once where it is not.
#[track_caller]
fn times(said: Option<OsString>) -> u32 {
    let Some(said) = said else { return 1 };
    let number = said.to_str().and_then(|it| it.parse().ok()).filter(|it| *it > 0);
    number.unwrap_or_else(|| panic!("EDGEWATCH_TEST_PATIENCE: {said:?} is no number of times"))
}

/// How long to wait on this machine for what takes `patience` on an ordinary one.
#[must_use]
pub(crate) fn stretched(patience: Duration) -> Duration {
    patience.saturating_mul(*PATIENCE)
}

/// Looks until `look` finds something. What it finds instead is the message of the panic that ends
/// the wait after `patience`.
#[track_caller]
pub fn eventually<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let patience = stretched(patience);
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return found,
            // What looks may be a program of its own, which is slow as well.
            Err(_) if Instant::now() < deadline => thread::sleep(stretched(PAUSE)),
            Err(nearest) => panic!("not within {patience:?}: {what}\nnearest: {nearest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_as_many_times_slower_as_it_is_said() {
        assert_eq!(times(None), 1);
        assert_eq!(times(Some("6".into())), 6);
        for misspelt in ["six", "0", "", "-1"] {
            std::panic::catch_unwind(|| times(Some(misspelt.into()))).expect_err(misspelt);
        }
    }
}
