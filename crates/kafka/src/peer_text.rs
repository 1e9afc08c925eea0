//! What a peer says, as it may be printed.
//!
//! Promises: no control characters, a bounded length, whatever the peer sent. Does not know: who prints it.

/// Characters that are kept.
const CHARACTERS_MAX: usize = 256;

/// The text with what could mislead a terminal or a log escaped, and cut where it is long.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::new();
    let mut count = 0;
    for character in text.chars() {
        let invisible = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        let escaped = character.is_control() || invisible;
        let needed = if escaped { character.escape_unicode().count() } else { 1 };
        if count + needed > CHARACTERS_MAX {
            out.push_str("...");
            break;
        }
        count += needed;
        if escaped {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_mislead_is_escaped_and_what_is_long_is_cut() {
        assert_eq!(printable("gar kein Paßwort"), "gar kein Paßwort");
        assert_eq!(printable("a\n\x1b[2Jb\u{202e}c"), "a\\n\\u{1b}[2Jb\\u{202e}c");
        assert_eq!(printable(&"x".repeat(300)), format!("{}...", "x".repeat(256)));
        assert!(printable(&"\x07".repeat(300)).chars().count() <= 259);
    }
}
