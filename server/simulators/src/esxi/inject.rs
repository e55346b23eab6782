//! What a simulated ESXi host can be told to do wrong; the rules that say when are [`crate::rules`].

use std::time::Duration;

pub use crate::rules::{On, RuleId};

/// One rule.
pub type Rule = crate::rules::Rule<Action>;
/// The rules of a simulated host.
pub type Faults = crate::rules::Faults<Action>;

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The connection is closed without an answer; nothing is done.
    Drop,
    /// The call is carried out, but the connection is closed instead of answering (SOAP only).
    DropAfter,
    /// Nothing happens for this long, then the request goes on as usual.
    Stall(Duration),
    /// This HTTP status with a short text; nothing is done. On `/folder` 401 also ends the session.
    Status(u16),
    /// The body ends after this many bytes although more were promised (`/folder` and `/nfc` downloads).
    TruncateBody(u64),
    /// 200 instead of 206, with the right bytes of the range (`/folder`).
    WrongStatus,
    /// The `Range` header is ignored: 200 and the whole file (`/folder`).
    IgnoreRange,
    /// A `Content-Range` that is off by this many bytes (`/folder`).
    ShiftContentRange(u64),
    /// A SOAP fault with this type and message; nothing is done.
    SoapFault {
        /// Type, e.g. `NotAuthenticated`.
        name: String,
        /// Text.
        message: String,
    },
    /// The task the method starts fails with this fault; nothing is done.
    TaskFails {
        /// Type, e.g. `ApplicationQuiesceFault`.
        name: String,
        /// Text.
        message: String,
    },
    /// The task does its work, but takes this much longer.
    TaskSlow(Duration),
    /// The task stays at `running` until it is cancelled; nothing is done.
    TaskStalls,
    /// The snapshot goes, its delta files stay, and `consolidationNeeded` is set (`RemoveSnapshot_Task`, `RemoveAllSnapshots_Task`;
    /// for `ConsolidateVMDisks_Task` it fails).
    ConsolidationNeeded,
    /// `ReconfigVM_Task` that switches tracking on fails; `QueryChangedDiskAreas` answers `FileFault`.
    RefuseChangeTracking,
    /// Tracking of all disks of the machine starts over with a new uuid, before the call is carried out.
    LostTracking,
    /// `QueryChangedDiskAreas` answers nonsense.
    CorruptAreas(Corruption),
    /// `QueryChangedDiskAreas` knows of no change since the change id, whatever was written: change tracking has a defect.
    LoseAreas,
    /// `ReconfigVM_Task` claims success without switching tracking on.
    IgnoreChangeTracking,
    /// `CreateSnapshot_Task` makes the snapshot without quiescing the guest, and says so in the snapshot alone.
    IgnoreQuiesce,
    /// The lease goes to `error` instead of `ready` (`ExportSnapshot`, `ExportVm`, `ImportVApp`).
    LeaseFails,
}

/// What is wrong with the areas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corruption {
    /// Two areas overlap.
    Overlap,
    /// An area passes the end of the disk.
    PastEnd,
    /// An area of no bytes.
    Empty,
    /// The answer covers no bytes, so that paging would not end.
    NoProgress,
    /// Areas go backwards.
    Descending,
}
