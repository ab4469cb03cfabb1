//! Recordings as files: opened by the name that a person gave, `-` being standard input or output,
//! and read line by line without trusting any of them to end.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::recording::{LineError, RecordedFlow, read_line};

/// A longer line is skipped unread.
pub(crate) const LONGEST: usize = 64 << 10;

/// Why a recording was not opened.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("open the recording {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} exists: name another file, or add to it with --append", path.display())]
    Exists { path: PathBuf },
    #[error("create the recording {}", path.display())]
    Create { path: PathBuf, source: io::Error },
}

/// Opens a recording to be read.
///
/// # Errors
/// It cannot be.
pub fn open(path: &Path) -> Result<Reader, RecordingError> {
    let input: Box<dyn Read> = if is_dash(path) {
        Box::new(io::stdin())
    } else {
        let failed = |source| RecordingError::Open { path: path.to_owned(), source };
        Box::new(File::open(path).map_err(failed)?)
    };
    Ok(Reader::new(input))
}

/// What becomes of a file that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Refused,
    Continued,
}

/// Opens a recording to be written: for its owner alone, since it says who talks to whom.
///
/// # Errors
/// It cannot be, or it exists and is not to be continued.
pub fn create(path: &Path, existing: Existing) -> Result<Box<dyn Write + Send>, RecordingError> {
    if is_dash(path) {
        return Ok(Box::new(io::stdout()));
    }
    let mut options = OpenOptions::new();
    options.mode(0o600);
    let opened = match existing {
        Existing::Refused => options.write(true).create_new(true).open(path),
        Existing::Continued => {
            options.read(true).append(true).create(true).open(path).and_then(on_a_new_line)
        }
    };
    match opened {
        Ok(file) => Ok(Box::new(file)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(RecordingError::Exists { path: path.to_owned() })
        }
        Err(source) => Err(RecordingError::Create { path: path.to_owned(), source }),
    }
}

/// What was cut off in the middle of a line spoils that line alone.
fn on_a_new_line(mut file: File) -> io::Result<File> {
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// Whether standard input or output is meant.
#[must_use]
pub fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Reads a recording in its order.
pub struct Reader {
    input: BufReader<Box<dyn Read>>,
    line: Vec<u8>,
    number: u64,
}

/// A line that is not blank, with its number.
#[derive(Debug)]
pub struct Numbered {
    pub number: u64,
    pub flow: Result<RecordedFlow, LineError>,
}

impl Reader {
    #[must_use]
    pub fn new(input: Box<dyn Read>) -> Self {
        Self { input: BufReader::with_capacity(1 << 16, input), line: Vec::new(), number: 0 }
    }

    /// The next line that is not blank; None at the end.
    ///
    /// # Errors
    /// The system refused.
    pub fn read(&mut self) -> io::Result<Option<Numbered>> {
        loop {
            self.line.clear();
            let most = LONGEST as u64 + 1;
            let length = (&mut self.input).take(most).read_until(b'\n', &mut self.line)?;
            if length == 0 {
                return Ok(None);
            }
            self.number += 1;
            let number = self.number;
            if length > LONGEST && !self.line.ends_with(b"\n") {
                self.input.skip_until(b'\n')?;
                return Ok(Some(Numbered { number, flow: Err(LineError::TooLong) }));
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some(Numbered { number, flow: read_line(&self.line) }));
            }
        }
    }
}
