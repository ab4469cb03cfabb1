//! A file that can be written without being changed: reads come from the file, writes stay in memory
//! and lie over it. Lets the database examine and repair a copy that does not exist.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// The file and what was written over it.
#[derive(Debug)]
pub(crate) struct Shadow {
    file: File,
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    /// Length as the writer sees it.
    len: u64,
    /// Bytes of the file that still show: it may have been shortened and lengthened since.
    shown: u64,
    /// Blocks that were written, by number.
    blocks: BTreeMap<u64, Box<Block>>,
}

type Block = [u8; BLOCK];
const BLOCK: usize = 4096;

impl Shadow {
    pub(crate) fn of(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, over: Mutex::new(Over { len, shown: len, blocks: BTreeMap::new() }) })
    }

    /// Nothing can be half-done inside: a poisoned lock is as good as another.
    fn over(&self) -> MutexGuard<'_, Over> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block as the file has it, zeros where it has nothing.
    fn original(&self, number: u64, shown: u64) -> io::Result<Box<Block>> {
        let mut block = Box::new([0; BLOCK]);
        let start = number * BLOCK as u64;
        let there = usize::try_from(shown.saturating_sub(start)).unwrap_or(BLOCK).min(BLOCK);
        self.file.read_exact_at(&mut block[..there], start)?;
        Ok(block)
    }
}

/// The parts of `offset..offset + len` by block: its number, where in it, where in the whole.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = usize::try_from(at % BLOCK as u64).unwrap_or(0);
        let part = (BLOCK - within).min(len - done);
        let range = done..done + part;
        done += part;
        Some((at / BLOCK as u64, within, range))
    })
}

impl StorageBackend for Shadow {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let over = self.over();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > over.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, within, range) in parts(offset, out.len()) {
            let until = within + range.len();
            match over.blocks.get(&number) {
                Some(block) => out[range].copy_from_slice(&block[within..until]),
                None => {
                    let block = self.original(number, over.shown)?;
                    out[range].copy_from_slice(&block[within..until]);
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut over = self.over();
        over.len = len;
        over.shown = over.shown.min(len);
        over.blocks.retain(|number, _| number * BLOCK as u64 <= len);
        if let Some(mut last) = over.blocks.last_entry() {
            let start = last.key() * BLOCK as u64;
            let there = usize::try_from(len - start).unwrap_or(BLOCK).min(BLOCK);
            last.get_mut()[there..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut over = self.over();
        for (number, within, range) in parts(offset, data.len()) {
            if !over.blocks.contains_key(&number) {
                let block = self.original(number, over.shown)?;
                over.blocks.insert(number, block);
            }
            if let Some(block) = over.blocks.get_mut(&number) {
                block[within..within + range.len()].copy_from_slice(&data[range]);
            }
        }
        over.len = over.len.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_lie_over_the_file_and_never_in_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let shadow = Shadow::of(File::open(file.path()).unwrap()).unwrap();
        let mut model = bytes.clone();

        shadow.write(4090, b"over the edge").unwrap();
        model[4090..4103].copy_from_slice(b"over the edge");
        shadow.set_len(4096).unwrap();
        model.truncate(4096);
        shadow.set_len(9000).unwrap();
        model.resize(9000, 0);
        shadow.write(8990, b"0123456789").unwrap();
        model[8990..].copy_from_slice(b"0123456789");

        let mut read = vec![0; 9000];
        shadow.read(0, &mut read).unwrap();
        assert!(read == model);
        assert!(shadow.read(1, &mut read).is_err());
        assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    }
}
