//! The baseline files as the agent follows them: read whole at the start, re-read when they change. A
//! file that has become invalid keeps what the files said before.

use monitor_core::baseline::Written;
use monitor_core::baseline::document::{Parsed, written};
use monitor_core::detect::Trouble;
use monitor_core::engine::Input;
use monitor_core::ids::WallTime;

use crate::baseline_file;

pub(crate) struct Files {
    patterns: Vec<String>,
    /// What stands in the files counts as said when they were first read.
    at: WallTime,
    parsed: Vec<Parsed>,
    /// What the last look found wrong: told once.
    mistake: Option<String>,
}

impl Files {
    pub(crate) fn read(patterns: &[String], at: WallTime) -> anyhow::Result<Self> {
        let parsed = baseline_file::read_all(patterns, at)?;
        Ok(Self { patterns: patterns.to_vec(), at, parsed, mistake: None })
    }

    pub(crate) fn written(&self) -> Written {
        written(&self.parsed)
    }

    /// What the files say, if that is something else than before, or what is newly wrong with them.
    pub(crate) fn changed(&mut self) -> Option<Input> {
        match baseline_file::read_all(&self.patterns, self.at) {
            Ok(parsed) => {
                let mended = self.mistake.take().is_some();
                if parsed == self.parsed && !mended {
                    return None;
                }
                self.parsed = parsed;
                tracing::info!("the baseline files were read again");
                Some(Input::Files(self.written()))
            }
            Err(error) => {
                let mistake = format!("{:#}", anyhow::Error::new(error));
                if self.mistake.as_ref() == Some(&mistake) {
                    return None;
                }
                tracing::error!("{mistake}; what the files said before still holds");
                self.mistake = Some(mistake.clone());
                Some(Input::Trouble(Trouble::Files { mistake }))
            }
        }
    }
}
