//! Names and tags of workers: what may be said on a command line, and means the same in the database.

/// Characters of a name or tag, at most.
pub const NAME_CHARS_MAX: usize = 63;
/// Tags of a worker, at most.
pub const TAGS_MAX: usize = 20;

/// A name or tag that is none, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Which characters and how many.
    #[error(
        "“{0}” is no name: 1 to {NAME_CHARS_MAX} letters, digits, “-”, “_” and “.”, of which the first is a letter or digit"
    )]
    Form(String),
    /// How many.
    #[error("there are more than {TAGS_MAX} tags")]
    TooMany,
}

/// The text, if it may name a worker or be a tag. Letters and digits are ASCII's.
pub fn check_name(text: &str) -> Result<&str, NameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && text.len() <= NAME_CHARS_MAX && text.chars().all(allowed) {
        Ok(text)
    } else {
        Err(NameError::Form(text.chars().take(NAME_CHARS_MAX).collect()))
    }
}

/// Tags from `site-b,fast`, each once, in order. Empty for no tags.
pub fn parse_tags(text: &str) -> Result<Vec<String>, NameError> {
    let mut tags: Vec<String> = Vec::new();
    for tag in text.split([',', ' ']).filter(|tag| !tag.is_empty()) {
        let tag = check_name(tag)?.to_ascii_lowercase();
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    if tags.len() > TAGS_MAX { Err(NameError::TooMany) } else { Ok(tags) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_from_a_list() {
        assert_eq!(parse_tags("site-b, Fast,site-b").unwrap(), ["site-b", "fast"]);
        assert_eq!(parse_tags(" ").unwrap(), Vec::<String>::new());
        for bad in ["-b", "a/b", "ä", "a\nb", &"x".repeat(NAME_CHARS_MAX + 1)] {
            assert!(matches!(parse_tags(bad), Err(NameError::Form(_))), "{bad}");
        }
        let many: Vec<String> = (0..=TAGS_MAX).map(|number| format!("t{number}")).collect();
        assert_eq!(parse_tags(&many.join(",")), Err(NameError::TooMany));
    }
}
