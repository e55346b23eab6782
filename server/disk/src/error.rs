//! The one error of this crate.

/// Why a disk image could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The bytes are not the format they should be.
    #[error("{format}: {reason}")]
    Malformed {
        /// Format, e.g. `VMDK descriptor`.
        format: &'static str,
        /// What is wrong, with the place.
        reason: String,
    },
    /// The image uses something this reader does not know.
    #[error("{format}: {feature} is not supported")]
    Unsupported {
        /// Format.
        format: &'static str,
        /// The feature.
        feature: String,
    },
    /// The caller broke the rules of a writer: went backwards, wrote past the end.
    #[error("{format}: {reason}")]
    Misuse {
        /// Format.
        format: &'static str,
        /// The rule and the offending value.
        reason: String,
    },
    /// A limit was passed.
    #[error("{format}: {what} passes the limit of {limit}")]
    Limit {
        /// Format.
        format: &'static str,
        /// What was too large.
        what: String,
        /// The limit, with its unit where it has one.
        limit: u64,
    },
    /// The source of the bytes failed.
    #[error("{format}: reading failed")]
    Read {
        /// Format.
        format: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The target of the bytes failed.
    #[error("{format}: writing failed")]
    Write {
        /// Format.
        format: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// One image of a chain cannot be used; the cause says why.
    #[error("image {image}")]
    InImage {
        /// Path of the image.
        image: String,
        /// The cause.
        #[source]
        source: Box<DiskError>,
    },
    /// An image needs another one that is not there, or is no longer the one it was made on.
    #[error("the parent of {image}: {reason}")]
    Parent {
        /// Path of the child.
        image: String,
        /// What was looked for and what was found.
        reason: String,
    },
}
