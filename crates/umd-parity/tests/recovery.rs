//! `recover`: every way to lose one or two columns.

mod common;

use common::{Slot, each_kernel, noise, reference_pq};
use proptest::prelude::*;
use umd_parity::{Loss, Lost, pq, pq_delta, recover};

/// A row of raid6: data by position, P, Q.
struct Row {
    data: Vec<Option<Vec<u8>>>,
    p: Vec<u8>,
    q: Vec<u8>,
    len: usize,
}

impl Row {
    /// `positions` of them, with data at those for which `has_data`.
    fn new(positions: usize, len: usize, has_data: impl Fn(usize) -> bool) -> Self {
        let data: Vec<Option<Vec<u8>>> = (0..positions)
            .map(|i| has_data(i).then(|| noise((positions * 1000 + i) as u64, len)))
            .collect();
        let columns: Vec<Option<&[u8]>> = data.iter().map(Option::as_deref).collect();
        let (p, q) = reference_pq(&columns, len);
        Self { data, p, q, len }
    }

    /// Everything that can be lost.
    fn members(&self) -> Vec<Lost> {
        let data = (0..self.data.len())
            .filter(|i| self.data[*i].is_some())
            .map(Lost::Data);
        data.chain([Lost::P, Lost::Q]).collect()
    }

    fn content(&self, lost: Lost) -> &[u8] {
        match lost {
            Lost::Data(i) => self.data[i]
                .as_deref()
                .expect("only data that is there is lost"),
            Lost::P => &self.p,
            Lost::Q => &self.q,
        }
    }

    /// Loses `lost`, gets back those that are wanted and compares. `hidden` is not lost but not
    /// read either.
    #[track_caller]
    fn check(&self, lost: &[(Lost, bool)], hidden: Option<Lost>, what: &str) {
        let gone = |column| hidden == Some(column) || lost.iter().any(|(l, _)| *l == column);
        let data: Vec<Option<&[u8]>> = (0..self.data.len())
            .map(|i| self.data[i].as_deref().filter(|_| !gone(Lost::Data(i))))
            .collect();
        let p = Some(&self.p[..]).filter(|_| !gone(Lost::P));
        let q = Some(&self.q[..]).filter(|_| !gone(Lost::Q));
        let mut slots: Vec<Slot> = (0..lost.len())
            .map(|i| Slot::scratch(self.len, i))
            .collect();
        let mut losses: Vec<Loss> = lost
            .iter()
            .zip(&mut slots)
            .map(|((lost, wanted), slot)| (*lost, wanted.then_some(slot.get_mut())))
            .collect();
        recover(&data, p, q, &mut losses);
        for ((column, wanted), slot) in lost.iter().zip(&slots) {
            let what = format!("{what}: {column:?} with {lost:?} lost");
            let untouched = vec![0x5a; self.len];
            slot.expect(
                if *wanted {
                    self.content(*column)
                } else {
                    &untouched
                },
                &what,
            );
        }
    }

    /// One and two losses, all of them, in both orders, wanted or not.
    #[track_caller]
    fn check_all(&self, what: &str) {
        self.check(&[], None, what);
        let members = self.members();
        for a in &members {
            self.check(&[(*a, true)], None, what);
            self.check(&[(*a, false)], None, what);
            for b in members.iter().filter(|b| *b != a) {
                for (a_wanted, b_wanted) in [(true, true), (true, false), (false, false)] {
                    self.check(&[(*a, a_wanted), (*b, b_wanted)], None, what);
                    self.check(&[(*b, b_wanted), (*a, a_wanted)], None, what);
                }
            }
        }
    }
}

#[test]
fn every_loss_of_raid6() {
    each_kernel(|kernel| {
        for k in 1..=8 {
            for len in [1, 15, 64, 333, 1024] {
                Row::new(k, len, |_| true).check_all(&format!("{kernel}, {k}+2"));
            }
        }
    });
}

/// DDF counts P's and Q's own positions: they stay empty.
#[test]
fn every_loss_with_empty_positions() {
    each_kernel(|kernel| {
        for disks in 4..=8 {
            for q_at in 0..disks {
                let p_at = (q_at + 1) % disks;
                let row = Row::new(disks, 300, |i| i != p_at && i != q_at);
                row.check_all(&format!("{kernel}, DDF, {disks} disks, Q on {q_at}"));
            }
        }
    });
}

/// raid4 and raid5 have no Q; a degraded read may also leave P aside and use Q.
#[test]
fn every_single_loss_with_one_parity() {
    each_kernel(|kernel| {
        for k in 1..=8 {
            let row = Row::new(k, 333, |_| true);
            for lost in row.members() {
                for hidden in [Lost::P, Lost::Q]
                    .into_iter()
                    .filter(|hidden| *hidden != lost)
                {
                    row.check(&[(lost, true)], Some(hidden), &format!("{kernel}, {k}+1"));
                }
            }
        }
    });
}

/// Every distance between two positions: all coefficients there are.
#[test]
fn every_pair_of_the_widest_row() {
    let row = Row::new(255, 16, |_| true);
    let members = row.members();
    for (i, a) in members.iter().enumerate() {
        for b in &members[i + 1..] {
            row.check(&[(*a, true), (*b, true)], None, "255+2");
        }
    }
}

proptest! {
    /// Parity made by `pq`, kept up to date by `pq_delta`, used by `recover`.
    #[test]
    fn parity_written_and_rewritten_recovers(
        k in 1usize..20,
        len in 0usize..700,
        seed: u64,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..5),
        losses in any::<[prop::sample::Index; 2]>(),
    ) {
        let mut data: Vec<Vec<u8>> = (0..k).map(|i| noise(seed ^ i as u64, len)).collect();
        let (mut p, mut q) = (vec![0; len], vec![0; len]);
        let columns: Vec<Option<&[u8]>> = data.iter().map(|d| Some(&d[..])).collect();
        pq(&mut p, &mut q, &columns);
        for (place, seed) in changes {
            let i = place.index(k);
            let new = noise(seed, len);
            pq_delta(Some(&mut p), Some(&mut q), i as u8, &data[i], &new);
            data[i] = new;
        }
        let columns: Vec<Option<&[u8]>> = data.iter().map(|d| Some(&d[..])).collect();
        let (p_expected, q_expected) = reference_pq(&columns, len);
        prop_assert_eq!(&p, &p_expected);
        prop_assert_eq!(&q, &q_expected);
        let row = Row { data: data.into_iter().map(Some).collect(), p, q, len };
        let members = row.members();
        let (a, b) = (members[losses[0].index(k + 2)], members[losses[1].index(k + 2)]);
        row.check(&[(a, true)], None, "random row");
        if a != b {
            row.check(&[(a, true), (b, true)], None, "random row");
        }
    }
}

#[test]
#[should_panic(expected = "Data(0) is both lost and given")]
fn lost_and_given() {
    recover(
        &[Some(&[0])],
        Some(&[0]),
        None,
        &mut [(Lost::Data(0), Some(&mut [0]))],
    );
}

#[test]
#[should_panic(expected = "P is both lost and given")]
fn parity_lost_and_given() {
    recover(
        &[Some(&[0])],
        Some(&[0]),
        None,
        &mut [(Lost::P, Some(&mut [0]))],
    );
}

#[test]
#[should_panic(expected = "lost data 1 of only 1 columns")]
fn lost_beyond_the_row() {
    recover(
        &[None],
        Some(&[0]),
        None,
        &mut [(Lost::Data(1), Some(&mut [0]))],
    );
}

#[test]
#[should_panic(expected = "data 0 lost with neither P nor Q given")]
fn one_loss_without_parity() {
    recover(&[None], None, None, &mut [(Lost::Data(0), Some(&mut [0]))]);
}

#[test]
#[should_panic(expected = "Data(0) and Data(1) lost with too little parity given")]
fn two_losses_with_one_parity() {
    recover(
        &[None, None],
        None,
        Some(&[0]),
        &mut [(Lost::Data(1), None), (Lost::Data(0), None)],
    );
}

#[test]
#[should_panic(expected = "Data(0) and P lost with too little parity given")]
fn data_and_p_lost_without_q() {
    recover(
        &[None],
        None,
        None,
        &mut [(Lost::P, None), (Lost::Data(0), Some(&mut [0]))],
    );
}

#[test]
#[should_panic(expected = "Data(1) is lost twice")]
fn the_same_loss_twice() {
    let lost = &mut [(Lost::Data(1), None), (Lost::Data(1), None)];
    recover(&[None, None], Some(&[0]), Some(&[0]), lost);
}

#[test]
#[should_panic(expected = "3 columns lost, two can be recovered")]
fn three_losses() {
    let lost = &mut [(Lost::Data(0), None), (Lost::P, None), (Lost::Q, None)];
    recover(&[None, None], None, None, lost);
}

#[test]
#[should_panic(expected = "the buffer for lost data is 2 bytes long, the rest 1")]
fn a_buffer_of_another_length() {
    recover(
        &[None],
        Some(&[0]),
        None,
        &mut [(Lost::Data(0), Some(&mut [0, 0]))],
    );
}
