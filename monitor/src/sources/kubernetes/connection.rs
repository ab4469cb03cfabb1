//! The way to the API server, as files tell it: read again once one of them has changed, since
//! certificates are replaced before they expire. Tokens are the library's to read again.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::Mutex;

use crate::sources::Setting;
use crate::sources::kubernetes::follow::innermost;

/// Where a pod finds its rights.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// How the API server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sources) enum Cluster {
    /// As every pod may: by its service account.
    Within,
    Kubeconfig(PathBuf),
}

impl Cluster {
    /// None where it is not to be asked.
    pub(in crate::sources) fn of(setting: &Setting) -> Option<Self> {
        let is_pod =
            || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(TOKEN).exists();
        match setting {
            Setting::Off => None,
            Setting::Auto => is_pod().then_some(Self::Within),
            Setting::Required => Some(Self::Within),
            Setting::At(path) => Some(Self::Kubeconfig(path.clone())),
        }
    }

    /// How it is reached by what its files say now, and which those are.
    pub(super) async fn config(&self) -> Result<(kube::Config, Vec<PathBuf>), String> {
        let (mut config, files) = match self {
            Self::Within => {
                let config = kube::Config::incluster().map_err(|error| {
                    format!("the pod's service account cannot be read: {}", innermost(&error))
                })?;
                (config, vec![PathBuf::from(CA)])
            }
            Self::Kubeconfig(path) => {
                let read = Kubeconfig::read_from(path).map_err(|error| {
                    format!("{} cannot be read: {}", path.display(), innermost(&error))
                })?;
                let files = named_in(path, &read);
                let options = KubeConfigOptions::default();
                let config = kube::Config::from_custom_kubeconfig(read, &options).await;
                let config = config.map_err(|error| {
                    format!("{} cannot be used: {}", path.display(), innermost(&error))
                })?;
                (config, files)
            }
        };
        // Every follower has its own patience.
        config.default_retry = false;
        Ok((config, files))
    }
}

/// The kubeconfig file, and those that it leans on.
fn named_in(path: &Path, read: &Kubeconfig) -> Vec<PathBuf> {
    let users = read.auth_infos.iter().filter_map(|it| it.auth_info.as_ref());
    let users = users.flat_map(|it| [&it.client_certificate, &it.client_key]);
    let clusters = read.clusters.iter().filter_map(|it| it.cluster.as_ref());
    let named = users.chain(clusters.map(|it| &it.certificate_authority)).flatten();
    std::iter::once(path.to_owned()).chain(named.map(PathBuf::from)).collect()
}

/// What tells a file from the one that took its place.
type Mark = Option<(u64, u64, Option<SystemTime>)>;

fn mark(path: &Path) -> Mark {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.len(), found.modified().ok()))
}

#[derive(Debug)]
struct Files(Vec<(PathBuf, Mark)>);

impl Files {
    fn as_they_are(paths: Vec<PathBuf>) -> Self {
        Self(
            paths
                .into_iter()
                .map(|path| (mark(&path), path))
                .map(|(it, path)| (path, it))
                .collect(),
        )
    }

    fn have_changed(&self) -> bool {
        self.0.iter().any(|(path, before)| mark(path) != *before)
    }
}

/// The way as it was read last.
pub(super) struct Connection {
    cluster: Cluster,
    open: Mutex<Option<(Client, Files)>>,
}

impl Connection {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self { cluster, open: Mutex::default() }
    }

    /// A client by what the files say now; by what they said before, where they cannot be used: they
    /// may be in the middle of being replaced.
    pub(super) async fn client(&self) -> Result<Client, String> {
        let mut open = self.open.lock().await;
        if let Some((client, files)) = &*open
            && !files.have_changed()
        {
            return Ok(client.clone());
        }
        let read = self.read().await;
        match (read, &*open) {
            (Ok((client, files)), _) => {
                *open = Some((client.clone(), files));
                Ok(client)
            }
            (Err(why), Some((client, _))) => {
                tracing::debug!(why, "the way to the API server is kept");
                Ok(client.clone())
            }
            (Err(why), None) => Err(why),
        }
    }

    async fn read(&self) -> Result<(Client, Files), String> {
        let (config, paths) = self.cluster.config().await?;
        // Marked before it is used: what changes in between is read again.
        let files = Files::as_they_are(paths);
        let client = Client::try_from(config).map_err(|error| innermost(&error))?;
        Ok((client, files))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(server: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
             clusters: [{{name: a, cluster: {{server: \"{server}\"}}}}]\n\
             users: [{{name: a, user: {{client-certificate: tls.crt, client-key: tls.key}}}}]\n\
             contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n"
        )
    }

    #[tokio::test]
    async fn what_files_say_is_read_again_where_one_changed() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("kubeconfig");
        std::fs::write(&at, kubeconfig("http://127.0.0.1:1")).unwrap();
        let cluster = Cluster::Kubeconfig(at.clone());
        for name in ["tls.crt", "tls.key"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let (_, paths) = cluster.config().await.unwrap();
        let names: Vec<_> = paths.iter().filter_map(|it| it.file_name()).collect();
        assert_eq!(names, ["kubeconfig", "tls.crt", "tls.key"]);
        let files = Files::as_they_are(paths);
        assert!(!files.have_changed());
        // As a Secret's files are replaced: another one takes the name.
        std::fs::write(dir.path().join("next"), "").unwrap();
        std::fs::rename(dir.path().join("next"), dir.path().join("tls.crt")).unwrap();
        assert!(files.have_changed());
    }

    #[tokio::test]
    async fn a_file_in_the_middle_of_being_replaced_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("kubeconfig");
        let text = kubeconfig("http://127.0.0.1:1").replace("client-certificate", "x-other");
        let text = text.replace("client-key", "x-another");
        std::fs::write(&at, &text).unwrap();
        let connection = Connection::new(Cluster::Kubeconfig(at.clone()));
        connection.client().await.unwrap();
        std::fs::write(&at, "half of it: [").unwrap();
        connection.client().await.unwrap();
        assert!(Connection::new(Cluster::Kubeconfig(at)).client().await.is_err());
    }
}
