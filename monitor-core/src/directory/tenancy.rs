//! Whose an address was when. Addresses are given to others within seconds: who held one is asked of
//! a moment, and what ended is remembered for as long as its last flows may be on their way.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use crate::ids::WallTime;

/// Who held which address, bounded in number and age.
#[derive(Debug)]
pub(crate) struct Tenancies<T> {
    /// The latest last.
    of: BTreeMap<IpAddr, Vec<Tenancy<T>>>,
    /// What has ended, in that order.
    ended: VecDeque<(WallTime, IpAddr)>,
}

#[derive(Debug)]
struct Tenancy<T> {
    tenant: T,
    from: WallTime,
    until: Option<WallTime>,
}

impl<T> Default for Tenancies<T> {
    fn default() -> Self {
        Self { of: BTreeMap::new(), ended: VecDeque::new() }
    }
}

impl<T: PartialEq + Clone> Tenancies<T> {
    /// Addresses that were left are remembered this long, seconds.
    const REMEMBERED_S: i64 = 600;
    /// How long after it began it may be told who holds an address, seconds.
    const UNTOLD_S: i64 = 10;
    /// Whoever left an address is still dialled there for so long, seconds: by what was not told yet.
    const MISSED_S: i64 = 50;
    /// No more of them than this.
    const ENDED: usize = 16_384;
    /// An address that changes hands more often than it is forgotten.
    const OF_ONE: usize = 8;

    /// At `told` it is known that `address` is `tenant`'s, `since` then; where that was not said, since
    /// whoever held it before left, or a little while. Whoever still held it does no more; nor did who is
    /// told to have left it only later.
    pub(crate) fn begin(
        &mut self,
        address: IpAddr,
        tenant: T,
        since: Option<WallTime>,
        told: WallTime,
    ) {
        // Of another machine's clock, which may be ahead: whoever is told to hold it does.
        let begun = since.map(|since| since.min(told));
        let since = begun.unwrap_or(told);
        let held = self.of.entry(address).or_default();
        // An address is given out before what it is for is said to have begun.
        let mut from = since.plus_seconds(-Self::UNTOLD_S);
        if let Some(last) = held.last_mut() {
            if last.tenant == tenant && last.until.is_none() {
                return;
            }
            match last.until {
                // That it was left is told some time after it was.
                Some(until) if begun.is_some_and(|begun| begun < until) => {
                    from = since.max(last.from).min(told);
                    last.until = Some(from);
                }
                // The clock may have been set back since.
                Some(until) => from = from.max(until).min(told),
                None => {
                    from = since.max(last.from).min(told);
                    last.until = Some(from);
                    self.ended.push_back((told, address));
                }
            }
        }
        if held.len() >= Self::OF_ONE {
            held.remove(0);
        }
        held.push(Tenancy { tenant, from, until: None });
        self.forget(told);
    }

    /// At `told` it is known that `address` still is `tenant`'s, who was told to hold it before: unless
    /// somebody else took it up since, and still holds it.
    pub(crate) fn keep(
        &mut self,
        address: IpAddr,
        tenant: T,
        since: Option<WallTime>,
        told: WallTime,
    ) {
        let last = self.of.get(&address).and_then(|held| held.last());
        if last.is_none_or(|last| last.until.is_some()) {
            self.begin(address, tenant, since, told);
        }
    }

    /// `tenant` holds `address` no more, if it still did.
    pub(crate) fn end(&mut self, address: IpAddr, tenant: &T, at: WallTime) {
        let Some(held) = self.of.get_mut(&address) else { return };
        if let Some(last) = held.iter_mut().find(|it| it.tenant == *tenant && it.until.is_none()) {
            last.until = Some(at.max(last.from));
            self.ended.push_back((at, address));
        }
        self.forget(at);
    }

    /// Who held it at that moment.
    pub(crate) fn at(&self, address: IpAddr, moment: WallTime) -> Option<&T> {
        let held = self.of.get(&address)?;
        let holds = |it: &&Tenancy<T>| it.from <= moment && it.until.is_none_or(|end| moment < end);
        held.iter().rev().find(holds).map(|it| &it.tenant)
    }

    /// Who held it last, where they had left it not long before that moment and nobody took it up since.
    pub(crate) fn left_at(&self, address: IpAddr, moment: WallTime) -> Option<&T> {
        let last = self.of.get(&address)?.last()?;
        let until = last.until?;
        let is_recent = until <= moment && moment < until.plus_seconds(Self::MISSED_S);
        is_recent.then_some(&last.tenant)
    }

    /// Since when it may be whose it is now, also nobody's; None where nobody ever held it. That it was
    /// left is told some time after it was.
    pub(crate) fn since(&self, address: IpAddr) -> Option<WallTime> {
        let last = self.of.get(&address)?.last()?;
        let left = last.until.map(|until| until.plus_seconds(-Self::UNTOLD_S).max(last.from));
        Some(left.unwrap_or(last.from))
    }

    /// Whether it may still be told that `address` was somebody else's by then than who is known to have
    /// held it: that one was about to leave.
    pub(crate) fn may_be_another_s(&self, address: IpAddr, moment: WallTime) -> bool {
        let last = self.of.get(&address).and_then(|held| held.last());
        last.and_then(|last| last.until)
            .is_some_and(|until| moment < until && until <= moment.plus_seconds(Self::UNTOLD_S))
    }

    /// Forgets what ended long ago.
    fn forget(&mut self, now: WallTime) {
        let old = now.plus_seconds(-Self::REMEMBERED_S);
        while let Some(&(at, address)) = self.ended.front()
            && (at < old || self.ended.len() > Self::ENDED)
        {
            self.ended.pop_front();
            let Some(held) = self.of.get_mut(&address) else { continue };
            if let Some(first) = held.iter().position(|it| it.until.is_some()) {
                held.remove(first);
            }
            if held.is_empty() {
                self.of.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const fn second(second: i64) -> WallTime {
        WallTime(second * 1_000_000)
    }

    const fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }

    #[test]
    fn an_address_is_whose_it_was_at_that_moment() {
        let mut held = Tenancies::default();
        held.begin(address(1), "a", Some(second(10)), second(10));
        held.end(address(1), &"a", second(20));
        assert_eq!(held.since(address(1)), Some(second(10)), "it may have been left before");
        let may_be = |moment| held.may_be_another_s(address(1), second(moment));
        assert_eq!([9, 10, 19, 20].map(may_be), [false, true, true, false]);
        held.begin(address(1), "b", Some(second(21)), second(22));
        assert!(!held.may_be_another_s(address(1), second(19)));
        let at = |moment| held.at(address(1), second(moment)).copied();
        assert_eq!(held.since(address(1)), Some(second(20)));
        assert_eq!(held.since(address(2)), None);
        assert_eq!(
            [-1, 0, 19, 20, 21, 99].map(at),
            [None, Some("a"), Some("a"), Some("b"), Some("b"), Some("b")]
        );
    }

    #[test]
    fn who_is_said_to_have_begun_before_the_last_one_was_told_gone_did() {
        let mut held = Tenancies::default();
        held.begin(address(1), "a", Some(second(10)), second(10));
        held.end(address(1), &"a", second(20));
        held.begin(address(1), "b", Some(second(18)), second(21));
        let at = |moment| held.at(address(1), second(moment)).copied();
        assert_eq!([17, 18, 20].map(at), [Some("a"), Some("b"), Some("b")]);
        assert_eq!(held.since(address(1)), Some(second(18)));
    }

    #[test]
    fn who_takes_an_address_up_ends_whoever_held_it_and_is_not_ended_by_them() {
        let mut held = Tenancies::default();
        held.begin(address(1), "a", Some(second(10)), second(10));
        held.begin(address(1), "b", None, second(20));
        // Told late.
        held.end(address(1), &"a", second(25));
        let at = |moment| held.at(address(1), second(moment)).copied();
        assert_eq!([15, 20, 30].map(at), [Some("a"), Some("b"), Some("b")]);
    }

    #[test]
    fn who_is_told_late_held_it_since_whoever_did_before_left() {
        let mut held = Tenancies::default();
        held.begin(address(1), "a", None, second(100));
        held.end(address(1), &"a", second(120));
        held.begin(address(1), "b", None, second(123));
        let at = |moment| held.at(address(1), second(moment)).copied();
        assert_eq!([89, 90, 119, 120].map(at), [None, Some("a"), Some("a"), Some("b")]);
    }

    #[test]
    fn an_address_that_another_took_up_is_not_taken_back_by_being_told_again() {
        let mut held = Tenancies::default();
        held.begin(address(1), "a", None, second(10));
        held.begin(address(1), "b", None, second(20));
        held.keep(address(1), "a", None, second(30));
        assert_eq!(held.at(address(1), second(30)), Some(&"b"));
        held.end(address(1), &"b", second(40));
        assert_eq!(held.at(address(1), second(45)), None);
        held.keep(address(1), "a", None, second(50));
        let at = |moment| held.at(address(1), second(moment)).copied();
        assert_eq!([30, 45, 50].map(at), [Some("b"), Some("a"), Some("a")]);
    }

    #[test]
    fn who_is_told_to_hold_an_address_does_whatever_the_clocks_say() {
        let mut held = Tenancies::default();
        held.begin(address(1), "a", Some(second(500)), second(100));
        assert_eq!(held.at(address(1), second(100)), Some(&"a"));
        held.begin(address(1), "b", Some(second(500)), second(110));
        assert_eq!(held.at(address(1), second(110)), Some(&"b"));
        held.end(address(1), &"b", second(120));
        // Set back by a minute.
        held.begin(address(1), "c", None, second(60));
        assert_eq!(held.at(address(1), second(60)), Some(&"c"));
        assert_eq!(held.at(address(1), second(130)), Some(&"c"));
    }

    #[test]
    fn who_only_ever_takes_addresses_over_is_bounded_too() {
        let mut held = Tenancies::default();
        for round in 0..40_000_i64 {
            let last = u8::try_from(round % 200).unwrap();
            held.begin(address(last), round, None, second(0));
        }
        assert!(held.ended.len() <= Tenancies::<i64>::ENDED, "{}", held.ended.len());
        assert!(held.of.values().all(|it| it.len() <= Tenancies::<i64>::OF_ONE));
        let now = held.of.values().filter(|it| it.last().unwrap().until.is_none());
        assert_eq!(now.count(), 200);
    }

    #[test]
    fn what_was_left_is_forgotten_by_age_and_number() {
        let mut held = Tenancies::default();
        for round in 0..40_000_i64 {
            let last = u8::try_from(round % 200).unwrap();
            held.begin(address(last), round, None, second(round));
            held.end(address(last), &round, second(round));
        }
        assert!(held.ended.len() <= Tenancies::<i64>::ENDED);
        assert!(held.of.values().all(|it| it.len() <= Tenancies::<i64>::OF_ONE));
        held.begin(address(201), 1, None, second(50_000));
        held.end(address(201), &1, second(50_001));
        assert_eq!(held.of.len(), 1);
    }
}
