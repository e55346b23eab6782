//! Ids, one type a table: a machine's number is never taken for a task's.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = <$inner as FromStr>::Err;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// An account.
    AccountId(i64)
);
id!(
    /// A device: an ESXi host.
    DeviceId(i64)
);
id!(
    /// A virtual machine, over all devices.
    VmId(i64)
);
id!(
    /// A backup task.
    TaskId(i64)
);
id!(
    /// A run of a task, or a restore.
    RunId(i64)
);
id!(
    /// A job.
    JobId(i64)
);
id!(
    /// A journalled change on a host.
    ChangeId(i64)
);
id!(
    /// A snapshot that another program seems to have left.
    ForeignId(i64)
);
id!(
    /// A repository: the id in its own header.
    RepositoryId(Uuid)
);
id!(
    /// A restore point: the id in its manifest.
    PointId(Uuid)
);
id!(
    /// A wizard's draft.
    DraftId(Uuid)
);
id!(
    /// A channel of notices.
    ChannelId(i64)
);
id!(
    /// A notice.
    NoticeId(i64)
);
id!(
    /// A message to one recipient: what receivers tell repetitions by.
    DeliveryId(Uuid)
);
id!(
    /// A worker: a server, or a process on another machine.
    WorkerId(i64)
);
