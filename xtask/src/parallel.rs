//! The same work for many things, several at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Does `work` for each of `items`, by so many workers, and hands `done` what each came to, as it comes.
/// `work` also gets the number of the worker that it is done by.
pub fn each<T: Copy + Send + Sync, R: Send>(
    workers: usize,
    items: &[T],
    work: impl Fn(usize, T) -> R + Sync,
    mut done: impl FnMut(T, R),
) {
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for worker in 0..workers {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while let Some(&item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let _ = sender.send((item, work(worker, item)));
                }
            });
        }
        drop(sender);
        results.iter().for_each(|(item, result)| done(item, result));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_done_once() {
        let items: Vec<u32> = (0..100).collect();
        let mut squares = vec![None; 100];
        each(
            3,
            &items,
            |worker, item| (worker, item * item),
            |item, (worker, square)| {
                assert!(worker < 3);
                assert_eq!(squares[item as usize].replace(square), None);
            },
        );
        assert!((0..100).all(|item| squares[item] == Some((item * item) as u32)));
    }
}
