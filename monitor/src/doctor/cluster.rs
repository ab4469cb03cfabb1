//! The cluster: whether it is asked for names, whether it answers, as whom it takes the agent, what it
//! refuses, and whether it knows this node by its name.

use crate::doctor::{Check, Finding};
use crate::sources::{Config, Reached, Setting, node_name, reach_cluster};

const WHAT: &str = "kubernetes";
const ROLE: &str =
    "grant it: kubectl apply -f deploy/kubernetes/edgewatch.yaml has the ClusterRole";

pub(super) async fn examine(config: &Config, node: &str) -> Vec<Finding> {
    let Some(asked) = reach_cluster(config, node).await else {
        let detail = match config.kubernetes {
            Setting::Off => "the cluster is not asked for names (`kubernetes = \"off\"`)",
            Setting::Auto | Setting::Required | Setting::At(_) => {
                "no cluster is asked for names: this is no pod with a service account \
                 (`kubernetes = \"auto\"`)"
            }
        };
        return vec![Finding::ok(Check::Cluster, WHAT, detail)];
    };
    match asked {
        Ok(reached) => found(&reached, &node_name(node)),
        Err(why) => {
            let detail = format!(
                "{why}; it is to tell names: until it does, pods go by their uids, and what it said \
                 last holds"
            );
            let mend =
                "look at the kubeconfig or the service account, or write `kubernetes = \"off\"`";
            vec![Finding::warn(Check::Cluster, WHAT, detail).mend(mend)]
        }
    }
}

fn found(reached: &Reached, node: &str) -> Vec<Finding> {
    let check = Check::Cluster;
    let version = reached.version.as_ref().map(|it| format!(" {it}")).unwrap_or_default();
    let what = format!("{WHAT}{version} at {}", reached.server);
    let whom = reached.who.as_deref().unwrap_or("somebody that it does not name");
    let reached_as = format!("reached as {whom}");
    let mut findings = vec![match (&reached.unsure, reached.refused.as_slice()) {
        (Some(why), _) => {
            let detail = format!("{reached_as}; what it grants cannot be asked: {why}");
            Finding::warn(check, what, detail)
        }
        (None, []) => {
            Finding::ok(check, what, format!("{reached_as}, who may read all that is read"))
        }
        (None, refused) => {
            let detail = format!("{reached_as}, who may not {}", refused.join(", "));
            Finding::warn(check, what, detail).mend(ROLE)
        }
    }];
    if reached.knows_node == Some(false) {
        let detail = format!(
            "no node is called {node}: containers of this machine's pods are not found by it"
        );
        findings.push(
            Finding::warn(check, WHAT, detail).mend("set NODE_NAME, or `node`, to the node's name"),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[tokio::test]
    async fn a_cluster_that_is_not_asked_or_not_reached_is_told() {
        let asked = |kubernetes: Setting| async {
            let config = Config { kubernetes, ..Config::default() };
            let mut findings = examine(&config, "n1").await;
            assert_eq!(findings.len(), 1);
            findings.remove(0)
        };
        let off = asked(Setting::Off).await;
        assert!(off.verdict == Verdict::Ok && off.detail.contains("\"off\""), "{off:?}");
        let gone = asked(Setting::At("/nonexistent/kubeconfig".into())).await;
        assert!(gone.verdict == Verdict::Warn, "{gone:?}");
        assert!(gone.detail.starts_with("/nonexistent/kubeconfig cannot be read"), "{gone:?}");
    }

    #[test]
    fn what_is_refused_is_told_verb_by_verb() {
        let mut reached = Reached {
            server: "https://10.96.0.1/".to_owned(),
            version: Some("v1.33.1".to_owned()),
            who: Some("system:serviceaccount:edgewatch:edgewatch".to_owned()),
            knows_node: Some(true),
            ..Reached::default()
        };
        let all = found(&reached, "n1");
        assert_eq!((all.len(), all[0].verdict), (1, Verdict::Ok));
        assert_eq!(all[0].what, "kubernetes v1.33.1 at https://10.96.0.1/");
        reached.refused = vec!["watch nodes".to_owned(), "get jobs".to_owned()];
        reached.knows_node = Some(false);
        let less = found(&reached, "n1");
        assert_eq!(
            less[0].detail,
            "reached as system:serviceaccount:edgewatch:edgewatch, who may not watch nodes, get jobs"
        );
        assert!(less[1].detail.starts_with("no node is called n1"), "{less:?}");
    }
}
