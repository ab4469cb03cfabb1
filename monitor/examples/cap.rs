//! dev
use monitor::capture::*;
use monitor_core::flow::*;
use std::io::Write;
use std::time::{Duration, Instant};
fn main() {
    if std::env::args().nth(1).as_deref() == Some("list") {
        println!(
            "programs {:?}",
            aya::programs::loaded_programs()
                .flatten()
                .map(|p| p.name_as_str().unwrap_or("").to_owned())
                .collect::<Vec<_>>()
        );
        for p in aya::programs::loaded_programs().flatten() {
            println!(
                "  {} {:?} runs={} {} ns/run jited={:?}",
                p.name_as_str().unwrap_or(""),
                p.run_time(),
                p.run_count(),
                p.run_time().as_nanos() as u64 / p.run_count().max(1),
                p.size_jitted()
            );
        }
        println!("links {}", aya::programs::loaded_links().count());
        println!(
            "maps {:?}",
            aya::maps::loaded_maps()
                .flatten()
                .map(|m| (m.name_as_str().unwrap_or("").to_owned(), m.max_entries()))
                .collect::<Vec<_>>()
        );
        return;
    }
    if std::env::args().nth(1).as_deref() == Some("preflight") {
        println!("{:?}", preflight().map_err(|e| e.to_string()));
        return;
    }
    if std::env::var("NOMOUNT").is_err() {
        prepare_mounts();
    }
    let secs: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let sweep: u64 = std::env::args().nth(2).map_or(1000, |s| s.parse().unwrap());
    let cfg: Config = std::env::args()
        .nth(3)
        .map_or(Config::default(), |s| toml::from_str(&s).unwrap());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    rt.block_on(async {
        let t = Instant::now();
        let mut cap = match Capture::start(&cfg, &Network::INTERNAL) {
            Ok(c) => c,
            Err(e) => { let mut e: &dyn std::error::Error = &e; loop { println!("ERR {e}"); match e.source() { Some(s) => e = s, None => break } } std::process::exit(1) }
        };
        println!("READY {:?} {:?}", t.elapsed(), cap.summary());
        use std::os::fd::AsFd; let _ = std::io::stdout().flush(); let _ = std::io::stdout().as_fd();
        if let Ok(ms) = std::env::var("SLOW") { std::thread::sleep(Duration::from_millis(ms.parse().unwrap())); }
        let quiet = std::env::var("QUIET").is_ok();
        let (mut nflow, mut ntraffic, mut forgotten, mut conns) = (0u64, 0u64, 0u64, 0u64);
        let rearm: Option<u16> = std::env::var("REARM").ok().map(|p| p.parse().unwrap());
        let mut rearmed = 0;
        let end = Instant::now() + Duration::from_secs(secs);
        let mut tick = tokio::time::interval(Duration::from_millis(sweep));
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        loop {
            let batch = tokio::select! {
                b = cap.next() => b.unwrap(),
                _ = tick.tick() => cap.sweep().unwrap(),
                _ = term.recv() => break,
                _ = tokio::time::sleep_until(end.into()) => break,
            };
            let mut out = std::io::stdout().lock();
            let mut keys = vec![];
            for o in &batch { match o { Observation::Flow(f) => { nflow += 1; if Some(f.key.port) == rearm && rearmed < 6 && f.key.outcome.reached() { keys.push(f.key); rearmed += 1; } } Observation::Traffic(t) => { ntraffic += 1; conns += t.connections } Observation::Forgotten(_) => forgotten += 1, _ => {} } }
            if !keys.is_empty() { cap.rearm(&keys).unwrap(); }
            for o in batch {
                if quiet && matches!(o, Observation::Flow(_) | Observation::Traffic(_) | Observation::Forgotten(_)) { continue }
                match o {
                    Observation::Flow(f) => { let k=&f.key; writeln!(out, "FLOW cg={} {:?} {} {:?} local={:?} port={} {} exe={:x} ns={} client={:?} {:?} at={}", k.cgroup.0, k.direction, k.protocol, k.remote, k.local, k.port, k.outcome, k.executable_id, f.netns.0, f.client, f.process, f.at) }
                    Observation::Traffic(t) => { let k=&t.key; writeln!(out, "TRAFFIC cg={} {:?} {} {:?} port={} {} n={} sent={} recv={} rtt={:?} p50={:?}", k.cgroup.0, k.direction, k.protocol, k.remote, k.port, k.outcome, t.connections, t.bytes_sent, t.bytes_received, t.rtt.0.iter().enumerate().filter(|x| *x.1>0).collect::<Vec<_>>(), t.rtt.quantile_us(0.5)) }
                    o => writeln!(out, "{o:?}"),
                }.unwrap();
            }
            out.flush().unwrap();
        }
        let left = cap.sweep().unwrap();
        for o in &left { match o { Observation::Flow(_) => nflow += 1, Observation::Traffic(t) => { ntraffic += 1; conns += t.connections }, Observation::Forgotten(_) => forgotten += 1, Observation::Lost{..} => println!("{o:?}"), _ => {} } }
        println!("TOTAL flows={nflow} traffic={ntraffic} forgotten={forgotten} conns={conns}");
        drop(cap);
        println!("STOPPED");
    });
}
