//! One piece of work for every item of a list, shared by the processors: what a start has to read of
//! thousands of processes and sockets. Knows nothing of either.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// So many processes of which one thing is read, a millisecond's work.
pub(super) const PROCESSES: usize = 256;

/// What `work` makes of each item, in their order; so many as are `worth` it have a further processor
/// take part.
pub(super) fn shared<T: Sync, R: Send>(
    items: &[T],
    worth: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    /// More would be felt by others.
    const THREADS: usize = 4;
    let next = AtomicUsize::new(0);
    let part = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let threads = thread::available_parallelism().map_or(1, |it| it.get().min(THREADS));
    let mut done = thread::scope(|scope| {
        let others: Vec<_> =
            (1..threads.min(items.len().div_ceil(worth))).map(|_| scope.spawn(part)).collect();
        let mut done = part();
        // One that panicked has said so, and found nothing.
        others.into_iter().for_each(|it| done.append(&mut it.join().unwrap_or_default()));
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_in_order() {
        for count in [0, 1, 2, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let expected: Vec<usize> = items.iter().map(|it| it * 3).collect();
            assert_eq!(shared(&items, 2, |it| it * 3), expected);
        }
    }
}
