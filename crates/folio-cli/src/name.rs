//! Names of files, for people and for programs.

use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A name for messages: no control character of a file's name reaches the terminal, and none that
/// turns the direction of text.
pub(crate) fn shown(name: impl AsRef<OsStr>) -> String {
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let plain = |c: char| {
        if c.is_control() || turns(c) { c.escape_default().to_string() } else { c.to_string() }
    };
    name.as_ref().to_string_lossy().chars().map(plain).collect()
}

/// Adds a name to a JSON object. A name that is no UTF-8 cannot be a JSON string: its bytes are
/// then in `KEY_bytes`.
pub(crate) fn insert(fields: &mut Map<String, Value>, key: &str, name: impl AsRef<OsStr>) {
    let name = name.as_ref();
    fields.insert(key.to_owned(), name.to_string_lossy().into());
    if name.to_str().is_none() {
        fields.insert(format!("{key}_bytes"), name.as_bytes().into());
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn no_character_of_a_name_steers_the_terminal_or_turns_its_text() {
        let name = "a\u{1b}[2J\u{61c}\u{200f}\u{2028}\u{202e}\u{2066}é\n";
        assert_eq!(shown(name), r"a\u{1b}[2J\u{61c}\u{200f}\u{2028}\u{202e}\u{2066}é\n");
    }
}
