//! `test`: set-up, checks, then the tests of every crate; then those that need a kernel, on other
//! kernels first and on the running one last.

use std::process::{Command, ExitCode};

use crate::check;
use crate::kernels::{self, Built, Depth, KERNELS};
use crate::machine;
use crate::stage::Stages;
use crate::tools;
use crate::workspace::Workspace;

/// Which tests are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Everything,
    /// All that needs no virtual machine.
    ThisKernel,
    Unprivileged,
}

/// Runs the tests of `scope`. Nothing is printed after the last of them: its closing line is ours.
pub(crate) fn run(workspace: &Workspace, scope: Scope) -> anyhow::Result<ExitCode> {
    let stages = Stages::start();
    check::all(workspace, &stages)?;
    let unprivileged = verdict(&stages, "test", workspace.cargo().arg("test"))?;
    if unprivileged != ExitCode::SUCCESS || scope == Scope::Unprivileged {
        return Ok(unprivileged);
    }
    machine::require_root(
        "the end-to-end tests load kernel programs and need root (--unprivileged leaves them out)",
        "test",
    )?;
    let built = Built::build(workspace, &stages, Depth::Quick)?;
    if scope == Scope::Everything {
        kernels::test(workspace, &stages, &built, KERNELS)?;
    }
    let tools = tools::ensure(workspace)?;
    // The end-to-end tests start the program itself, not a copy linked into them.
    verdict(
        &stages,
        "end to end",
        workspace
            .cargo()
            .args(["test", "--package", "tests", "--all-targets"])
            .env("EDGEWATCH_BIN", &built.program)
            .env("EDGEWATCH_TEST_TOOLS", tools),
    )
}

/// Runs one `cargo test` and hands its verdict on, without a word of ours below its own.
fn verdict(stages: &Stages, name: &str, command: &mut Command) -> anyhow::Result<ExitCode> {
    let status = stages.status(name, command)?;
    Ok(match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) => ExitCode::from(code),
        None => ExitCode::FAILURE,
    })
}
