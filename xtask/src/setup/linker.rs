//! `bpf-linker`: found on the search path, or built by `cargo install`. It must read the bitcode
//! its compiler writes, so it is built for the same LLVM.

use std::path::{Path, PathBuf};

use crate::machine;
use crate::setup::compiler::{Compiler, Sharing, output};

/// How `bpf-linker` is built for one compiler.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// Against the system's development files of LLVM, in this directory.
    SystemLlvm { prefix: PathBuf, feature: String },
    /// Loading, when it runs, the library its compiler brings.
    CompilersLlvm,
}

impl Recipe {
    /// The recipe for `compiler`, if there is one here.
    pub(crate) fn find(compiler: &Compiler) -> Option<Self> {
        let llvm = compiler.llvm()?;
        Self::choose(llvm, compiler.llvm_sharing(), Path::new("/usr/lib"))
    }

    fn choose(llvm: u32, sharing: Sharing, libraries: &Path) -> Option<Self> {
        let prefix = libraries.join(format!("llvm-{llvm}"));
        if (21..=23).contains(&llvm) && prefix.join("bin/llvm-config").exists() {
            return Some(Self::SystemLlvm { prefix, feature: format!("llvm-{llvm}") });
        }
        // The last version that can borrow the compiler's LLVM knows 22.
        (sharing == Sharing::Shared && llvm == 22).then_some(Self::CompilersLlvm)
    }

    /// What is passed to `cargo install`.
    pub(crate) fn arguments(&self) -> Vec<&str> {
        match self {
            Self::SystemLlvm { feature, .. } => {
                vec![
                    "bpf-linker@0.13.0",
                    "--locked",
                    "--no-default-features",
                    "--features",
                    feature,
                ]
            }
            Self::CompilersLlvm => vec!["bpf-linker@0.10.3", "--locked"],
        }
    }
}

/// Finds a linker that starts and, where the compiler is known, can read its bitcode.
pub(crate) fn find(compiler: Option<&Compiler>) -> Result<PathBuf, String> {
    let linker = machine::program("bpf-linker").ok_or("bpf-linker is not installed")?;
    let version = output(&linker, "--version")?;
    let borrows = version.trim().starts_with("bpf-linker 0.10.");
    if borrows && compiler.is_some_and(|compiler| compiler.llvm_sharing() == Sharing::Own) {
        return Err(format!(
            "{} takes LLVM from its compiler, and this compiler has none to share",
            linker.display()
        ));
    }
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_llvm_is_preferred_to_the_compilers() {
        let system = tempfile::tempdir().unwrap();
        let bin = system.path().join("llvm-22/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("llvm-config"), "").unwrap();
        let recipe = Recipe::choose(22, Sharing::Shared, system.path()).expect("there is one");
        assert_eq!(recipe.arguments().last(), Some(&"llvm-22"));
    }

    #[test]
    fn the_compilers_llvm_serves_where_its_version_is_known() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Recipe::choose(22, Sharing::Shared, empty.path()), Some(Recipe::CompilersLlvm));
        assert_eq!(Recipe::choose(23, Sharing::Shared, empty.path()), None);
        assert_eq!(Recipe::choose(22, Sharing::Own, empty.path()), None);
    }
}
