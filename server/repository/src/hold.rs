//! Keeping points readable while they are read for long: a restore, a mounted disk, a verification. Without a hold a
//! point that is deleted meanwhile may lose its bytes to a collector.

use std::fmt;

use crate::error::Result;
use crate::format::lease::LeaseKind;
use crate::lease::Lease;
use crate::point::{Point, PointId};
use crate::repository::Repository;

/// A hold on points. Ends with [`Self::release`]; when it is only dropped, it runs out after some time.
pub struct PointHold {
    points: Vec<Point>,
    lease: Lease,
}

impl fmt::Debug for PointHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PointHold").field("points", &self.points.len()).finish_non_exhaustive()
    }
}

impl Repository {
    /// Holds these points: until the hold ends their disks stay readable, even if the points are deleted. Fails when one
    /// of them is not there.
    pub async fn hold(&self, points: &[PointId]) -> Result<PointHold> {
        let (mut found, mut roots) = (Vec::with_capacity(points.len()), Vec::new());
        for id in points {
            let point = self.point(*id).await?;
            roots.extend(point.disks.iter().map(|disk| disk.map_root.clone()));
            found.push(point);
        }
        roots.sort_unstable();
        roots.dedup();
        let lease = Lease::create(&self.core, LeaseKind::Read, None, &[], roots).await?;
        for id in points {
            // Deleted before the lease was there: a collector may not have seen it.
            if let Err(error) = self.point(*id).await {
                lease.release().await;
                return Err(error);
            }
        }
        Ok(PointHold { points: found, lease })
    }
}

impl PointHold {
    /// What is held.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Does it still hold? Not when the location could not be reached for long.
    pub fn is_valid(&self) -> bool {
        self.lease.is_valid()
    }

    /// Ends it.
    pub async fn release(self) {
        self.lease.release().await;
    }
}
