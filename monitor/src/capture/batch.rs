//! A hash map of the kernel's read whole, in few system calls. What its bytes mean is for others.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::maps::{HashMap as BpfHashMap, IterableMap as _, MapData};

use crate::capture::decode::{KeyBytes, StatsBytes};

/// A walk over every entry there is; one that stays in the map throughout is never left out.
///
/// `BPF_MAP_LOOKUP_BATCH` (since 5.6), which the library lacks: a thousand entries a call, bucket by
/// bucket, where a walk key by key starts over whenever its key is forgotten. The map's keys are of `K`
/// bytes, its values of `V`.
pub(super) struct Batch<const K: usize, const V: usize> {
    cursor: Cursor,
    count: usize,
    keys: Vec<[u8; K]>,
    values: Vec<[u8; V]>,
}

type Map<const K: usize, const V: usize> = BpfHashMap<MapData, [u8; K], [u8; V]>;

/// One over the map of what was seen.
pub(super) type SeenBatch = Batch<{ size_of::<KeyBytes>() }, { size_of::<StatsBytes>() }>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cursor {
    Start,
    /// The kernel's own mark of where to go on.
    At(u32),
    End,
}

/// The part of `union bpf_attr` that this command reads.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

impl<const K: usize, const V: usize> Batch<K, V> {
    const SIZE: usize = 1024;

    pub(super) fn new() -> Self {
        Self {
            cursor: Cursor::Start,
            count: 0,
            keys: vec![[0; K]; Self::SIZE],
            values: vec![[0; V]; Self::SIZE],
        }
    }

    /// Reads on; false when all was read.
    pub(super) fn read(&mut self, map: &Map<K, V>) -> io::Result<bool> {
        if self.cursor != Cursor::End {
            self.read_on(map.map().fd().as_fd())?;
            return Ok(true);
        }
        Ok(false)
    }

    /// What was read last: keys, and what stands under each.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&[u8; K], &[u8; V])> {
        self.keys.iter().zip(&self.values).take(self.count)
    }

    fn read_on(&mut self, map: BorrowedFd<'_>) -> io::Result<()> {
        let mut next: u32 = 0;
        let cursor = match &self.cursor {
            Cursor::At(cursor) => std::ptr::from_ref(cursor).addr() as u64,
            Cursor::Start | Cursor::End => 0,
        };
        let mut attr = BatchAttr {
            in_batch: cursor,
            out_batch: (&raw mut next).addr() as u64,
            keys: self.keys.as_mut_ptr().addr() as u64,
            values: self.values.as_mut_ptr().addr() as u64,
            count: u32::try_from(self.keys.len()).unwrap_or(0),
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute and the buffers it points to outlive the call; the buffers hold
        // `count` keys and values of the sizes that the map was checked to have when it was opened,
        // and a hash map's cursor is a `u32`.
        let result = unsafe {
            let size = size_of::<BatchAttr>();
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size)
        };
        // Read before anything else can set it.
        let error = io::Error::last_os_error();
        self.count = 0;
        match error.raw_os_error() {
            _ if result == 0 => self.cursor = Cursor::At(next),
            Some(libc::ENOENT) => self.cursor = Cursor::End,
            Some(libc::ENOSPC) => {
                // A bucket of more than fit: as good as never, but no reason to give up.
                let room = self.keys.len() * 2;
                self.keys.resize(room, [0; K]);
                self.values.resize(room, [0; V]);
                return Ok(());
            }
            _ => return Err(error),
        }
        self.count = attr.count as usize;
        Ok(())
    }
}
