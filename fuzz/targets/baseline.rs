//! Baseline files. What is read is written and read back as the same document; the writing is always
//! the same text; what is refused is refused in one line that cannot write into a terminal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::baseline_file::{from_text, to_text};
use monitor_core::baseline::Provenance;
use monitor_core::edge::EdgeWith;
use monitor_core::ids::WallTime;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let document = match from_text(text, "base.yaml") {
        Ok(document) => document,
        Err(error) => {
            let said = error.to_string();
            assert!(said.starts_with("base.yaml"), "{said:?}");
            assert!(!said.chars().any(char::is_control), "{said:?}");
            return;
        }
    };
    let written = to_text(&document);
    let again = from_text(&written, "base.yaml").expect("what was written can be read");
    assert_eq!(again, document, "{written}");
    assert_eq!(to_text(&again), written);
    // Every edge of it is an edge that a person can name, with every executable.
    let parsed = document.parse(Provenance::Imported, WallTime(0)).expect("it was read");
    for (edge, allowances) in &parsed.allowed {
        for executable in allowances.iter().flat_map(|it| it.executables.iter()) {
            let with = EdgeWith { edge: edge.clone(), executable: Some(executable.to_owned()) };
            let named = with.to_string().parse();
            assert!(named.as_ref() == Ok(&with) || !executable.contains('/'), "{with}");
        }
        assert_eq!(edge.to_string().parse().as_ref(), Ok(edge));
    }
});
