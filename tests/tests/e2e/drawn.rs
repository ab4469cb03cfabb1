//! The map and the baseline in the forms that others read: pictures, and network policies. What they
//! look like is tested beside the code that writes them; here it is told of real traffic.

use std::fs;

use tests::agent::{SOON, verb};
use tests::process::finish;

use crate::lab;
use crate::shop::Shop;

#[test]
fn the_map_of_real_traffic_is_drawn() {
    let mut shop = Shop::guarded();
    let db = shop.server("db", 5432);
    shop.web.reaches(&db);
    let edge = db.edge_from(&shop.web.service);
    shop.agent.shows(&edge, SOON, |view| view["standing"] == "pending");
    let draw = |format: &str| {
        shop.agent.text(&["map", "--focus", &shop.web.service.name, "--format", format])
    };
    let pictures = [("svg", "<svg "), ("mermaid", "---\ntitle: "), ("dot", "digraph edgewatch {")];
    for (format, begins) in pictures {
        let picture = draw(format);
        assert!(picture.starts_with(begins), "{picture}");
        // Nobody else's edges are in it, and what waits for a decision is.
        assert!(picture.contains("3 services · 2 edges"), "{picture}");
        assert!(picture.contains("pending 5432/tcp"), "{picture}");
    }
}

#[test]
fn a_baseline_file_becomes_policies_without_an_agent() {
    let lab = lab();
    let path = lab.path("shop.yaml");
    let baseline = "format: edgewatch-baseline/1\nservices:\n  k8s:shop/Deployment/web:\n    outbound:\n      \
                    - {to: \"k8s:shop/Deployment/api\", ports: [8080/tcp]}\n      \
                    - {to: \"dns:a.example.com\", ports: [443/tcp]}\n  compose:shop/web: {}\n";
    fs::write(&path, baseline).expect("the place is ours");
    let file = path.display().to_string();
    let words = ["policy", "export", "--format", "kubernetes", "--baseline", &file];
    let finished = finish(&mut verb(&words));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    assert_eq!(finished.stdout.matches("kind: NetworkPolicy").count(), 1, "{finished:#?}");
    assert!(finished.stderr.contains("1 edge could not be said"), "{finished:#?}");
    finish(verb(&words).arg("compose:shop/*")).failed(1, &["no Kubernetes workload that matches"]);
}
