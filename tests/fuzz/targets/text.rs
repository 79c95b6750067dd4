//! What operators write: the configuration, and the bodies of admin requests.

use std::path::Path;

use twinblk::config::{self as file, ConfigErrors};
use twinblk::control::body::Parameters;

/// Each mistake has a line and words, and none makes the report panic.
pub(super) fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match file::parse(Path::new("twinblk.toml"), &text) {
        Ok(config) => {
            for resource in &config.resources {
                assert!(config.resource(resource.name.as_str()).is_some());
            }
        }
        Err(ConfigErrors::Mistakes(report)) => {
            assert!(report.errors() > 0, "a refusal without a reason");
            assert!(report.problems.iter().all(|problem| report.line(problem) > 0));
            assert!(!report.render(false).is_empty());
        }
        Err(other) => panic!("nothing else can be wrong with a text: {other}"),
    }
}

pub(super) fn admin(bytes: &[u8]) {
    if let Ok(read) = serde_json::from_slice::<Parameters>(bytes) {
        let written = serde_json::to_vec(&read).expect("it was read");
        assert_eq!(serde_json::from_slice::<Parameters>(&written).ok(), Some(read));
    }
}
