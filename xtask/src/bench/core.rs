//! The crates' own benches: what the pure parts take, on one core.

use anyhow::{Context as _, bail};

use crate::bench::figure::Figure;
use crate::bench::report::Report;
use crate::interrupt::Interrupt;
use crate::workspace::Workspace;

const BENCHES: [(&str, &str); 2] = [("monitor-core", "steps"), ("monitor", "decode")];

pub(crate) fn measure(
    workspace: &Workspace,
    interrupt: &Interrupt,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut figures = Vec::new();
    for (package, bench) in BENCHES {
        interrupt.check()?;
        let mut cargo = workspace.cargo();
        cargo.args(["bench", "--package", package, "--bench", bench]);
        let output = cargo.output().with_context(|| format!("start the bench {bench}"))?;
        if !output.status.success() {
            bail!("the bench {bench}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.lines().filter(|line| line.starts_with('{')) {
            figures.push(Figure::read(line)?);
        }
    }
    report.figures("The pure parts", "On one core.", &figures);
    Ok(())
}
