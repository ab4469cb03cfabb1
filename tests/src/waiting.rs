//! Waiting for something to become true: the only pause in these tests.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// Looks until `look` finds something. What it finds instead is the message of the panic that ends
/// the wait after `patience`.
#[track_caller]
pub fn eventually<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return found,
            Err(_) if Instant::now() < deadline => thread::sleep(PAUSE),
            Err(nearest) => panic!("not within {patience:?}: {what}\nnearest: {nearest}"),
        }
    }
}
