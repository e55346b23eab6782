//! What a simulated Hyper-V host can be told to do wrong; the rules that say when are [`crate::rules`].
//!
//! A call's name is its WMI method, or `Get`, `Enumerate`, `Pull`; its path is the resource URI with selectors and filter.

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
    /// The call is carried out, but the connection is closed instead of answering.
    DropAfter,
    /// Nothing happens for this long, then the call goes on as usual.
    Stall(Duration),
    /// This HTTP status with a short text; nothing is done.
    Status(u16),
    /// The answer's body ends after so many bytes, and the connection with it; the call is carried out.
    Truncate(usize),
    /// 401, as when the session has expired; the connection must authenticate anew.
    Expired,
    /// A SOAP fault; nothing is done.
    Fault {
        /// With its prefix, e.g. `w:QuotaLimit`.
        subcode: String,
        /// Code of `wsmerror.h`.
        code: u32,
        /// Text.
        reason: String,
    },
    /// The method returns this code; nothing is done.
    Returns(u32),
    /// The job that the method starts fails; nothing is done.
    JobFails {
        /// `ErrorCode`.
        code: u16,
        /// `ErrorDescription`.
        description: String,
    },
    /// The job does its work, but takes this much longer.
    JobSlow(Duration),
    /// The job stays at `running`; nothing is done, and the machine stays busy.
    JobNeverEnds,
    /// The job does its work and stays at `running`, its machine busy, until it is told to end.
    JobHangs,
    /// `CreateSnapshot` answers 0 with the snapshot instead of 4096 with a job.
    Synchronous,
    /// `GetVirtualDiskChanges` does not know the tracking id.
    RefuseTracking,
    /// `GetVirtualDiskChanges` looks at only so many bytes; 0 is no progress at all.
    ShortChanges(u64),
    /// `GetVirtualDiskChanges` lists its first area twice.
    OverlappingAreas,
    /// `GetVirtualDiskChanges` lists an area behind what it looked at.
    AreaPastAnswer,
    /// `GetVirtualDiskChanges` knows of no change, whatever was written: change tracking has a defect.
    LoseAreas,
    /// `ConvertToReferencePoint`: the tracking ids of the point belong to other disks.
    ForeignTracking,
    /// `ConvertToReferencePoint`: the machine's disks have each other's tracking ids.
    SwappedTracking,
    /// `ConvertToReferencePoint`: the point has empty tracking ids.
    NoTracking,
    /// `InitiateShutdown` answers 0 and the machine stays on.
    IgnoreShutdown,
}
