//! Small pieces of the pages that templates call as functions: icons, states, bars. Everything that comes from outside
//! is escaped here; [`Html`] is the only type that passes a template unescaped.
//! Read next: `shell.rs`, `/templates`.

use crate::assets;
use crate::format::Of;
use domain::job::JobState;
use std::fmt::{self, Write as _};

/// Markup that is safe as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(pub String);

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl askama::filters::HtmlSafe for Html {}

/// `text` with everything escaped that means something in HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// Address of a static file, with the version of all of them in it, so that it may be kept for ever.
pub fn asset(name: &str) -> String {
    format!("{}/{name}", assets::base())
}

/// An icon of the sprite.
pub fn icon(name: &str) -> Html {
    icon_with(name, "i")
}

/// A small icon.
pub fn icon_s(name: &str) -> Html {
    icon_with(name, "i i-s")
}

/// An icon with classes of its own.
pub fn icon_with(name: &str, classes: &str) -> Html {
    Html(format!(
        r#"<svg class="{classes}" aria-hidden="true"><use href="{}/sprite.svg#{name}"/></svg>"#,
        assets::base()
    ))
}

/// What a state means to the eye: a colour class and a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tone {
    /// Good.
    Ok,
    /// Works, but needs a look.
    Warn,
    /// Failed.
    Bad,
    /// Running or selected.
    Run,
    /// Nothing happens.
    Idle,
}

impl Tone {
    /// Class suffix: `st-ok`, `lbl-ok`, `note-ok` …
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Run => "run",
            Self::Idle => "idle",
        }
    }

    /// Its shape in the sprite.
    pub const fn icon_name(self) -> &'static str {
        match self {
            Self::Ok => "f-circle-check",
            Self::Warn => "f-alert-triangle",
            Self::Bad => "bad",
            Self::Run => "progress",
            Self::Idle => "circle-dashed",
        }
    }

    /// Its shape, coloured.
    pub fn icon(self) -> Html {
        icon_with(self.icon_name(), &format!("i st-{}", self.word()))
    }

    /// Its shape, coloured and small.
    pub fn icon_s(self) -> Html {
        icon_with(self.icon_name(), &format!("i st-{} i-s", self.word()))
    }

    /// The tone of a job or a run.
    pub const fn of(state: JobState) -> Self {
        match state {
            JobState::Queued | JobState::Cancelled => Self::Idle,
            JobState::Running => Self::Run,
            JobState::Succeeded => Self::Ok,
            JobState::Warning => Self::Warn,
            JobState::Failed => Self::Bad,
        }
    }
}

/// State in a list or a title: always shape and word.
pub fn st(tone: Tone, text: impl AsRef<str>) -> Html {
    Html(format!(r#"<span class="st st-{}">{}{}</span>"#, tone.word(), icon(tone.icon_name()), escape(text.as_ref())))
}

/// State of a job or run in one word.
pub fn state(state: impl Of<JobState>) -> Html {
    let state = state.value();
    st(Tone::of(state), state_word(state))
}

/// The word for a state.
pub const fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "Waiting",
        JobState::Running => "Running",
        JobState::Succeeded => "Done",
        JobState::Warning => "Done, warning",
        JobState::Failed => "Failed",
        JobState::Cancelled => "Cancelled",
    }
}

/// The label of everything that is not a real host.
pub fn simulated(yes: impl Of<bool>) -> Html {
    if !yes.value() {
        return Html::default();
    }
    Html(format!(r#" <span class="lbl lbl-line">{}simulated</span>"#, icon("flask")))
}

/// A bar with its label for readers.
pub fn bar(percent: impl Of<u64>, classes: impl AsRef<str>, label: impl AsRef<str>) -> Html {
    let (classes, label) = (classes.as_ref(), label.as_ref());
    let percent = percent.value();
    let class = if classes.is_empty() { String::new() } else { format!(r#" class="{classes}""#) };
    Html(format!(
        r#"<progress{class} value="{percent}" max="100" aria-label="{}">{percent} %</progress>"#,
        escape(label)
    ))
}

/// The bar's class for a job in this state.
pub const fn bar_class(state: JobState) -> &'static str {
    match state {
        JobState::Succeeded => "p-ok",
        JobState::Warning => "p-warn",
        JobState::Failed => "p-bad",
        JobState::Cancelled => "p-idle",
        JobState::Queued | JobState::Running => "",
    }
}

/// Marks a field whose problem stands under it.
pub fn invalid(problem: Option<&str>) -> Html {
    Html(if problem.is_some() { r#" aria-invalid="true""#.to_owned() } else { String::new() })
}

/// `checked`, or nothing.
pub fn checked(yes: impl Of<bool>) -> Html {
    Html(if yes.value() { " checked".to_owned() } else { String::new() })
}

/// `selected`, or nothing.
pub fn selected(yes: impl Of<bool>) -> Html {
    Html(if yes.value() { " selected".to_owned() } else { String::new() })
}

/// The line under a field: its problem, or else what to know about it.
pub fn hint(id: &str, problem: Option<&str>, text: &str) -> Html {
    match problem {
        Some(problem) => Html(format!(r#"<p class="hint st-bad" id="{id}">{} {}</p>"#, icon_s("bad"), escape(problem))),
        None => Html(format!(r#"<p class="hint" id="{id}">{}</p>"#, escape(text))),
    }
}

/// `AB:CD:…` of a SHA-256.
pub fn fingerprint(hash: impl AsRef<[u8]>) -> String {
    let hash = hash.as_ref();
    let mut text = String::with_capacity(hash.len() * 3);
    for (index, byte) in hash.iter().enumerate() {
        if index > 0 {
            text.push(':');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02X}");
    }
    text
}

/// First letters of a name, two at most.
pub fn initials(name: &str) -> String {
    name.split([' ', '.', '-', '_', '@'])
        .filter_map(|word| word.chars().next())
        .take(2)
        .flat_map(char::to_uppercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let hostile = r#"<img src=x onerror="alert('1')">&"#;
        for html in [st(Tone::Ok, hostile), bar(3, "", hostile)] {
            assert!(!html.0.contains("<img"), "{html}");
            assert!(!html.0.contains(r#"onerror=""#), "{html}");
        }
        assert_eq!(escape("a'b\"<&>"), "a&#39;b&quot;&lt;&amp;&gt;");
    }

    #[test]
    fn a_fingerprint_reads_as_hosts_print_it() {
        assert_eq!(fingerprint([0x6b, 0x1e, 0x00]), "6B:1E:00");
    }

    #[test]
    fn initials_are_two_letters() {
        assert_eq!(initials("jörg öztürk"), "JÖ");
        assert_eq!(initials("admin"), "A");
    }
}
