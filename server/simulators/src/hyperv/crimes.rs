//! What clients did that they must not do: kept for tests to read.

use parking_lot::Mutex;

/// Crimes that are remembered; later ones are only counted as having happened.
const CRIMES_KEPT_MAX: usize = 1000;

/// A rule of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A filter needs a resource URI that ends in `/*`, and such a URI a filter.
    FilterOnClass,
    /// A reference holds `Address` and `ReferenceParameters` directly.
    WrappedReference,
    /// An embedded instance is CIM-XML text.
    InstanceForm,
    /// A datetime of an embedded instance has the type `datetime` and the CIM format.
    DatetimeForm,
    /// A call on a service needs the selector `CreationClassName`.
    ServiceSelector,
    /// Backslashes in WMI paths and WQL are doubled.
    SingleBackslash,
    /// The envelope misses a header, has an unknown element or a wrong namespace.
    Envelope,
    /// A request in the clear on a connection without TLS.
    ClearBody,
    /// A password in the clear on a connection without TLS.
    ClearPassword,
    /// A sealed message that does not open.
    BrokenSeal,
}

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crime {
    /// The rule.
    pub rule: Rule,
    /// Where, and what was wrong.
    pub what: String,
}

#[derive(Default)]
pub(crate) struct Crimes {
    all: Mutex<Vec<Crime>>,
}

impl Crimes {
    pub fn add(&self, rule: Rule, what: impl Into<String>) {
        let crime = Crime { rule, what: what.into() };
        tracing::debug!(?crime, "a client broke a rule");
        let mut all = self.all.lock();
        if all.len() < CRIMES_KEPT_MAX {
            all.push(crime);
        }
    }

    pub fn all(&self) -> Vec<Crime> {
        self.all.lock().clone()
    }
}
