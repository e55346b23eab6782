//! Tags: short words that operators give to machines, to find them and to choose them for tasks.

use std::collections::BTreeSet;
use std::fmt;

/// Characters of a tag, at most.
pub const TAG_LENGTH_MAX_CHARS: usize = 32;
/// Tags of one machine, at most.
pub const TAGS_MAX: usize = 20;
/// Characters of a list of tags as it is typed, at most.
pub const TAG_LIST_LENGTH_MAX_CHARS: usize = TAGS_MAX * (TAG_LENGTH_MAX_CHARS + 2);

/// A word of letters, digits, `-`, `_` and `.`; upper and lower case are the same, and kept as lower.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// The tags of one machine, or those that are given to or taken from some: each once, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags(BTreeSet<Tag>);

/// Why words are no tags.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// There is none.
    #[error("A tag has one character at least.")]
    Empty,
    /// It is longer than a short word.
    #[error("A tag has {TAG_LENGTH_MAX_CHARS} characters at most.")]
    TooLong,
    /// It holds something else.
    #[error("A tag has letters, digits, “-”, “_” and “.” only: “{0}” is none of them.")]
    Character(char),
    /// There are more than a machine takes.
    #[error("A machine has {TAGS_MAX} tags at most.")]
    TooMany,
}

impl Tag {
    /// The tag of one word.
    pub fn parse(word: &str) -> Result<Self, TagError> {
        let word = word.trim();
        if word.chars().nth(TAG_LENGTH_MAX_CHARS).is_some() {
            return Err(TagError::TooLong);
        }
        let is_odd = |letter: &char| !(letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.'));
        if let Some(odd) = word.chars().find(is_odd) {
            return Err(TagError::Character(odd));
        }
        // Some letters become several.
        let tag: String = word.chars().flat_map(char::to_lowercase).take(TAG_LENGTH_MAX_CHARS).collect();
        if tag.is_empty() { Err(TagError::Empty) } else { Ok(Self(tag)) }
    }

    /// As it is stored and shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Tags {
    /// Tags with commas or spaces between them. None at all is an empty set.
    pub fn parse(list: &str) -> Result<Self, TagError> {
        if list.chars().nth(TAG_LIST_LENGTH_MAX_CHARS).is_some() {
            return Err(TagError::TooMany);
        }
        let words = list.split(|letter: char| letter == ',' || letter.is_whitespace()).filter(|word| !word.is_empty());
        Self::checked(words.map(Tag::parse).collect::<Result<_, _>>()?)
    }

    /// Those that are stored; what is no tag is left out.
    pub fn stored(words: &[String]) -> Self {
        Self(words.iter().filter_map(|word| Tag::parse(word).ok()).collect())
    }

    /// With these as well.
    pub fn with(&self, more: &Self) -> Result<Self, TagError> {
        Self::checked(self.0.union(&more.0).cloned().collect())
    }

    /// Without these.
    #[must_use]
    pub fn without(&self, less: &Self) -> Self {
        Self(self.0.difference(&less.0).cloned().collect())
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn words(&self) -> Vec<String> {
        self.0.iter().map(|tag| tag.0.clone()).collect()
    }

    fn checked(tags: BTreeSet<Tag>) -> Result<Self, TagError> {
        if tags.len() > TAGS_MAX { Err(TagError::TooMany) } else { Ok(Self(tags)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(list: &str) -> Tags {
        Tags::parse(list).unwrap()
    }

    #[test]
    fn a_list_is_read_with_commas_or_spaces_and_each_tag_once() {
        assert_eq!(tags(" Web, prod\tweb\nBÜRO-1 ,, v1.2_x").words(), ["büro-1", "prod", "v1.2_x", "web"]);
        assert!(tags(" , ").is_empty());
    }

    #[test]
    fn what_is_no_short_word_is_refused_with_the_reason() {
        assert_eq!(Tag::parse(" "), Err(TagError::Empty));
        assert_eq!(Tag::parse(&"x".repeat(TAG_LENGTH_MAX_CHARS + 1)), Err(TagError::TooLong));
        assert!(Tag::parse(&"ü".repeat(TAG_LENGTH_MAX_CHARS)).is_ok());
        for (word, odd) in [("a/b", '/'), ("<b>", '<'), ("a b", ' '), ("a\u{202e}", '\u{202e}'), ("x*", '*')] {
            assert_eq!(Tag::parse(word), Err(TagError::Character(odd)), "{word}");
        }
        let many: Vec<String> = (0..=TAGS_MAX).map(|number| number.to_string()).collect();
        assert_eq!(Tags::parse(&many.join(" ")), Err(TagError::TooMany));
        assert_eq!(Tags::parse(&" ".repeat(TAG_LIST_LENGTH_MAX_CHARS + 1)), Err(TagError::TooMany));
    }

    #[test]
    fn tags_are_given_and_taken() {
        let own = tags("web prod");
        assert_eq!(own.with(&tags("prod gold")).unwrap(), tags("web prod gold"));
        assert_eq!(own.without(&tags("prod gold")), tags("web"));
        let full: Vec<String> = (0..TAGS_MAX).map(|number| number.to_string()).collect();
        assert_eq!(tags(&full.join(",")).with(&own), Err(TagError::TooMany));
        assert_eq!(Tags::stored(&["web".to_owned(), "a/b".to_owned()]), tags("web"));
    }
}
