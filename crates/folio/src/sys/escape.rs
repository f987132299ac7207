//! Escapes text from outside (names of files and types, errors of a source), so that it cannot
//! control the terminal on which it is shown.

use std::borrow::Cow;

/// The text with control characters, and characters that change the direction of writing, as Rust
/// escapes.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_control(character) {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    Cow::Owned(plain)
}

/// As [`plain`], for text that is kept.
pub(crate) fn into_plain(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.contains(is_control) { plain(&text).into_owned().into() } else { text }
}

fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn control_characters_are_escaped_and_the_rest_stays() {
        assert_eq!(
            plain("a\u{1b}[2J\nb\u{9b}\u{202e}\u{2066}"),
            r"a\u{1b}[2J\nb\u{9b}\u{202e}\u{2066}"
        );
        assert_eq!(plain(r"Vec<&'static str> – naïve \n"), r"Vec<&'static str> – naïve \n");
    }
}
