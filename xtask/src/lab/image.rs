//! The application's images, made by hand out of busybox and a page that names them; nothing is fetched
//! from anywhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::lab::command::done;
use crate::lab::ground::Ground;

/// The two that the application is made of, one after the other.
pub(crate) const IMAGES: [&str; 2] = ["docker.io/library/lab:1", "docker.io/library/lab:2"];

/// Lays out what is in an image at `root`.
pub(crate) fn lay_out(ground: &Ground, root: &Path, page: &str) -> anyhow::Result<()> {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "run", "www"] {
        std::fs::create_dir_all(root.join(dir)).context("lay out an image")?;
    }
    std::fs::copy(&ground.parts.busybox, root.join("bin/busybox")).context("copy busybox")?;
    for applet in ["sh", "sleep", "wget", "timeout", "nslookup", "true"] {
        let link = root.join("bin").join(applet);
        if !link.is_symlink() {
            std::os::unix::fs::symlink("busybox", link).context("link to busybox")?;
        }
    }
    let files = [
        ("bin/serve", include_str!("serve")),
        ("etc/nsswitch.conf", "hosts: files dns\n"),
        ("www/index.html", page),
    ];
    for (name, text) in files {
        std::fs::write(root.join(name), text).with_context(|| format!("write {name}"))?;
    }
    done(Command::new("chmod").arg("755").arg(root.join("bin/serve"))).map(drop)
}

/// Makes an image, as every runtime loads one.
pub(crate) fn archive(ground: &Ground, image: &str) -> anyhow::Result<PathBuf> {
    let at = ground.at.join("image");
    let root = at.join("root");
    lay_out(ground, &root, image)?;
    let layer = at.join("layer.tar");
    let tar = |from: &Path, archive: &Path, names: &[&str]| {
        let mut tar = Command::new("tar");
        tar.args(["--owner=0", "--group=0", "-C"]).arg(from).arg("-cf").arg(archive).args(names);
        done(&mut tar)
    };
    tar(&root, &layer, &["."])?;
    let digest = done(Command::new("sha256sum").arg(&layer))?;
    let digest = digest.split_whitespace().next().context("sha256sum says nothing")?;
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::json!({
        "architecture": machine, "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = serde_json::json!([
        {"Config": "config.json", "RepoTags": [image], "Layers": ["layer.tar"]}
    ]);
    ground.write("image/config.json", &config.to_string())?;
    ground.write("image/manifest.json", &manifest.to_string())?;
    let archive = ground.at.join("image.tar");
    tar(&at, &archive, &["manifest.json", "config.json", "layer.tar"])?;
    Ok(archive)
}
