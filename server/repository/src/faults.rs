//! Mistakes planted on purpose, to show that the simulation finds them. None of it is in a normal build.

/// One mistake each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// The manifest is written while packs still are.
    ManifestBeforePacks,
    /// A writer commits although its lease ran out, and asks neither for challenges nor for voids.
    CommitWithoutLease,
    /// Readers show points whose lease was declared dead.
    VoidsIgnored,
    /// A writer refers to condemned packs.
    EpochsIgnored,
    /// A collector does not look again at what is needed before it deletes.
    NoMarkAgain,
    /// A collector does not wait for writers that do not know its epoch.
    NoWaiting,
    /// What is kept from the base is not in the writer's lease.
    BaseNotHeld,
    /// The epoch is removed before its packs.
    EpochDroppedFirst,
    /// The location does not sync a file's bytes before it renames it.
    #[cfg(test)]
    NoDataSync,
    /// The location does not sync a folder.
    #[cfg(test)]
    NoFolderSync,
}
