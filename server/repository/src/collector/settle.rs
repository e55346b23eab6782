//! Whose lease is over. The only place that declares one dead.

use crate::backend::BackendErrorKind;
use crate::collector::{POLL_EVERY, Run, waiting};
use crate::epochs::Epoch;
use crate::error::{Error, Result};
use crate::faults::Planted;
use crate::format::envelope::Magic;
use crate::format::lease::{LeaseKind, Verdict};
use crate::format::names::{self, ObjectId};
use crate::lease::{self, Seen, is_expired};
use crate::point::PointId;

/// What became of a lease.
enum State {
    /// It may still commit.
    Open,
    /// It committed this point, or did not and never will.
    Over(Option<PointId>),
}

impl Run {
    /// The points of writers that are over; `None` when others are not and are not waited for.
    pub(super) async fn settle_all(&mut self, epochs: &[Epoch]) -> Result<Option<Vec<PointId>>> {
        loop {
            let mut points = Vec::new();
            self.report.waiting_for.clear();
            for seen in lease::list(&self.core).await?.leases {
                let concerned = seen.body.kind == LeaseKind::Write
                    && epochs.iter().any(|epoch| !seen.body.honours(&epoch.id))
                    && !self.core.environment.makes(Planted::NoWaiting);
                if !concerned {
                    continue;
                }
                match self.settle(&seen).await? {
                    State::Over(point) => points.extend(point),
                    State::Open => self.report.waiting_for.push(waiting(&seen)),
                }
            }
            if self.report.waiting_for.is_empty() {
                return Ok(Some(points));
            }
            if !self.options.wait {
                return Ok(None);
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Finds out about a writer's lease; one that expired is challenged and, without a manifest, declared dead.
    async fn settle(&mut self, seen: &Seen) -> Result<State> {
        let Some(point) = seen.body.point else { return Ok(State::Over(None)) };
        if self.has_committed(point, &seen.id).await? {
            return Ok(State::Over(Some(point)));
        }
        if !is_expired(&seen.body, self.core.environment.clock.now()) {
            return Ok(State::Open);
        }
        self.give_verdict(Magic::Challenge, &names::challenge(&seen.id), seen).await?;
        self.pause(self.lag).await;
        if self.has_committed(point, &seen.id).await? {
            return Ok(State::Over(Some(point)));
        }
        self.give_verdict(Magic::Void, &names::void(&seen.id), seen).await?;
        self.report.leases_voided += 1;
        tracing::warn!(who = seen.body.who, %point, "a writer that was not heard of for long is taken for dead");
        self.remove_lease(seen).await?;
        Ok(State::Over(None))
    }

    /// Is the manifest there, of this lease? One that cannot be read is an error: what it needs is not known.
    async fn has_committed(&self, point: PointId, lease: &ObjectId) -> Result<bool> {
        // Its writer may not have got as far as syncing it, and write it again after a crash of the location.
        self.core.backend.sync(&names::point(point)).await?;
        match self.core.manifest(point).await {
            Ok((found, _)) => Ok(found.lease_id() == Some(*lease)),
            Err(Error::NoSuchPoint(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn give_verdict(&mut self, magic: Magic, name: &str, seen: &Seen) -> Result<()> {
        match self.core.backend.stat(name).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind == BackendErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let verdict =
            Verdict { lease: hex::encode(seen.id), point: seen.body.point, at: self.core.environment.clock.now() };
        let bytes = verdict.encode(&self.core.keys, magic, name, self.core.new_id()?)?;
        match self.put(name, bytes).await {
            // Another collector came to the same conclusion.
            Err(Error::Backend(error)) if error.kind == BackendErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    pub(super) async fn remove_lease(&mut self, seen: &Seen) -> Result<()> {
        for object in &seen.objects {
            self.delete(&object.name, object.size).await?;
        }
        Ok(())
    }

    /// Leases nobody needs, renewals left behind, manifests of the dead, verdicts that have done their work.
    pub(super) async fn clean_up(&mut self) -> Result<()> {
        let leases = lease::list(&self.core).await?;
        for object in leases.stray {
            self.delete(&object.name, object.size).await?;
        }
        for seen in leases.leases {
            if seen.id == *self.lease.id() || !is_expired(&seen.body, self.core.environment.clock.now()) {
                continue;
            }
            match seen.body.kind {
                LeaseKind::Read | LeaseKind::Collect => self.remove_lease(&seen).await?,
                LeaseKind::Write => {
                    if matches!(self.settle(&seen).await?, State::Over(Some(_))) {
                        self.remove_lease(&seen).await?;
                    }
                }
            }
        }
        self.clean_verdicts().await
    }

    /// Voids stay: a manifest may still be on its way after any time. A challenge is needed until there is a void.
    async fn clean_verdicts(&mut self) -> Result<()> {
        for object in self.core.backend.list(names::VOIDS).await? {
            let Some(lease) = names::last_part_as_id(&object.name).filter(|id| names::void(id) == object.name) else {
                continue;
            };
            let bytes = match self.core.backend.get(&object.name, None).await {
                Err(error) if error.kind == BackendErrorKind::NotFound => continue,
                other => other?,
            };
            let verdict = match Verdict::decode(&self.core.keys, Magic::Void, &object.name, &bytes) {
                Err(error) if error.is_damage() => continue,
                other => other?,
            };
            if let Some(point) = verdict.point {
                self.remove_void_manifest(point, &lease).await?;
            }
            let challenge = names::challenge(&lease);
            match self.core.backend.stat(&challenge).await {
                Ok(found) => drop(self.delete(&challenge, found.size).await?),
                Err(error) if error.kind == BackendErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn remove_void_manifest(&mut self, point: PointId, lease: &ObjectId) -> Result<()> {
        match self.core.written_manifest(point).await {
            Ok((found, _)) if found.lease_id() == Some(*lease) => {
                let name = names::point(point);
                let bytes = self.core.backend.stat(&name).await?.size;
                self.delete(&name, bytes).await.map(drop)
            }
            Ok(_) | Err(Error::NoSuchPoint(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
