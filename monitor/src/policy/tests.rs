//! What a policy says, what it leaves to a comment, and that Kubernetes' own types take it.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::Value;

use super::*;

const SHOP: &str = r#"
format: edgewatch-baseline/1
services:
  k8s:shop/Deployment/web:
    outbound:
      - {to: "k8s:shop/Deployment/api", ports: [8080/tcp, 8081/tcp], by: [/usr/sbin/nginx]}
      - {to: "k8s:kube-system/Deployment/coredns", ports: [53/udp]}
      - {to: "dns:api.stripe.com", ports: [443/tcp]}
      - {to: "net:office", ports: [25/tcp]}
      - {to: "ip:2001:db8::1", ports: [123/udp]}
    inbound:
      - {from: world, ports: [443/tcp]}
      - {from: "systemd:prometheus.service", ports: [9100/tcp]}
    listens:
      - {ports: [443/tcp]}
    forbidden:
      - {to: "ip:169.254.169.254", ports: [80/tcp]}
  k8s:shop/Deployment/api:
    phase: learning
    outbound:
      - {to: "ip:192.0.2.7", ports: [5432/tcp], until: "2026-01-01T00:00:00Z"}
      - {to: "ip:192.0.2.8", ports: [5432/tcp], attempted_only: true}
  systemd:nginx.service:
    outbound:
      - {to: "k8s:shop/Deployment/web", ports: [443/tcp]}
  compose:shop/web: {}
"#;

fn exported(baseline: &str, services: &[&str], label: &str) -> Export {
    let document: Document = serde_saphyr::from_str(baseline).unwrap();
    let services: Vec<Pattern> = services.iter().map(|it| it.parse().unwrap()).collect();
    let wanted = Wanted {
        services: &services,
        label: &label.parse().unwrap(),
        now: "2026-11-21T10:00:00Z".parse().unwrap(),
        phases: &BTreeMap::new(),
    };
    kubernetes(&document, &wanted).unwrap()
}

/// Reads every document as Kubernetes' own type, and demands that nothing in it was unknown to it.
#[track_caller]
fn policies(text: &str) -> Vec<NetworkPolicy> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let read = |document: Value| {
        assert_eq!(document["apiVersion"], "networking.k8s.io/v1");
        assert_eq!(document["kind"], "NetworkPolicy");
        let policy: NetworkPolicy = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(
            serde_json::to_value(&policy).unwrap(),
            document,
            "unknown to the published type"
        );
        policy
    };
    documents.into_iter().map(read).collect()
}

#[test]
fn a_workload_is_written_in_both_directions() {
    let export = exported(SHOP, &["k8s:shop/Deployment/web"], "app");
    assert_eq!((export.policies, export.unsaid), (1, 4));
    let (head, body) = export.text.split_once("---\n").unwrap();
    assert!(head.lines().all(|line| line.starts_with('#')), "{head}");
    assert!(head.starts_with("# 1 NetworkPolicy from an Edgewatch baseline. 4 edges could not"));
    assert!(head.contains("#   app: NAME\n"), "{head}");
    assert_eq!(
        body,
        r#"# k8s:shop/Deployment/web
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: "edgewatch-deployment-web"
  namespace: "shop"
  labels:
    app.kubernetes.io/managed-by: edgewatch
spec:
  podSelector:
    matchLabels:
      "app": "web"
  policyTypes: [Ingress, Egress]
  ingress:
    # world -> k8s:shop/Deployment/web 443/tcp
    - from:
        - ipBlock: {cidr: "0.0.0.0/0"}
        - ipBlock: {cidr: "::/0"}
      ports:
        - {protocol: TCP, port: 443}
    # not said: systemd:nginx.service -> k8s:shop/Deployment/web 443/tcp: NetworkPolicy cannot name what is no pod
    # not said: systemd:prometheus.service -> k8s:shop/Deployment/web 9100/tcp: NetworkPolicy cannot name what is no pod
  egress:
    # k8s:shop/Deployment/web -> k8s:kube-system/Deployment/coredns 53/udp
    - to:
        - namespaceSelector: {matchLabels: {"kubernetes.io/metadata.name": "kube-system"}}
      ports:
        - {protocol: TCP, port: 53}
        - {protocol: UDP, port: 53}
    # k8s:shop/Deployment/web -> k8s:shop/Deployment/api 8080/tcp with /usr/sbin/nginx
    # k8s:shop/Deployment/web -> k8s:shop/Deployment/api 8081/tcp with /usr/sbin/nginx
    - to:
        - namespaceSelector: {matchLabels: {"kubernetes.io/metadata.name": "shop"}}
          podSelector: {matchLabels: {"app": "api"}}
      ports:
        - {protocol: TCP, port: 8080}
        - {protocol: TCP, port: 8081}
    # k8s:shop/Deployment/web -> ip:2001:db8::1 123/udp
    - to:
        - ipBlock: {cidr: "2001:db8::1/128"}
      ports:
        - {protocol: UDP, port: 123}
    # not said: k8s:shop/Deployment/web -> dns:api.stripe.com 443/tcp: NetworkPolicy knows no names: allow its addresses as an ipBlock
    # not said: k8s:shop/Deployment/web -> net:office 25/tcp: the network's addresses are in the agent's configuration: add its ipBlock
  # forbidden, so in no rule: k8s:shop/Deployment/web -> ip:169.254.169.254 80/tcp
"#
    );
}

#[test]
fn what_is_not_allowed_now_is_in_no_rule() {
    let text = exported(SHOP, &["k8s:shop/Deployment/api"], LabelKey::STANDARD).text;
    assert!(text.contains("# It is still learning"), "{text}");
    // Approved until a day that is over; and never answered.
    assert!(!text.contains("192.0.2.7"), "{text}");
    assert!(!text.contains("cidr: \"192.0.2.8/32\""), "{text}");
    assert!(text.contains("ip:192.0.2.8 5432/tcp: only ever attempted"), "{text}");
    // Without DNS in the baseline it is offered, and not given.
    assert!(text.contains("  egress: []\n"), "{text}");
    assert!(text.contains("    # no DNS of the cluster in the baseline"), "{text}");
    let [api] = &policies(&text)[..] else { panic!("{text}") };
    assert_eq!(api.spec.as_ref().unwrap().egress.as_deref().map(<[_]>::len), Some(0));
    // Its clients are found although they are written under another service.
    let from = &api.spec.as_ref().unwrap().ingress.as_ref().unwrap()[0];
    assert_eq!(from.ports.as_ref().unwrap().len(), 2);
}

#[test]
fn all_of_a_baseline_is_written_or_counted() {
    let export = exported(SHOP, &[], LabelKey::STANDARD);
    assert_eq!(export.policies, 2);
    assert_eq!(policies(&export.text).len(), 2);
    assert!(export.text.ends_with("# Left out: 2 services (compose 1, systemd 1)\n"));
    let nothing = exported(SHOP, &["lxc:*"], LabelKey::STANDARD);
    assert_eq!((nothing.policies, nothing.unsaid), (0, 0));
}

#[test]
fn names_that_no_cluster_has_stay_in_comments() {
    let long = "n".repeat(64);
    let baseline = format!(
        "format: edgewatch-baseline/1\nservices:\n  \
         k8s:a%0A---/Deployment/b: {{}}\n  k8s:A/Deployment/b: {{}}\n  k8s:a/Deployment/-b: {{}}\n  \
         k8s:a/Deployment/{long}: {{}}\n  k8s:a/Deployment: {{}}\n  k8s:a/Service/b: {{}}\n  \
         k8s:a/b/c/d: {{}}\n  k8s:a/Deployment/123:\n    inbound:\n      \
         - {{from: \"k8s:a/Deployment/{long}\", ports: [80/tcp]}}\n  \
         k8s:a/DEPLOYMENT/123: {{}}\n  k8s:a/CronJob/true: {{}}\n"
    );
    let export = exported(&baseline, &[], LabelKey::STANDARD);
    let policies = policies(&export.text);
    let names: Vec<_> = policies.iter().filter_map(|it| it.metadata.name.as_deref()).collect();
    let expected =
        ["edgewatch-cronjob-true", "edgewatch-deployment-123", "edgewatch-deployment-123x"];
    assert_eq!(names, expected);
    let labels = policies[1].spec.as_ref().unwrap().pod_selector.as_ref().unwrap();
    assert_eq!(labels.match_labels.as_ref().unwrap()[LabelKey::STANDARD], "123");
    assert!(export.text.contains("# Left out: 7 services (k8s 7)\n"), "{}", export.text);
    assert!(export.text.contains("# k8s:a%0A---/Deployment/b: its name cannot be"));
    assert_eq!(export.unsaid, 1);
}

#[test]
fn any_baseline_is_taken_by_the_published_types() {
    let mut state = 11_u64;
    let mut below = move |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % end
    };
    for _ in 0..40 {
        let mut text = "format: edgewatch-baseline/1\nservices:\n".to_owned();
        for service in 0..1 + below(12) {
            text.push_str(&format!(
                "  k8s:n{}/Deployment/s{service}:\n    outbound:\n",
                service % 3
            ));
            for _ in 0..1 + below(6) {
                let peer = match below(6) {
                    0 => format!("ip:192.0.2.{}", below(256)),
                    1 => format!("ip:2001:db8::{}", below(9)),
                    2 => "dns:a.example.com".to_owned(),
                    3 => "k8s:kube-system/Deployment/coredns".to_owned(),
                    _ => format!("k8s:n{}/Deployment/s{}", below(3), below(12)),
                };
                let port = [53, 80, 443, 65535][below(4)];
                let protocol = ["tcp", "udp"][below(2)];
                text.push_str(&format!("      - {{to: \"{peer}\", ports: [{port}/{protocol}]}}\n"));
            }
        }
        let export = exported(&text, &[], "app");
        assert_eq!(policies(&export.text).len(), export.policies);
        // A second time it is the same to the byte.
        assert_eq!(exported(&text, &[], "app"), export);
    }
}

#[test]
fn a_label_key_is_what_kubernetes_takes() {
    for good in ["app", "app.kubernetes.io/name", "A_b.c-d", "x/y"] {
        assert_eq!(good.parse::<LabelKey>().unwrap().to_string(), good);
    }
    let long = "a".repeat(64);
    for bad in ["", "/", "a/", "/a", "a/b/c", "-a", "a-", "a b", "a\nb", "A.io/a", "\"", &long] {
        assert!(bad.parse::<LabelKey>().is_err(), "{bad:?}");
    }
}
