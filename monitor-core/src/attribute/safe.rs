//! Keeps what processes say of themselves out of the way of whoever reads it: bounded, safe text. Judges
//! nothing of it.

use std::sync::Arc;

use crate::edge::{executable_name, is_executable_name};
use crate::flow::{Ancestor, Process};

/// What a process says of itself, as safe text.
pub(crate) fn safe_process(process: Arc<Process>) -> Arc<Process> {
    if is_safe_process(&process) {
        return process;
    }
    let name = |path: &Option<String>| path.as_deref().map(executable_name);
    let ancestor = |it: &Ancestor| Ancestor { pid: it.pid, executable: name(&it.executable) };
    Arc::new(Process {
        executable: name(&process.executable),
        command: executable_name(&process.command),
        ancestors: process.ancestors.iter().take(Process::ANCESTORS).map(ancestor).collect(),
        ..*process
    })
}

/// As nearly all are.
fn is_safe_process(process: &Process) -> bool {
    let names = process.ancestors.iter().map(|it| &it.executable).chain([&process.executable]);
    let mut texts = names.flatten().chain([&process.command]);
    process.ancestors.len() <= Process::ANCESTORS && texts.all(|it| is_executable_name(it))
}
