//! Messages of DNS, which whoever answers writes. Nothing panics; names are safe text of bounded length
//! that a person can name as a peer; no answer gives more addresses than it has room for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::capture::fuzzing::message;
use monitor_core::dns::{Data, Name, Said};
use monitor_core::edge::Peer;

fuzz_target!(|bytes: &[u8]| {
    let Some(message) = message(bytes) else {
        return;
    };
    check(&message.question.name);
    assert!(message.addresses().len() <= bytes.len() / 11);
    let Said::Answered(records) = &message.said else {
        return;
    };
    for record in records {
        check(&record.owner);
        if let Data::Alias(alias) = &record.data {
            check(alias);
        }
    }
});

fn check(name: &Name) {
    let text = name.to_string();
    assert!(!text.is_empty() && text.len() <= Name::MAX_BYTES, "{text:?}");
    assert!(!text.bytes().any(|it| it.is_ascii_uppercase() && !text.contains('%')), "{text:?}");
    let peer = Peer::Name(name.text().clone());
    assert_eq!(peer.to_string().parse(), Ok(peer), "{text:?}");
}
