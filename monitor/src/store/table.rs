//! The tables: how a change becomes a row and how rows become the snapshot again.

use std::ops::Bound;
use std::path::Path;
use std::str::FromStr;

use monitor_core::baseline::EdgeRecord;
use monitor_core::directory::Key as Known;
use monitor_core::edge::Edge;
use monitor_core::engine::{Change, Snapshot};
use monitor_core::ids::ServiceName;
use redb::{
    CursorError, Key, ReadTransaction, ReadableTable as _, ReadableTableMetadata as _, Table,
    TableDefinition, TableHandle as _, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::{Store, StoreError};

pub(crate) const META: TableDefinition<&str, &str> = TableDefinition::new("meta");
pub(crate) const FORMAT: &str = "format";
pub(crate) const PROGRAM: &str = "program";
pub(crate) const ALIVE: &str = "alive";
pub(crate) const TABLES_OF: &str = "tables";

const SERVICES: Texts = TableDefinition::new("services");
const EDGES: Texts = TableDefinition::new("edges");
const INCIDENTS: Texts = TableDefinition::new("incidents");
const DELIVERIES: Numbers = TableDefinition::new("deliveries");
const HELD: Texts = TableDefinition::new("held");
const MUTES: Texts = TableDefinition::new("mutes");
const KNOWN: Texts = TableDefinition::new("known");
const TOLD: Numbers = TableDefinition::new("told");
pub(crate) const AUDIT: Numbers = TableDefinition::new("audit");

type Texts = TableDefinition<'static, &'static str, &'static [u8]>;
type Numbers = TableDefinition<'static, u64, &'static [u8]>;

/// So many edges are put into order at once.
const EDGES_AT_ONCE: usize = 4096;

/// Edges that are this part of all are taken out before they are put back.
const MUCH_OF: u64 = 8;
/// Fewer are not.
const FEW: u64 = 64;

/// The tables that hold the state.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Name {
    Services,
    Edges,
    Incidents,
    Deliveries,
    Held,
    Mutes,
    Known,
    Audit,
    Told,
}

pub(crate) const TABLES: [Name; 9] = [
    Name::Services,
    Name::Edges,
    Name::Incidents,
    Name::Deliveries,
    Name::Held,
    Name::Mutes,
    Name::Known,
    Name::Audit,
    Name::Told,
];

/// Tables that the first states of this format did not have.
const LATER: [Name; 4] = [Name::Held, Name::Mutes, Name::Known, Name::Told];

impl Name {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Edges => "edges",
            Self::Incidents => "incidents",
            Self::Deliveries => "deliveries",
            Self::Held => "held",
            Self::Mutes => "mutes",
            Self::Known => "known",
            Self::Audit => "audit",
            Self::Told => "told",
        }
    }
}

/// The tables, open for writing: opened once for all changes of a transaction.
pub(crate) struct Tables<'t> {
    services: Table<'t, &'static str, &'static [u8]>,
    edges: Table<'t, &'static str, &'static [u8]>,
    incidents: Table<'t, &'static str, &'static [u8]>,
    deliveries: Table<'t, u64, &'static [u8]>,
    held: Table<'t, &'static str, &'static [u8]>,
    mutes: Table<'t, &'static str, &'static [u8]>,
    known: Table<'t, &'static str, &'static [u8]>,
    audit: Table<'t, u64, &'static [u8]>,
    told: Table<'t, u64, &'static [u8]>,
    meta: Table<'t, &'static str, &'static str>,
}

impl<'t> Tables<'t> {
    pub(crate) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            services: transaction.open_table(SERVICES)?,
            edges: transaction.open_table(EDGES)?,
            incidents: transaction.open_table(INCIDENTS)?,
            deliveries: transaction.open_table(DELIVERIES)?,
            held: transaction.open_table(HELD)?,
            mutes: transaction.open_table(MUTES)?,
            known: transaction.open_table(KNOWN)?,
            audit: transaction.open_table(AUDIT)?,
            told: transaction.open_table(TOLD)?,
            meta: transaction.open_table(META)?,
        })
    }

    /// Writes changes: one, or such of edges that follow one another.
    pub(crate) fn apply(&mut self, changes: &[Change]) -> Result<(), redb::Error> {
        for edges in changes.chunks(EDGES_AT_ONCE) {
            match edges {
                [Change::Edge(..), ..] => self.apply_edges(edges)?,
                others => others.iter().try_for_each(|change| self.apply_one(change))?,
            }
        }
        Ok(())
    }

    /// In the order of the table, in which new rows that are neighbours are put side by side and not
    /// each into its place: half of the time of a burst.
    fn apply_edges(&mut self, changes: &[Change]) -> Result<(), redb::Error> {
        let rows = changes.iter().filter_map(|change| match change {
            Change::Edge(edge, record) => Some((edge.to_string(), record.as_deref())),
            _ => None,
        });
        let mut rows: Vec<(String, Option<&EdgeRecord>)> = rows.collect();
        // Stable: what comes later holds.
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        if rows.len() as u64 >= (self.edges.len()? / MUCH_OF).max(FEW) {
            self.take_out(&rows)?;
        }
        let mut value = Vec::new();
        let mut rows = rows.into_iter().peekable();
        while let Some((edge, record)) = rows.next() {
            let Some(record) = record else {
                self.edges.remove(edge.as_str())?;
                continue;
            };
            pack(&mut value, record)?;
            if self.edges.insert(edge.as_str(), value.as_slice())?.is_some() {
                continue;
            }
            let mut gap = self.edges.upper_bound_mut(Bound::Included(edge.as_str()))?;
            while let Some((edge, Some(record))) = rows.peek() {
                pack(&mut value, record)?;
                match gap.insert_before(edge.as_str(), value.as_slice()) {
                    Ok(()) => drop(rows.next()),
                    // There is a row between them, or this is it.
                    Err(CursorError::UnorderedKey) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            gap.close()?;
        }
        Ok(())
    }

    /// Takes out what stands in the places of `rows`, which are in order: all at once, so that they are put
    /// side by side as if they were new. A row that is replaced in its place takes three times as long.
    fn take_out(&mut self, rows: &[(String, Option<&EdgeRecord>)]) -> Result<(), redb::Error> {
        let (Some((first, _)), Some((last, _))) = (rows.first(), rows.last()) else {
            return Ok(());
        };
        let mut rows = rows.iter().map(|(edge, _)| edge.as_str()).peekable();
        let stays = |edge: &str, _: &[u8]| {
            while rows.next_if(|it| *it < edge).is_some() {}
            rows.peek() != Some(&edge)
        };
        Ok(self.edges.retain_in(first.as_str()..=last.as_str(), stays)?)
    }

    fn apply_one(&mut self, change: &Change) -> Result<(), redb::Error> {
        match change {
            Change::Service(name, record) => {
                put(&mut self.services, name.as_str(), record.as_ref())
            }
            Change::Edge(..) => self.apply_edges(std::slice::from_ref(change)),
            Change::Incident(id, incident) => {
                put(&mut self.incidents, id.as_str(), incident.as_ref())
            }
            Change::Delivery(id, delivery) => put(&mut self.deliveries, *id, delivery.as_ref()),
            Change::Held(sink, held) => put(&mut self.held, sink.as_str(), Some(held)),
            Change::Mute(pattern, mute) => put(&mut self.mutes, pattern.as_str(), mute.as_ref()),
            Change::Known(key, subject) => {
                let Known { source, kind, id } = key;
                let text = format!("{source} {kind:?} {id}");
                let said = subject.as_ref().map(|it| (source, it));
                put(&mut self.known, text.as_str(), said.as_ref())
            }
            Change::Audit(number, entry) => {
                put(&mut self.audit, *number, Some(entry))?;
                if let Some(oldest) = number.checked_sub(Store::AUDIT) {
                    self.audit.remove(oldest)?;
                }
                Ok(())
            }
            Change::Alive(until) => {
                self.meta.insert(ALIVE, until.0.to_string().as_str())?;
                Ok(())
            }
            Change::Tables(name) => {
                self.meta.insert(TABLES_OF, name.as_str())?;
                Ok(self.told.retain(|_, _| false)?)
            }
            Change::Tallied(tallies) => {
                let last = self.told.last()?.map(|(number, _)| number.value());
                for (number, part) in (last.map_or(0, |last| last + 1)..).zip(tallies.parts()) {
                    self.told.insert(number, part)?;
                }
                Ok(())
            }
        }
    }
}

fn put<'k, K: Key + 'static>(
    table: &mut Table<K, &'static [u8]>,
    key: K::SelfType<'k>,
    value: Option<&impl Serialize>,
) -> Result<(), redb::Error> {
    match value {
        Some(value) => {
            let json = serde_json::to_vec(value)
                .map_err(|error| redb::Error::Io(std::io::Error::other(error)))?;
            table.insert(key, json.as_slice())?;
        }
        None => {
            table.remove(key)?;
        }
    }
    Ok(())
}

/// How an edge's record is written.
fn pack(value: &mut Vec<u8>, record: &EdgeRecord) -> Result<(), redb::Error> {
    value.clear();
    let packed = record.serialize(&mut rmp_serde::Serializer::new(value).with_struct_map());
    packed.map_err(|error| redb::Error::Io(std::io::Error::other(error)))
}

/// Removes what a format before this one had.
pub(crate) fn drop_old(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    const TALLIED: TableDefinition<&[u8], &[u8]> = TableDefinition::new("tallied");
    transaction.delete_table(TALLIED)?;
    Ok(())
}

/// Reads one table into its part of the snapshot.
pub(crate) fn load(
    path: &Path,
    transaction: &ReadTransaction,
    table: Name,
    snapshot: &mut Snapshot,
) -> Result<(), StoreError> {
    let read = |error: redb::Error| StoreError::read(path, error);
    // A state that was written before there were these tables holds nothing of them.
    if LATER.iter().any(|it| it.text() == table.text()) {
        let mut there = transaction.list_tables().map_err(|error| read(error.into()))?;
        if !there.any(|it| it.name() == table.text()) {
            return Ok(());
        }
    }
    match table {
        Name::Services => texts(path, transaction, SERVICES, |key, value| {
            let name = parse::<ServiceName>(path, table, key)?;
            snapshot.services.push((name, decode(path, table, key, value)?));
            Ok(())
        }),
        Name::Edges => texts(path, transaction, EDGES, |key, value| {
            let edge = parse::<Edge>(path, table, key)?;
            let record = match value {
                // As format 1 has it.
                [b'{', ..] => decode(path, table, key, value)?,
                packed => rmp_serde::from_slice(packed)
                    .map_err(|error| StoreError::record(path, table, key, error))?,
            };
            snapshot.edges.push((edge, record));
            Ok(())
        }),
        Name::Incidents => texts(path, transaction, INCIDENTS, |key, value| {
            snapshot.incidents.push(decode(path, table, key, value)?);
            Ok(())
        }),
        Name::Deliveries => {
            let rows = transaction.open_table(DELIVERIES).map_err(|error| read(error.into()))?;
            for row in rows.iter().map_err(|error| read(error.into()))? {
                let (id, value) = row.map_err(|error| read(error.into()))?;
                let key = id.value().to_string();
                snapshot.deliveries.push(decode(path, table, &key, value.value())?);
            }
            Ok(())
        }
        Name::Held => texts(path, transaction, HELD, |key, value| {
            snapshot.held.push((key.to_owned(), decode(path, table, key, value)?));
            Ok(())
        }),
        Name::Mutes => texts(path, transaction, MUTES, |key, value| {
            snapshot.mutes.push(decode(path, table, key, value)?);
            Ok(())
        }),
        Name::Known => texts(path, transaction, KNOWN, |key, value| {
            snapshot.known.push(decode(path, table, key, value)?);
            Ok(())
        }),
        Name::Audit => {
            let rows = transaction.open_table(AUDIT).map_err(|error| read(error.into()))?;
            let last = rows.last().map_err(|error| read(error.into()))?;
            snapshot.next_audit = last.map_or(0, |(number, _)| number.value() + 1);
            Ok(())
        }
        Name::Told => {
            let rows = transaction.open_table(TOLD).map_err(|error| read(error.into()))?;
            for row in rows.iter().map_err(|error| read(error.into()))? {
                let (number, part) = row.map_err(|error| read(error.into()))?;
                let taken = snapshot.tallied.take_up(part.value());
                taken.map_err(|error| StoreError::record(path, table, number.value(), error))?;
            }
            Ok(())
        }
    }
}

fn texts(
    path: &Path,
    transaction: &ReadTransaction,
    definition: Texts,
    mut take: impl FnMut(&str, &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let read = |error: redb::Error| StoreError::read(path, error);
    let rows = transaction.open_table(definition).map_err(|error| read(error.into()))?;
    for row in rows.iter().map_err(|error| read(error.into()))? {
        let (key, value) = row.map_err(|error| read(error.into()))?;
        take(key.value(), value.value())?;
    }
    Ok(())
}

fn parse<T: FromStr>(path: &Path, table: Name, key: &str) -> Result<T, StoreError>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    key.parse().map_err(|error: T::Err| StoreError::record(path, table, key, error))
}

fn decode<T: DeserializeOwned>(
    path: &Path,
    table: Name,
    key: &str,
    value: &[u8],
) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| StoreError::record(path, table, key, error))
}
