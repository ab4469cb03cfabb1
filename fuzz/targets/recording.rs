//! Lines of a recording, which other programs write. What is read is written and read back as the
//! same flow, and the writing is always the same line; what is refused is refused in one line that
//! cannot write into a terminal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::recording::{RecordedFlow, read_line};

fuzz_target!(|bytes: &[u8]| {
    let flow = match read_line(bytes) {
        Ok(flow) => flow,
        Err(error) => {
            let said = error.to_string();
            assert!(!said.chars().any(char::is_control), "{said:?}");
            return;
        }
    };
    let line = written(&flow);
    let text = String::from_utf8_lossy(&line);
    let again = read_line(&line).expect("what was written can be read");
    assert_eq!(again, flow, "{text}");
    assert_eq!(written(&again), line, "{text}");
    // One line, whatever is in it.
    assert_eq!(text.find(char::is_control), Some(line.len() - 1), "{text:?}");
    // Its edge is one that a person can name.
    let edge = flow.edge();
    assert_eq!(edge.to_string().parse().as_ref(), Ok(&edge), "{text}");
});

fn written(flow: &RecordedFlow) -> Vec<u8> {
    let mut line = Vec::new();
    flow.write_line(&mut line);
    line
}
