//! The configuration's text. Whatever it holds it is read or refused; what refuses it is one line that
//! names the file and cannot write into a terminal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::config::Config;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(text, "edgewatch.toml") {
        Ok(config) => {
            let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+%-".contains(&byte);
            assert!(config.node_name().bytes().all(safe));
            assert!(!config.grace_period.get().is_zero() || text.contains("grace_period"));
            assert!(config.capture.ring.bytes().is_power_of_two());
            let _rule = config.learn.rule();
            assert_eq!(Config::parse(text, "edgewatch.toml").expect("it was read"), config);
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.starts_with("edgewatch.toml"), "{said:?}");
            assert!(!said.chars().any(char::is_control), "{said:?}");
        }
    }
});
