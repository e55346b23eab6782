//! Names of workers: what may be said on a command line, and begins the names of leases. Their tags are [`crate::tag`]'s.

/// Characters of a name, at most.
pub const NAME_CHARS_MAX: usize = 63;

/// A name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "“{0}” is no name: 1 to {NAME_CHARS_MAX} letters, digits, “-”, “_” and “.”, of which the first is a letter or digit"
)]
pub struct NameError(String);

/// The text, if it may name a worker. Letters and digits are ASCII's.
pub fn check_name(text: &str) -> Result<&str, NameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && text.len() <= NAME_CHARS_MAX && text.chars().all(allowed) {
        Ok(text)
    } else {
        Err(NameError(text.chars().take(NAME_CHARS_MAX).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_into_leases_and_onto_command_lines() {
        assert_eq!(check_name("site-b_1.example"), Ok("site-b_1.example"));
        for bad in ["", "-b", "a/b", "ä", "a\nb", "a b", &"x".repeat(NAME_CHARS_MAX + 1)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
