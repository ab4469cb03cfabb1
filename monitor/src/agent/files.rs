//! The baseline files as the agent follows them: read whole at the start, re-read when they change. A
//! file that has become invalid keeps what the files said before.

use monitor_core::baseline::Written;
use monitor_core::baseline::document::{Parsed, written};

use crate::baseline_file;

pub(crate) struct Files {
    patterns: Vec<String>,
    parsed: Vec<Parsed>,
    /// What the last look found wrong: told once.
    mistake: Option<String>,
}

impl Files {
    pub(crate) fn read(patterns: &[String]) -> anyhow::Result<Self> {
        let parsed = baseline_file::read_all(patterns)?;
        Ok(Self { patterns: patterns.to_vec(), parsed, mistake: None })
    }

    pub(crate) fn written(&self) -> Written {
        written(&self.parsed)
    }

    /// What the files say, if that is something else than before.
    pub(crate) fn changed(&mut self) -> Option<Written> {
        match baseline_file::read_all(&self.patterns) {
            Ok(parsed) => {
                self.mistake = None;
                if parsed == self.parsed {
                    return None;
                }
                self.parsed = parsed;
                tracing::info!("the baseline files were read again");
                Some(self.written())
            }
            Err(error) => {
                let mistake = format!("{:#}", anyhow::Error::new(error));
                if self.mistake.as_ref() != Some(&mistake) {
                    tracing::error!("{mistake}; what the files said before still holds");
                    self.mistake = Some(mistake);
                }
                None
            }
        }
    }
}
