//! One event of a job in a cluster, before it is written.

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Somebody should look.
    pub warning: bool,
    /// One of [`crate::reasons::EVENTS`].
    pub reason: &'static str,
    /// What caused it: events of one reason and one cause are one, told again and again.
    pub cause: String,
    /// A sentence.
    pub note: String,
    /// Told again by another controller, it says nothing new.
    pub once: bool,
}

impl Told {
    /// Something in the course of things. What its sentence says is its cause.
    pub fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        let note = note.into();
        Self { warning: false, reason, cause: without_numbers(&note), note, once: false }
    }

    /// Something that somebody should look at.
    pub fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(reason, note) }
    }

    /// What its sentence is about, where that is not all of it.
    #[must_use]
    pub fn about(self, what: impl std::fmt::Display) -> Self {
        Self { cause: what.to_string(), ..self }
    }

    /// Where the cause is a sentence of its own.
    #[must_use]
    pub fn because(self, cause: &str) -> Self {
        self.about(without_numbers(cause))
    }
}

/// A sentence without what differs each time that it is said: counts, ports, the digits of names.
pub fn without_numbers(text: &str) -> String {
    let mut rest = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '0'..='9' if rest.ends_with('#') => {}
            '0'..='9' => rest.push('#'),
            c => rest.push(c),
        }
    }
    rest
}
