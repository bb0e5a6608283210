//! The wake-up protocol under every interleaving: `RUSTFLAGS="--cfg atoll_loom" cargo test --release --test loom_mailbox`.
#![cfg(atoll_loom)]

use std::collections::VecDeque;

use atoll_core::mailbox::{Lane, LaneSettings, Mailbox, Post};
use atoll_core::wake::Wake;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

struct Item(usize, usize);

impl Post for Item {
    type Tracker = ();

    fn accepted(&self, _: &()) {}
}

/// A sleeper that only a wake-up ends, so that a lost one is a deadlock, which loom reports.
#[derive(Clone, Default)]
struct SharedBell(Arc<Bell>);

#[derive(Default)]
struct Bell {
    rung: Mutex<usize>,
    changed: Condvar,
}

impl Wake for SharedBell {
    fn wake(&self) {
        *self.0.rung.lock().unwrap() += 1;
        self.0.changed.notify_one();
    }
}

/// Explores every interleaving with at most three preemptions, which is where real races live and takes seconds, not hours.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn no_wake_up_is_lost_and_each_posters_order_is_kept() {
    explore(|| {
        let bell = SharedBell::default();
        let mailbox = Arc::new(Mailbox::new(LaneSettings::with_limit(10), bell.clone(), ()));
        let posters: Vec<_> = (0..2)
            .map(|poster| {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || {
                    for n in 0..2 {
                        assert!(mailbox.push(Lane::Normal, Item(poster, n)).is_ok());
                    }
                })
            })
            .collect();
        let (mut next, mut seen, mut batch) = ([0; 2], 0, VecDeque::new());
        let mut heard = 0;
        while seen < 4 {
            if !mailbox.take(&mut batch) && mailbox.arm() {
                let mut rung = bell.0.rung.lock().unwrap();
                while *rung == heard {
                    rung = bell.0.changed.wait(rung).unwrap();
                }
                heard = *rung;
            }
            for Item(poster, n) in batch.drain(..) {
                assert_eq!(n, next[poster]);
                next[poster] += 1;
                seen += 1;
            }
        }
        for poster in posters {
            poster.join().unwrap();
        }
        assert!(heard <= 4);
    });
}

#[test]
fn a_push_that_races_with_arming_either_is_seen_or_wakes() {
    explore(|| {
        let bell = SharedBell::default();
        let mailbox = Arc::new(Mailbox::new(LaneSettings::with_limit(10), bell.clone(), ()));
        assert!(mailbox.arm());
        let poster = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.push_all(Lane::Control, &mut vec![Item(0, 0)]))
        };
        let slept = mailbox.arm();
        poster.join().unwrap();
        let woken = *bell.0.rung.lock().unwrap() == 1;
        let seen = mailbox.take(&mut VecDeque::new());
        assert!(seen && (woken || !slept));
    });
}

#[test]
fn a_push_that_races_with_a_doze_and_its_end_either_is_seen_or_wakes() {
    explore(|| {
        let bell = SharedBell::default();
        let mailbox = Arc::new(Mailbox::new(LaneSettings::with_limit(10), bell.clone(), ()));
        let mut batch = VecDeque::new();
        assert!(!mailbox.take(&mut batch));
        let poster = {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || assert!(mailbox.push(Lane::Normal, Item(0, 0)).is_ok()))
        };
        mailbox.doze();
        let came_back_to_it = mailbox.take(&mut batch);
        let slept = mailbox.arm();
        poster.join().unwrap();
        let woken = *bell.0.rung.lock().unwrap() == 1;
        assert!(came_back_to_it || woken || !slept);
        assert!(
            !(came_back_to_it && woken),
            "nobody is woken for what is taken at the end of a doze"
        );
        assert!(came_back_to_it || mailbox.take(&mut batch));
    });
}

#[test]
fn a_consumer_that_leaves_when_all_is_done_never_sleeps_for_an_item_that_has_moved() {
    explore(|| {
        let bell = SharedBell::default();
        let mailbox = Arc::new(Mailbox::new(LaneSettings::with_limit(10), bell.clone(), ()));
        let delayed = Arc::new(AtomicUsize::new(1));
        let timer = {
            let (mailbox, delayed) = (Arc::clone(&mailbox), Arc::clone(&delayed));
            thread::spawn(move || {
                let moved = || {
                    delayed.fetch_sub(1, Ordering::AcqRel);
                };
                assert!(mailbox.push_moved(Lane::Normal, Item(0, 0), moved).is_ok());
            })
        };
        let (mut batch, mut seen, mut heard) = (VecDeque::new(), 0, 0);
        loop {
            if mailbox.take(&mut batch) {
                for item in batch.drain(..) {
                    mailbox.started(Lane::Normal, &item);
                    seen += 1;
                }
                continue;
            }
            if delayed.load(Ordering::Acquire) == 0 && mailbox.queued() == [0; 3] {
                break;
            }
            if mailbox.arm() {
                let mut rung = bell.0.rung.lock().unwrap();
                while *rung == heard {
                    rung = bell.0.changed.wait(rung).unwrap();
                }
                heard = *rung;
            }
        }
        assert_eq!(seen, 1);
        timer.join().unwrap();
    });
}
