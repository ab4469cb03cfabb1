//! Whom a service is known to talk to, found without walking all there are: a scan by one service, or
//! a large node, must not make every judgement dear. Judges nothing.

use std::cell::RefCell;
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::baseline::table::{Place, Table};
use crate::baseline::{Allowance, Baseline, EdgeRecord};
use crate::edge::{Edge, Peer, Port};
use crate::executables::Executables;
use crate::ids::{ServiceName, WallTime};

/// What holds the allowances of an edge.
pub(super) trait Allowing {
    fn allowed(&self) -> &[Allowance];
}

impl Allowing for EdgeRecord {
    fn allowed(&self) -> &[Allowance] {
        &self.allowed
    }
}

impl Allowing for Vec<Allowance> {
    fn allowed(&self) -> &[Allowance] {
        self
    }
}

/// The edges of a table that have an allowance, under each of their services.
#[derive(Debug)]
pub(super) struct Known {
    services: HashMap<ServiceName, Ends, FixedState>,
    /// By place: whether it is entered.
    entered: Vec<bool>,
}

/// The edges of one service.
#[derive(Debug, Default)]
struct Ends {
    sorted: RefCell<Arc<Sorted>>,
    /// Entered since they were sorted: whoever learns adds many before anybody asks.
    added: RefCell<Vec<Place>>,
    /// What it dials with, in order; None where that must be looked for.
    executables: RefCell<Option<Arc<[Arc<str>]>>>,
}

/// The edges of one service in the orders in which they are asked for.
#[derive(Debug, Default, Clone)]
struct Sorted {
    /// Those it dials.
    dialled: Vec<Place>,
    dialled_by_port: Vec<Place>,
    /// Those by which it is dialled.
    served: Vec<Place>,
    served_by_port: Vec<Place>,
    listens: Vec<Place>,
    /// Unusual sockets that it made.
    opens: Vec<Place>,
    /// It dials itself: those stand in both lists.
    own: usize,
}

impl Known {
    /// `seed` keys the table: it holds what strangers choose.
    pub(super) fn new(seed: u64) -> Self {
        Self { services: HashMap::with_hasher(FixedState::with_seed(seed)), entered: Vec::new() }
    }

    /// All of `table` that have an allowance.
    pub(super) fn of<T: Allowing>(table: &Table<Edge, T>, seed: u64) -> Self {
        let mut known = Self::new(seed);
        for (edge, _) in table.iter().filter(|(_, value)| !value.allowed().is_empty()) {
            if let Some(place) = table.place_of(edge) {
                known.enter(edge, place);
            }
        }
        known
    }

    pub(super) fn enter(&mut self, edge: &Edge, place: Place) {
        if self.entered.len() <= place.index() {
            self.entered.resize(place.index() + 1, false);
        }
        if let Some(ends) = edge.client.service().and_then(|it| self.services.get_mut(it)) {
            *ends.executables.get_mut() = None;
        }
        if std::mem::replace(&mut self.entered[place.index()], true) {
            return;
        }
        let mut before = None;
        for service in edge.services().filter(|it| before.replace(*it) != Some(*it)) {
            self.services.entry_ref(service).or_default().added.get_mut().push(place);
        }
    }

    pub(super) fn leave(&mut self, edge: &Edge, place: Place) {
        let entered = self.entered.get_mut(place.index());
        if !entered.is_some_and(|it| std::mem::replace(it, false)) {
            return;
        }
        for service in edge.services() {
            if let Some(ends) = self.services.get_mut(service) {
                *ends.executables.get_mut() = None;
                ends.added.get_mut().retain(|it| *it != place);
                Arc::make_mut(ends.sorted.get_mut()).leave(edge, place);
            }
        }
    }

    /// The edges of `service`, in order.
    fn sorted<T>(&self, table: &Table<Edge, T>, service: &ServiceName) -> Arc<Sorted>
    where
        T: Allowing,
    {
        let Some(ends) = self.services.get(service) else {
            return Arc::default();
        };
        let added = ends.added.take();
        let mut sorted = ends.sorted.borrow_mut();
        if !added.is_empty() {
            Arc::make_mut(&mut sorted).take_in(table, service, &added);
        }
        Arc::clone(&sorted)
    }

    /// Where the edges of `service` are kept; who dials himself comes twice.
    pub(super) fn places_of<T>(&self, table: &Table<Edge, T>, service: &ServiceName) -> Vec<Place>
    where
        T: Allowing,
    {
        let sorted = self.sorted(table, service);
        [&sorted.dialled, &sorted.served, &sorted.listens, &sorted.opens]
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    /// The executables with which `service` is known to dial, in order.
    fn executables<T>(&self, table: &Table<Edge, T>, service: &ServiceName) -> Arc<[Arc<str>]>
    where
        T: Allowing,
    {
        let sorted = self.sorted(table, service);
        let Some(ends) = self.services.get(service) else {
            return Arc::default();
        };
        let look = || {
            let rows = sorted.dialled.iter().filter_map(|place| table.at(*place));
            let allowed = rows.flat_map(|(_, value)| value.allowed());
            let executables: Executables =
                allowed.flat_map(|it| it.executables.shared().cloned()).collect();
            executables.shared().cloned().collect()
        };
        Arc::clone(ends.executables.borrow_mut().get_or_insert_with(look))
    }
}

impl Sorted {
    fn take_in<T>(&mut self, table: &Table<Edge, T>, service: &ServiceName, added: &[Place])
    where
        T: Allowing,
    {
        for place in added {
            let Some((edge, _)) = table.at(*place) else {
                continue;
            };
            if edge.is_listener() {
                self.listens.push(*place);
                continue;
            }
            if edge.opens().is_some() {
                self.opens.push(*place);
                continue;
            }
            let dials = edge.client.service() == Some(service);
            let serves = edge.server.service() == Some(service);
            if dials {
                self.dialled.push(*place);
                self.dialled_by_port.push(*place);
            }
            if serves {
                self.served.push(*place);
                self.served_by_port.push(*place);
            }
            self.own += usize::from(dials && serves);
        }
        let edge = |place: &Place| table.at(*place).map(|(edge, _)| edge);
        let served = |place: &Place| edge(place).map(|edge| (&edge.client, edge.port));
        let by_port = |place: &Place| edge(place).map(|edge| (edge.port, edge));
        // What was in order before is found to be so: sorting is a merge.
        self.dialled.sort_by_key(edge);
        self.served.sort_by_key(served);
        self.listens.sort_by_key(edge);
        self.opens.sort_by_key(edge);
        self.dialled_by_port.sort_by_key(by_port);
        self.served_by_port.sort_by_key(by_port);
    }

    fn leave(&mut self, edge: &Edge, place: Place) {
        let before = self.dialled.len() + self.served.len();
        let lists = [
            &mut self.dialled,
            &mut self.dialled_by_port,
            &mut self.served,
            &mut self.served_by_port,
            &mut self.listens,
            &mut self.opens,
        ];
        for list in lists {
            list.retain(|it| *it != place);
        }
        // It stood in both lists where it was both.
        let left = before - self.dialled.len() - self.served.len();
        self.own -= usize::from(left == 2 && edge.client == edge.server);
    }
}

/// The edges of one service that are allowed at one time, by who is at their other end: what the files
/// say, and what is stored.
#[derive(Debug)]
pub struct Circle<'a> {
    wall: WallTime,
    written: Half<'a, Vec<Allowance>>,
    stored: Half<'a, EdgeRecord>,
    executables: Arc<[Arc<str>]>,
}

#[derive(Debug)]
struct Half<'a, T> {
    table: &'a Table<Edge, T>,
    sorted: Arc<Sorted>,
}

/// Which of its orders.
type List = fn(&Sorted) -> &[Place];

impl<'a, T: Allowing> Half<'a, T> {
    fn new(known: &Known, table: &'a Table<Edge, T>, service: &ServiceName) -> Self {
        Self { table, sorted: known.sorted(table, service) }
    }

    /// The part of a list whose edges `key` makes `wanted` of; the list is in the order of `key`.
    fn part<K: Ord>(&self, list: List, wanted: K, key: impl Fn(&'a Edge) -> K) -> &[Place] {
        let list = list(&self.sorted);
        let wanted = Some(wanted);
        let key = |place: &Place| self.table.at(*place).map(|(edge, _)| key(edge));
        let start = list.partition_point(|it| key(it) < wanted);
        let length = list[start..].partition_point(|it| key(it) <= wanted);
        &list[start..start + length]
    }

    /// What of them is allowed at `wall`; an edge with several allowances comes once for each.
    fn holding(
        &self,
        list: &[Place],
        wall: WallTime,
    ) -> impl Iterator<Item = (&'a Edge, &'a Allowance)> {
        let rows = list.iter().filter_map(|place| self.table.at(*place));
        rows.flat_map(|(edge, value)| value.allowed().iter().map(move |it| (edge, it)))
            .filter(move |(_, it)| !it.grounds.expired(wall))
    }
}

/// Some of the edges of a [`Circle`].
#[derive(Debug)]
pub struct Listed<'c, 'a> {
    circle: &'c Circle<'a>,
    written: &'c [Place],
    stored: &'c [Place],
}

impl<'a> Listed<'_, 'a> {
    /// What the files say, then what is stored, each in order; an edge with several allowances comes
    /// once for each.
    pub fn iter(&self) -> impl Iterator<Item = (&'a Edge, &'a Allowance)> {
        let Circle { wall, written, stored, .. } = self.circle;
        written.holding(self.written, *wall).chain(stored.holding(self.stored, *wall))
    }

    /// The first edge of all.
    #[must_use]
    pub fn first(&self) -> Option<&'a Edge> {
        let Circle { wall, written, stored, .. } = self.circle;
        let written = written.holding(self.written, *wall).next();
        let stored = stored.holding(self.stored, *wall).next();
        written.into_iter().chain(stored).map(|(edge, _)| edge).min()
    }
}

impl<'a> Circle<'a> {
    pub(super) fn new(baseline: &'a Baseline, service: &ServiceName, wall: WallTime) -> Self {
        let Baseline { known, edges, known_by_files, written, .. } = baseline;
        Self {
            wall,
            written: Half::new(known_by_files, written, service),
            stored: Half::new(known, edges, service),
            executables: known.executables(edges, service),
        }
    }

    /// Those that it dials.
    #[must_use]
    pub fn dialled(&self) -> Listed<'_, 'a> {
        self.all(|it| &it.dialled)
    }

    /// Those by which it is dialled.
    #[must_use]
    pub fn served(&self) -> Listed<'_, 'a> {
        self.all(|it| &it.served)
    }

    /// The ports that it opened.
    #[must_use]
    pub fn listens(&self) -> Listed<'_, 'a> {
        self.all(|it| &it.listens)
    }

    /// The unusual sockets that it made.
    #[must_use]
    pub fn opens(&self) -> Listed<'_, 'a> {
        self.all(|it| &it.opens)
    }

    /// Those by which it dials `server`.
    #[must_use]
    pub fn dialled_to<'s>(&'s self, server: &'s Peer) -> Listed<'s, 'a> {
        self.part(|it| &it.dialled, server, |edge| &edge.server)
    }

    /// Those by which `client` dials it.
    #[must_use]
    pub fn served_to<'s>(&'s self, client: &'s Peer) -> Listed<'s, 'a> {
        self.part(|it| &it.served, client, |edge| &edge.client)
    }

    /// Those that it dials at this port.
    #[must_use]
    pub fn dialled_at(&self, port: Port) -> Listed<'_, 'a> {
        self.part(|it| &it.dialled_by_port, port, |edge| edge.port)
    }

    /// Those by which it is dialled at this port.
    #[must_use]
    pub fn served_at(&self, port: Port) -> Listed<'_, 'a> {
        self.part(|it| &it.served_by_port, port, |edge| edge.port)
    }

    /// What it dials with.
    #[must_use]
    pub fn executables(&self) -> Executables {
        let written = self.written.holding(&self.written.sorted.dialled, self.wall);
        let written = written.flat_map(|(_, it)| it.executables.shared());
        written.chain(self.executables.iter()).cloned().collect()
    }

    /// How many edges it has; ports that it opened and sockets that it made are none.
    #[must_use]
    pub fn edges(&self) -> usize {
        let stored = |place: &&Place| {
            let edge = self.written.table.at(**place).map(|(edge, _)| edge);
            let record = edge.and_then(|edge| self.stored.table.get(edge));
            record.is_some_and(|it| !it.allowed.is_empty())
        };
        let Sorted { dialled, served, .. } = &*self.written.sorted;
        let twice = dialled.iter().chain(served).filter(stored).count();
        let count = |it: &Sorted| it.dialled.len() + it.served.len() - it.own;
        (count(&self.stored.sorted) + count(&self.written.sorted)).saturating_sub(twice)
    }

    fn all(&self, list: List) -> Listed<'_, 'a> {
        let (written, stored) = (list(&self.written.sorted), list(&self.stored.sorted));
        Listed { circle: self, written, stored }
    }

    fn part<K: Ord + Copy>(
        &self,
        list: List,
        wanted: K,
        key: impl Fn(&'a Edge) -> K,
    ) -> Listed<'_, 'a> {
        let written = self.written.part(list, wanted, &key);
        let stored = self.stored.part(list, wanted, &key);
        Listed { circle: self, written, stored }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::{Provenance, Stated};

    fn edge(text: &str) -> Edge {
        text.parse().unwrap()
    }

    fn allowed() -> EdgeRecord {
        let allowance = Allowance {
            provenance: Provenance::Learned,
            since: WallTime(0),
            executables: Executables::default(),
            attempted_only: false,
            grounds: Stated::default(),
        };
        EdgeRecord { allowed: [allowance].into_iter().collect(), ..EdgeRecord::default() }
    }

    fn texts(listed: &Listed<'_, '_>) -> Vec<String> {
        listed.iter().map(|(edge, _)| edge.to_string()).collect()
    }

    #[test]
    fn a_service_is_known_by_what_it_dials_serves_and_opens() {
        let web: ServiceName = "systemd:web".parse().unwrap();
        let edges = [
            "systemd:web -> systemd:db 5432/tcp",
            "systemd:web -> systemd:api 443/tcp",
            "systemd:web -> systemd:api 80/tcp",
            "systemd:web -> systemd:web 9/tcp",
            "ip:192.0.2.1 -> systemd:web 443/tcp",
            "systemd:web listens 443/tcp",
            "systemd:api -> systemd:db 5432/tcp",
        ];
        let edges = edges.map(|it| (edge(it), allowed()));
        let mut baseline = Baseline::restore(Vec::new(), edges.to_vec(), 7);
        let circle = baseline.circle(&web, WallTime(0));
        assert_eq!(circle.edges(), 5);
        assert_eq!(texts(&circle.served()).len(), 2);
        assert_eq!(texts(&circle.listens()), ["systemd:web listens 443/tcp"]);
        let api = "systemd:api".parse().unwrap();
        let to_api = ["systemd:web -> systemd:api 80/tcp", "systemd:web -> systemd:api 443/tcp"];
        assert_eq!(texts(&circle.dialled_to(&api)), to_api);
        assert_eq!(circle.dialled().first(), Some(&edge(to_api[0])));
        let port = "5432/tcp".parse().unwrap();
        assert_eq!(texts(&circle.dialled_at(port)), ["systemd:web -> systemd:db 5432/tcp"]);
        assert_eq!(texts(&circle.served_at(port)), [""; 0]);

        // What is taken back is no longer known, also of who dials himself.
        for gone in ["systemd:web -> systemd:web 9/tcp", to_api[0]] {
            baseline.edge_mut(&edge(gone)).allowed.clear();
        }
        baseline.take_dirty();
        let circle = baseline.circle(&web, WallTime(0));
        assert_eq!(circle.edges(), 3);
        assert_eq!(texts(&circle.dialled_to(&api)), to_api[1..]);
    }
}
