//! Which workload a pod belongs to, where nobody may ask the cluster: by the labels that controllers put
//! on their pods, and by how they name them.

use std::collections::HashMap;

use monitor_core::ids::ServiceName;

use crate::sources::text::service_name;

/// `k8s:NAMESPACE/KIND/NAME` of what made the pod; the pod itself where nothing did.
pub(super) fn of(namespace: &str, pod: &str, labels: &HashMap<String, String>) -> ServiceName {
    let (kind, name) = maker(pod, labels).unwrap_or(("Pod", pod));
    service_name(namespace, kind, name)
}

fn maker<'a>(pod: &'a str, labels: &'a HashMap<String, String>) -> Option<(&'static str, &'a str)> {
    let label = |key: &str| labels.get(key).map(String::as_str).filter(|it| !it.is_empty());
    if let Some(hash) = label("pod-template-hash") {
        // NAME-HASH-XXXXX
        let name = without_suffix(pod)?.strip_suffix(hash)?.strip_suffix('-')?;
        return Some(("Deployment", name));
    }
    if label("statefulset.kubernetes.io/pod-name").is_some() {
        let (name, ordinal) = pod.rsplit_once('-')?;
        return ordinal.bytes().all(|it| it.is_ascii_digit()).then_some(("StatefulSet", name));
    }
    if let Some(job) = label("batch.kubernetes.io/job-name").or_else(|| label("job-name")) {
        // A CronJob's are NAME-MINUTES, of which there have been some 29 million since 1970.
        return Some(match job.rsplit_once('-') {
            Some((cron, at)) if at.len() >= 8 && at.bytes().all(|it| it.is_ascii_digit()) => {
                ("CronJob", cron)
            }
            _ => ("Job", job),
        });
    }
    label("controller-revision-hash")?;
    Some(("DaemonSet", without_suffix(pod)?))
}

/// Without the five random letters that tell the pods of one maker apart.
fn without_suffix(pod: &str) -> Option<&str> {
    let (name, random) = pod.rsplit_once('-')?;
    (random.len() == 5).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn owns(pod: &str, labels: &[(&str, &str)], owner: &str) {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        assert_eq!(of("shop", pod, &labels.collect()).as_str(), format!("k8s:shop/{owner}"));
    }

    #[test]
    fn pods_are_their_makers() {
        owns("web-7c9f-x2b4q", &[("pod-template-hash", "7c9f")], "Deployment/web");
        owns("a-b-7c9f-x2b4q", &[("pod-template-hash", "7c9f")], "Deployment/a-b");
        owns("db-0", &[("statefulset.kubernetes.io/pod-name", "db-0")], "StatefulSet/db");
        owns("agent-x2b4q", &[("controller-revision-hash", "1")], "DaemonSet/agent");
        owns("report-29012345-x2b4q", &[("job-name", "report-29012345")], "CronJob/report");
        owns("once-x2b4q", &[("batch.kubernetes.io/job-name", "once")], "Job/once");
        owns("bare", &[("app", "bare")], "Pod/bare");
        // What does not look as its maker would have made it is itself.
        owns("odd", &[("pod-template-hash", "7c9f")], "Pod/odd");
        owns("\u{202e}", &[], "Pod/%E2%80%AE");
        owns("a/b", &[], "Pod/a%252Fb");
        // A namespace may be called so; what has no lasting name yet is.
        assert!(!of("uid", "x", &HashMap::new()).is_provisional());
    }
}
