//! The state as a visitor sees it: who has it, whether it can be read. Makes nothing, takes no lock and
//! changes nothing; a state that an agent is writing is left alone.

use std::io;
use std::path::Path;

use crate::lock::{self, Holder};
use crate::store::{Store, StoreError, examine};

/// What is in a state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// No state: the first agent makes it.
    Nothing,
    /// An agent has it, and could read it when it started.
    Held(Holder),
    /// Of this program's format, and whole.
    Readable { services: usize, edges: usize, bytes: u64 },
}

impl Store {
    /// Looks into `dir`, reading all of the state.
    ///
    /// # Errors
    /// It is damaged, newer than this program, or may not be read.
    pub fn look(dir: &Path) -> Result<Look, StoreError> {
        let lock = dir.join(Self::LOCK);
        let holder = lock::holder(&lock).map_err(|source| StoreError::io("read", &lock, source))?;
        if let Some(holder) = holder {
            return Ok(Look::Held(holder));
        }
        let path = dir.join(Self::FILE);
        let bytes = match path.metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(StoreError::io("read", &path, source)),
        };
        if bytes == 0 {
            return Ok(Look::Nothing);
        }
        let snapshot = examine(&path)?;
        Ok(Look::Readable { services: snapshot.services.len(), edges: snapshot.edges.len(), bytes })
    }
}
