//! The cluster's API server, a real one with its etcd: built once, started and ended at will, asked by
//! `curl` as its administrator. Which objects there are is not its business.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::interrupt::{Interrupt, PAUSE};
use crate::lab::command::{done, fed};
use crate::lab::kubernetes::ground::{CONTROL, Ground, NODES};
use crate::stage::Stages;
use crate::tools;
use crate::workspace::Workspace;

/// Where everybody looks for it; and where it answers while nobody is to find it.
pub(crate) const FRONT: u16 = 6443;
pub(crate) const BACK: u16 = 7443;

const WAIT: Duration = Duration::from_secs(120);

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// How it is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Plain,
    /// Every watch is etcd's own: what that forgot is gone.
    WithoutCache,
    WithoutSlices,
}

pub(crate) struct Server {
    at: PathBuf,
    program: PathBuf,
    port: u16,
    running: Option<u32>,
}

/// Builds the program, unless an earlier run did; where it is.
pub(crate) fn build(workspace: &Workspace, stages: &Stages) -> anyhow::Result<PathBuf> {
    let cache = workspace.target().join("lab/cache");
    let program = cache.join("kube-apiserver");
    if program.exists() {
        return Ok(program);
    }
    std::fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let installed = PathBuf::from("/usr/lib/go-1.19");
    let unpacked = workspace.target().join("lab/tree/usr/lib/go-1.19");
    if !installed.exists() && !unpacked.exists() {
        tools::unpack(workspace, &workspace.target().join("lab"), &["golang-1.19-go"])?;
    }
    let go = if installed.exists() { installed } else { unpacked };
    let script = cache.join("apiserver.sh");
    std::fs::write(&script, include_str!("apiserver.sh")).context("write the recipe")?;
    stages.announce("lab", "the API server is built, once: 6 to 10 minutes of a processor");
    let log = cache.join("apiserver.log");
    let file = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = Command::new("bash");
    command.arg(script).arg(&cache).arg(go).stdout(file.try_clone().context("share the log")?);
    let status = command.stderr(file).status().context("start the build")?;
    if !status.success() {
        bail!("the API server is not built: {status}; what was said is in {}", log.display());
    }
    Ok(program)
}

impl Server {
    /// Starts etcd, and the server with an empty cluster.
    pub(crate) fn start(
        ground: &mut Ground,
        program: PathBuf,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let at = ground.at.join("server");
        std::fs::create_dir_all(&at).with_context(|| format!("create {}", at.display()))?;
        certificates(&at)?;
        let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
        let data = at.join("etcd").display().to_string();
        let listens = ["--listen-client-urls", client, "--advertise-client-urls", client];
        let etcd = ["etcd", "--data-dir", &data, "--listen-peer-urls", peer];
        ground.control("etcd", &[&etcd[..], &listens].concat())?;
        let mut server = Self { at, program, port: FRONT, running: None };
        server.serve(ground, FRONT, Start::Plain, interrupt)?;
        Ok(server)
    }

    /// Starts the server at a port, and waits until it answers.
    pub(crate) fn serve(
        &mut self,
        ground: &mut Ground,
        port: u16,
        start: Start,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        let file = |name: &str| self.at.join(name).display().to_string();
        let own = [
            ("--etcd-servers", "http://127.0.0.1:2379".to_owned()),
            ("--bind-address", "0.0.0.0".to_owned()),
            ("--advertise-address", CONTROL.to_owned()),
            ("--secure-port", port.to_string()),
            ("--cert-dir", file("")),
            ("--tls-cert-file", file("server.crt")),
            ("--tls-private-key-file", file("server.key")),
            ("--client-ca-file", file("ca.crt")),
            ("--service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("--service-account-key-file", file("sa.key")),
            ("--service-account-signing-key-file", file("sa.key")),
            ("--authorization-mode", "Node,RBAC".to_owned()),
            // A pod could not be created without a controller manager else.
            ("--disable-admission-plugins", "ServiceAccount".to_owned()),
            ("--service-cluster-ip-range", "10.96.0.0/16".to_owned()),
            ("--endpoint-reconciler-type", "none".to_owned()),
            ("--allow-privileged", "true".to_owned()),
            // Every request is noted, with where it came from.
            ("--v", "3".to_owned()),
            // It forgets by itself what the lab wants to be remembered, or not.
            ("--etcd-compaction-interval", "0".to_owned()),
            ("--max-requests-inflight", "2000".to_owned()),
        ];
        let mut words = vec![self.program.display().to_string()];
        words.extend(own.into_iter().map(|(key, value)| format!("{key}={value}")));
        match start {
            Start::Plain => {}
            Start::WithoutCache => words.push("--watch-cache=false".to_owned()),
            Start::WithoutSlices => {
                words.push("--runtime-config=discovery.k8s.io/v1beta1=false".to_owned());
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.port = port;
        self.running = Some(ground.control("kube-apiserver", &words)?);
        let answers = || Ok(self.ask(ground, "GET", "/readyz", None).is_ok());
        interrupt.until("the API server's answer", WAIT, PAUSE * 5, answers)
    }

    /// Ends it.
    pub(crate) fn end(&mut self, ground: &mut Ground) -> anyhow::Result<()> {
        self.running.take().map_or(Ok(()), |process| ground.finish(process))
    }

    /// Asks it as its administrator.
    pub(crate) fn ask(
        &self,
        ground: &Ground,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let kind = if method == "PATCH" { MERGE } else { JSON };
        let body = body.map(Value::to_string);
        self.told(ground, &self.config(method, path, body.as_deref().map(|it| (kind, it))))
            .with_context(|| format!("{method} {path}"))
    }

    /// Makes an object of a manifest's text.
    pub(crate) fn apply(&self, ground: &Ground, path: &str, text: &str) -> anyhow::Result<()> {
        let config = self.config("POST", path, Some(("application/yaml", text)));
        self.told(ground, &config).with_context(|| format!("POST {path}")).map(drop)
    }

    fn told(&self, ground: &Ground, config: &str) -> anyhow::Result<Value> {
        let mut curl = ground.inside("control", "curl");
        let answer = fed(curl.args(["-sS", "--fail-with-body", "-K", "-"]), config)?;
        // Not everything is answered in JSON.
        Ok(serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
    }

    /// Asks many things at once; their answers are not looked at.
    pub(crate) fn ask_all(
        &self,
        ground: &Ground,
        asked: &[(&str, String, Option<Value>)],
    ) -> anyhow::Result<()> {
        for some in asked.chunks(500) {
            let texts = some.iter().map(|(method, path, body)| {
                let body = body.as_ref().map(Value::to_string);
                let kind = if *method == "PATCH" { MERGE } else { JSON };
                let body = body.as_deref().map(|it| (kind, it));
                self.config(method, path, body) + "output = \"/dev/null\"\nfail\n"
            });
            let text = texts.collect::<Vec<_>>().join("next\n");
            let mut curl = ground.inside("control", "curl");
            let words = ["-sS", "--parallel", "--parallel-max", "8", "-K", "-"];
            fed(curl.args(words), &text)?;
        }
        Ok(())
    }

    /// One request, as curl reads it.
    fn config(&self, method: &str, path: &str, body: Option<(&str, &str)>) -> String {
        let file = |name: &str| self.at.join(name).display().to_string();
        let quoted = |text: &str| Value::String(text.to_owned()).to_string();
        let kind = body.map_or(JSON, |(kind, _)| kind);
        let lines = [
            ("url", format!("https://127.0.0.1:{}{path}", self.port)),
            ("request", method.to_owned()),
            ("cacert", file("ca.crt")),
            ("cert", file("admin.crt")),
            ("key", file("admin.key")),
            ("header", format!("Content-Type: {kind}")),
            ("max-time", "60".to_owned()),
            // What it takes for a person's is answered prettily, by code of its that does not stand the
            // Go that built it: it forgets in the end what a type is.
            ("user-agent", "lab".to_owned()),
        ];
        let mut text: String =
            lines.iter().map(|(key, value)| format!("{key} = {}\n", quoted(value))).collect();
        if let Some((_, body)) = body {
            text += &format!("data-raw = {}\n", quoted(body));
        }
        text
    }

    /// Has etcd forget all that was before now, as `etcdctl compact` does.
    pub(crate) fn compact(&self, ground: &Ground) -> anyhow::Result<()> {
        let gateway = |what: &str, body: &str| {
            let url = format!("http://127.0.0.1:2379/v3/kv/{what}");
            let answer = fed(
                ground.inside("control", "curl").args([
                    "-sS",
                    "--fail-with-body",
                    "-d",
                    "@-",
                    &url,
                ]),
                body,
            )?;
            serde_json::from_str::<Value>(&answer).context("read etcd's answer")
        };
        let known = gateway("range", r#"{"key": "AA=="}"#)?;
        let revision = known["header"]["revision"].as_str().context("etcd tells no revision")?;
        let body = format!(r#"{{"revision": "{revision}", "physical": true}}"#);
        gateway("compaction", &body).map(drop)
    }

    /// Writes a kubeconfig of the agent's account; where it is.
    pub(crate) fn kubeconfig(&self, ground: &Ground) -> anyhow::Result<PathBuf> {
        let path = "/api/v1/namespaces/edgewatch/serviceaccounts/edgewatch/token";
        let asked = serde_json::json!({"spec": {"expirationSeconds": 86_400}});
        let answer = self.ask(ground, "POST", path, Some(&asked))?;
        let token = answer["status"]["token"].as_str().context("no token is given")?;
        let (file, ca) = (self.at.join("token"), self.at.join("ca.crt"));
        std::fs::write(&file, token).context("write the token")?;
        let server = format!("https://{CONTROL}:{FRONT}");
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": ca}}],
            "users": [{"name": "lab", "user": {"tokenFile": file}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        });
        let at = self.at.join("agent.kubeconfig");
        std::fs::write(&at, text.to_string()).context("write the kubeconfig")?;
        Ok(at)
    }

    pub(crate) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// What the first node has asked of it so far, in that order: `list pods 200`. Watches are noted when
    /// they end.
    pub(crate) fn asked(&self, ground: &Ground) -> anyhow::Result<Vec<String>> {
        let log = std::fs::read_to_string(ground.at.join("kube-apiserver.log"));
        let log = log.context("read what the server noted")?;
        let source = format!("srcIP=\"{}:", NODES[0].address);
        Ok(log.lines().filter(|line| line.contains(&source)).filter_map(noted).collect())
    }
}

/// A request, as the server noted it.
fn noted(line: &str) -> Option<String> {
    let field = |key: &str| {
        let (_, rest) = line.split_once(key)?;
        rest.split([' ', '"', ':']).find(|it| !it.is_empty())
    };
    let uri = field("URI=\"")?;
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut parts = path.rsplit('/');
    let last = parts.next()?;
    let (verb, resource) = match field("verb=\"")? {
        "GET" if query.contains("watch=true") => ("watch", last),
        "GET" if query.contains("limit=") => ("list", last),
        "GET" => ("get", parts.next()?),
        other => (other, last),
    };
    Some(format!("{verb} {resource} {}", field("resp=")?))
}

/// Makes an authority, and what it signs.
fn certificates(at: &Path) -> anyhow::Result<()> {
    let names = format!("subjectAltName=DNS:localhost,IP:127.0.0.1,IP:{CONTROL}");
    let script = "set -e; cd \"$0\"
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -subj /CN=lab -days 30 -out ca.crt
        issue() {
            openssl req -newkey rsa:2048 -nodes -keyout $1.key -subj \"$2\" -out $1.csr
            echo \"$3\" > $1.ext
            openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \\
                -extfile $1.ext -out $1.crt
        }
        issue server /CN=kube-apiserver \"$1\"
        issue admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
        openssl genrsa -out sa.key 2048";
    done(Command::new("bash").args(["-c", script]).arg(at).arg(names)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_read_from_the_server_s_notes() {
        let line = |verb: &str, uri: &str, code: &str| {
            format!(
                "I1122 20:00:00.1 1 httplog.go:89] \"HTTP\" verb=\"{verb}\" URI=\"{uri}\" \
                     latency=\"1ms\" userAgent=\"\" srcIP=\"192.168.92.11:5\" resp={code}"
            )
        };
        let list = line("GET", "/api/v1/pods?&limit=250&fieldSelector=a", "200");
        assert_eq!(noted(&list).as_deref(), Some("list pods 200"));
        let watch = line("GET", "/api/v1/nodes?&watch=true&timeoutSeconds=290", "403");
        assert_eq!(noted(&watch).as_deref(), Some("watch nodes 403"));
        let get = line("GET", "/apis/apps/v1/namespaces/shop/replicasets/web-1?", "404");
        assert_eq!(noted(&get).as_deref(), Some("get replicasets 404"));
    }
}
