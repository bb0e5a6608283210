//! The mailbox from outside: order, lanes, bounds, wake-ups.
#![cfg(not(atoll_loom))]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atoll_core::mailbox::{Lane, LaneSettings, Mailbox, Post, PushError};
use atoll_core::wake::Wake;

#[derive(Debug, PartialEq, Eq)]
struct Item(usize, usize);

impl Post for Item {
    type Tracker = AtomicUsize;

    fn accepted(&self, tracker: &AtomicUsize) {
        tracker.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn mailbox(limit: usize) -> Mailbox<Item, CountingWaker> {
    Mailbox::new(
        LaneSettings::with_limit(limit),
        CountingWaker::default(),
        AtomicUsize::new(0),
    )
}

fn wakes(mailbox: &Mailbox<Item, CountingWaker>) -> usize {
    mailbox.waker().0.load(Ordering::SeqCst)
}

#[test]
fn items_come_out_in_the_order_pushed() {
    let mailbox = mailbox(100);
    for n in 0..10 {
        mailbox.push(Lane::Normal, Item(0, n)).unwrap();
    }
    let mut batch = VecDeque::new();
    assert!(mailbox.take(&mut batch));
    assert_eq!(batch, (0..10).map(|n| Item(0, n)).collect::<Vec<_>>());
    assert_eq!(mailbox.tracker().load(Ordering::Relaxed), 10);
}

#[test]
fn only_the_first_push_after_arming_wakes() {
    let mailbox = mailbox(100);
    for n in 0..5 {
        mailbox.push(Lane::Normal, Item(0, n)).unwrap();
    }
    assert_eq!(wakes(&mailbox), 1);
    assert!(!mailbox.arm(), "there is something to take");
    mailbox.take(&mut VecDeque::new());
    assert!(mailbox.arm());
    mailbox.push_all(Lane::Bulk, &mut vec![Item(1, 0), Item(1, 1)]);
    mailbox.push(Lane::Control, Item(2, 0)).unwrap();
    assert_eq!(wakes(&mailbox), 2);
}

#[test]
fn no_push_wakes_a_consumer_that_dozes() {
    let mailbox = mailbox(100);
    mailbox.push(Lane::Normal, Item(0, 0)).unwrap();
    assert!(!mailbox.doze(), "there is something to take");
    mailbox.take(&mut VecDeque::new());
    assert!(mailbox.doze());
    mailbox.push(Lane::Normal, Item(0, 1)).unwrap();
    mailbox.push_all(Lane::Bulk, &mut vec![Item(1, 0), Item(1, 1)]);
    assert_eq!(wakes(&mailbox), 1, "by the first push of all");
    mailbox.take(&mut VecDeque::new());
    assert!(mailbox.arm());
    mailbox.push(Lane::Normal, Item(0, 2)).unwrap();
    assert_eq!(wakes(&mailbox), 2);
}

#[test]
fn a_lane_that_is_half_full_wakes_a_consumer_that_dozes() {
    let mailbox = mailbox(10);
    mailbox.take(&mut VecDeque::new());
    assert!(mailbox.doze());
    for n in 0..5 {
        mailbox.push(Lane::Normal, Item(0, n)).unwrap();
        mailbox.push(Lane::Bulk, Item(1, n)).unwrap();
    }
    assert_eq!(wakes(&mailbox), 0);
    mailbox.push(Lane::Bulk, Item(1, 5)).unwrap();
    mailbox.push(Lane::Bulk, Item(1, 6)).unwrap();
    assert_eq!(wakes(&mailbox), 1);
}

#[test]
fn urgent_lanes_come_first_and_no_lane_starves() {
    let mailbox = mailbox(1_000);
    for n in 0..500 {
        mailbox.push(Lane::Bulk, Item(2, n)).unwrap();
        mailbox.push(Lane::Normal, Item(1, n)).unwrap();
        mailbox.push(Lane::Control, Item(0, n)).unwrap();
    }
    let mut batch = VecDeque::new();
    mailbox.take(&mut batch);
    let lanes: Vec<usize> = batch.iter().map(|item| item.0).collect();
    assert!(lanes.is_sorted(), "control before normal before bulk");
    assert!(lanes.contains(&0) && lanes.contains(&1) && lanes.contains(&2));
    assert!(
        batch.len() < 200,
        "a later control item waits for one short batch at most"
    );
}

#[test]
fn a_full_lane_gives_the_item_back_and_leaves_the_other_lanes_open() {
    let mailbox = mailbox(2);
    mailbox.push(Lane::Normal, Item(0, 0)).unwrap();
    mailbox.push(Lane::Normal, Item(0, 1)).unwrap();
    assert_eq!(
        mailbox.push(Lane::Normal, Item(0, 2)),
        Err(PushError::Full(Item(0, 2)))
    );
    mailbox.push(Lane::Control, Item(1, 0)).unwrap();
    mailbox.push_admitted(Lane::Normal, Item(0, 3)).unwrap();
    assert_eq!(mailbox.queued(), [1, 3, 0]);
}

#[test]
fn push_all_takes_what_fits_and_leaves_the_rest() {
    let mailbox = mailbox(3);
    let mut items: Vec<Item> = (0..5).map(|n| Item(0, n)).collect();
    mailbox.push_all(Lane::Normal, &mut items);
    assert_eq!(items, [Item(0, 3), Item(0, 4)]);
    assert_eq!(mailbox.queued(), [0, 3, 0]);
}

#[test]
fn a_closed_mailbox_gives_back_what_waits_and_refuses_what_comes() {
    let mailbox = mailbox(10);
    mailbox.push(Lane::Bulk, Item(1, 0)).unwrap();
    mailbox.push(Lane::Control, Item(0, 0)).unwrap();
    assert_eq!(mailbox.close(), [Item(0, 0), Item(1, 0)]);
    assert_eq!(
        mailbox.push(Lane::Normal, Item(2, 0)),
        Err(PushError::Closed(Item(2, 0)))
    );
    assert_eq!(mailbox.close(), []);
}

#[test]
fn eight_threads_lose_nothing_and_keep_their_own_order() {
    const EACH: usize = 20_000;
    let mailbox = Arc::new(mailbox(usize::MAX));
    let posters: Vec<_> = (0..8)
        .map(|poster| {
            let mailbox = Arc::clone(&mailbox);
            std::thread::spawn(move || {
                for n in 0..EACH {
                    mailbox.push(Lane::Normal, Item(poster, n)).unwrap();
                }
            })
        })
        .collect();
    let (mut next, mut seen, mut batch) = ([0; 8], 0, VecDeque::new());
    while seen < 8 * EACH {
        let asleep_since = wakes(&mailbox);
        if !mailbox.take(&mut batch) && mailbox.arm() {
            // Asleep: only a wake-up may make us look again.
            while wakes(&mailbox) == asleep_since && seen < 8 * EACH {
                std::thread::yield_now();
            }
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
    assert!(wakes(&mailbox) <= 8 * EACH);
}

/// An observer's item takes up no room, and does not know when it was queued.
#[derive(Debug)]
struct Observed(bool);

impl Post for Observed {
    type Tracker = ();

    fn accepted(&self, (): &()) {}

    fn is_uncounted(&self) -> bool {
        self.0
    }

    fn queued_at(&self) -> u64 {
        if self.0 { 0 } else { 7 }
    }
}

#[test]
fn an_observer_in_front_does_not_hide_what_waits_behind_it() {
    let mailbox = Mailbox::new(LaneSettings::with_limit(9), CountingWaker::default(), ());
    mailbox.push(Lane::Normal, Observed(true)).unwrap();
    assert_eq!(mailbox.oldest_queued_at(), 0);
    mailbox.push(Lane::Normal, Observed(false)).unwrap();
    assert_eq!(mailbox.oldest_queued_at(), 7);
}

#[test]
fn what_takes_up_no_room_is_neither_counted_nor_in_the_way() {
    let settings = LaneSettings::with_limit(1);
    let mailbox = Mailbox::new(settings, CountingWaker::default(), ());
    mailbox.push(Lane::Normal, Observed(true)).unwrap();
    mailbox.push(Lane::Normal, Observed(false)).unwrap();
    assert!(mailbox.push(Lane::Normal, Observed(false)).is_err());
    assert_eq!(mailbox.queued(), [0, 1, 0]);
    assert!(!mailbox.arm(), "it is taken like any other");
    let mut batch = VecDeque::new();
    mailbox.take(&mut batch);
    assert_eq!(batch.len(), 2);
    for item in &batch {
        mailbox.started(Lane::Normal, item);
    }
    assert_eq!(mailbox.queued(), [0; 3]);
    mailbox.push(Lane::Normal, Observed(false)).unwrap();
}

#[test]
fn what_is_urgent_goes_before_the_rest_of_a_batch_and_behind_what_came_before_it() {
    let mailbox = mailbox(1000);
    for n in 0..2 {
        mailbox.push(Lane::Control, Item(0, n)).unwrap();
        mailbox.push(Lane::Bulk, Item(2, n)).unwrap();
    }
    let mut batch = VecDeque::new();
    mailbox.take(&mut batch);
    mailbox.push(Lane::Control, Item(0, 2)).unwrap();
    mailbox.push(Lane::Normal, Item(1, 0)).unwrap();
    mailbox.take_urgent(&mut batch, |item| item.0 == 0);
    let order: Vec<(usize, usize)> = batch.iter().map(|item| (item.0, item.1)).collect();
    assert_eq!(order, [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]);
}

#[test]
fn a_flood_of_what_is_urgent_gets_no_more_than_its_weight_before_others_have_their_turn() {
    let mailbox = mailbox(10_000);
    mailbox.push(Lane::Bulk, Item(2, 0)).unwrap();
    let mut batch = VecDeque::new();
    mailbox.take(&mut batch);
    for n in 0..1000 {
        mailbox.push(Lane::Control, Item(0, n)).unwrap();
        mailbox.take_urgent(&mut batch, |item| item.0 == 0);
    }
    let weight = LaneSettings::with_limit(1).weights[0];
    assert_eq!(batch.len(), weight + 1);
    assert_eq!(batch.back(), Some(&Item(2, 0)));
    batch.clear();
    mailbox.take(&mut batch);
    assert_eq!(batch.len(), weight, "and the next ones have it again");
}

#[test]
fn what_is_taken_counts_as_queued_and_takes_up_room_until_it_starts() {
    let mailbox = mailbox(3);
    for n in 0..3 {
        mailbox.push(Lane::Bulk, Item(0, n)).unwrap();
    }
    let mut batch = VecDeque::new();
    mailbox.take(&mut batch);
    assert_eq!(mailbox.queued(), [0, 0, 3]);
    assert!(mailbox.is_empty(), "there is nothing to take");
    assert!(mailbox.push(Lane::Bulk, Item(0, 3)).is_err());
    mailbox.started(Lane::Bulk, &batch.pop_front().unwrap());
    assert_eq!(mailbox.queued(), [0, 0, 2]);
    let mut items = vec![Item(0, 3), Item(0, 4)];
    mailbox.push_all(Lane::Bulk, &mut items);
    assert_eq!(items, [Item(0, 4)], "there was room for one");
}

#[test]
fn what_finds_no_room_is_counted_by_lane_and_what_comes_too_late_is_not() {
    let mailbox = mailbox(1);
    mailbox.push(Lane::Normal, Item(0, 0)).unwrap();
    assert!(mailbox.push(Lane::Normal, Item(0, 1)).is_err());
    mailbox.push_all(Lane::Control, &mut vec![Item(1, 0), Item(1, 1), Item(1, 2)]);
    mailbox.count_refused(Lane::Bulk, 5);
    assert_eq!(mailbox.refused(), [2, 1, 5]);
    mailbox.close();
    assert!(mailbox.push(Lane::Normal, Item(0, 2)).is_err());
    mailbox.push_all(Lane::Normal, &mut vec![Item(0, 3)]);
    assert_eq!(mailbox.refused(), [2, 1, 5]);
}

#[test]
fn all_that_waits_can_be_looked_at_until_an_error() {
    let mailbox = mailbox(9);
    for (lane, n) in [(Lane::Bulk, 2), (Lane::Control, 0), (Lane::Normal, 1)] {
        mailbox.push(lane, Item(0, n)).unwrap();
    }
    let mut seen = Vec::new();
    let all = mailbox.look_at_all(|item| {
        seen.push(item.1);
        if item.1 < 1 { Ok(()) } else { Err(item.1) }
    });
    assert_eq!((all, seen), (Err(1), vec![0, 1]));
}
