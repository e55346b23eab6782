//! Leases: how a writer or reader shows collectors that it is alive, and what it relies on. See `collector` for what
//! follows from one. Must never: let a holder go on after its time by any clock, or take away its own lease while a
//! manifest of it may still be on its way.

use futures_util::future::join_all;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend::{BackendErrorKind, ObjectInfo};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::faults::Planted;
use crate::format::ChunkId;
use crate::format::lease::{LEASE_BYTES_MAX, LeaseBody, LeaseKind};
use crate::format::names::{self, ObjectId};
use crate::point::PointId;

/// A holder may go on for so long after it last renewed its lease.
pub const LEASE_VALID: Duration = Duration::from_secs(15 * 60);
/// A collector leaves a lease alone for so much longer: clocks differ, lists lag.
pub const LEASE_MARGIN: Duration = Duration::from_secs(15 * 60);
const RENEW_EVERY: Duration = Duration::from_secs(5 * 60);
/// After a renewal that failed.
const RENEW_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Renewals left standing: where lists lag, the newest may not show yet.
const RENEWALS_KEPT: usize = 2;
/// Last bytes of a pack's id, which are the first of its writer's lease.
pub const PACK_TAG_BYTES: usize = 4;

/// The end of a pack's id, by which a collector knows whose it is.
pub type PackTag = [u8; PACK_TAG_BYTES];

/// The tag of packs written under this lease.
pub fn lease_tag(lease: &ObjectId) -> PackTag {
    lease.first_chunk().copied().unwrap_or_default()
}

/// The tag of a pack.
pub fn pack_tag(pack: &ObjectId) -> PackTag {
    pack.last_chunk().copied().unwrap_or_default()
}

/// Has the time of that lease passed for everyone, whatever their clocks say?
pub fn is_expired(body: &LeaseBody, now: Timestamp) -> bool {
    let valid = Duration::from_secs(body.valid_seconds.min(LEASE_VALID.as_secs() * 4));
    now.duration_since(body.renewed_at) > jiff::SignedDuration::try_from(valid + LEASE_MARGIN).unwrap_or_default()
}

/// A moment by both clocks: the monotonic one stands still while the machine sleeps, the other may be set.
#[derive(Clone, Copy)]
struct Moment {
    monotonic: Instant,
    wall: Timestamp,
}

struct State {
    body: LeaseBody,
    sequence: u64,
    /// Renewals that may be there.
    written: BTreeSet<u64>,
    /// The roots of the last one that is.
    held: Vec<String>,
}

struct Shared {
    core: Arc<Core>,
    id: ObjectId,
    /// One renewal at a time.
    state: tokio::sync::Mutex<State>,
    renewed: Mutex<Moment>,
    stop: CancellationToken,
}

/// A lease that renews itself until it is dropped. Dropping it leaves it to expire; [`Self::release`] takes it away.
#[derive(Clone)]
pub struct Lease(Arc<Holder>);

struct Holder(Arc<Shared>);

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.stop.cancel();
    }
}

impl Lease {
    /// Makes a lease durable and keeps renewing it.
    pub async fn create(
        core: &Arc<Core>,
        kind: LeaseKind,
        point: Option<PointId>,
        epochs: &[ObjectId],
        roots: Vec<String>,
    ) -> Result<Self> {
        let id = core.new_id()?;
        let moment = now(core);
        let body = LeaseBody {
            kind,
            who: core.environment.who.clone(),
            point,
            renewed_at: moment.wall,
            valid_seconds: LEASE_VALID.as_secs(),
            epochs: epochs.iter().map(hex::encode).collect(),
            roots,
        };
        let name = names::lease(&id);
        let bytes = body.encode(&core.keys, &name, core.new_id()?)?;
        core.backend.put_new(&name, vec![bytes.into()]).await?;
        let held = body.roots.clone();
        let shared = Arc::new(Shared {
            core: Arc::clone(core),
            id,
            state: tokio::sync::Mutex::new(State { body, sequence: 0, written: BTreeSet::new(), held }),
            renewed: Mutex::new(moment),
            stop: CancellationToken::new(),
        });
        tokio::spawn(keep(Arc::clone(&shared)));
        Ok(Self(Arc::new(Holder(shared))))
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }

    pub fn id(&self) -> &ObjectId {
        &self.shared().id
    }

    /// By both clocks, may the holder still act on it?
    pub fn is_valid(&self) -> bool {
        let Moment { monotonic, wall } = *self.shared().renewed.lock();
        let passed = now(&self.shared().core).wall.duration_since(wall);
        monotonic.elapsed() < LEASE_VALID && passed.unsigned_abs() < LEASE_VALID
    }

    /// Epochs that the holder honours in all it does from its beginning on; told with the next renewal.
    pub async fn honour(&self, epochs: &[ObjectId]) {
        let mut state = self.shared().state.lock().await;
        let all: BTreeSet<String> =
            epochs.iter().map(hex::encode).chain(std::mem::take(&mut state.body.epochs)).collect();
        state.body.epochs = all.into_iter().collect();
    }

    /// These maps must stay readable. In force when it returns.
    pub async fn hold(&self, roots: &[ChunkId]) -> Result<()> {
        let shared = self.shared();
        if shared.core.environment.makes(Planted::BaseNotHeld) {
            return Ok(());
        }
        {
            let mut state = shared.state.lock().await;
            let new = roots.iter().filter(|root| !root.is_zero()).map(|root| hex::encode(root.0));
            let all: BTreeSet<String> = new.chain(state.body.roots.iter().cloned()).collect();
            if all.iter().eq(&state.held) {
                return Ok(());
            }
            // A renewal that fails leaves them in: holding more than is needed does no harm.
            state.body.roots = all.into_iter().collect();
        }
        shared.renew().await
    }

    /// Fails unless the holder may commit: its time has not run out, and no collector has asked after it.
    /// The challenge is looked for first: it may be cleaned away once there is a void, never before.
    pub async fn check(&self) -> Result<()> {
        let shared = self.shared();
        if shared.core.environment.makes(Planted::CommitWithoutLease) {
            return Ok(());
        }
        for name in [names::challenge(&shared.id), names::void(&shared.id)] {
            match shared.core.backend.stat(&name).await {
                Ok(_) => return Err(self.lost().await),
                Err(error) if error.kind == BackendErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Last, as looking may have taken long.
        if self.is_valid() { Ok(()) } else { Err(self.lost().await) }
    }

    async fn lost(&self) -> Error {
        let shared = self.shared();
        let point = shared.state.lock().await.body.point.unwrap_or(PointId(uuid::Uuid::nil()));
        Error::LeaseLost { point, place: shared.core.backend.place() }
    }

    /// Takes the lease away. Not to be called while a manifest of it may be on its way. What fails is left to expire.
    pub async fn release(&self) {
        let shared = self.shared();
        shared.stop.cancel();
        let state = shared.state.lock().await;
        let renewals: Vec<String> =
            state.written.iter().map(|sequence| names::renewal(&shared.id, *sequence)).collect();
        let removals = renewals.iter().map(|name| shared.core.backend.delete(name));
        // The lease itself last: renewals of a lease that is not there mean nothing.
        let mut removed: Vec<_> = join_all(removals).await;
        removed.push(shared.core.backend.delete(&names::lease(&shared.id)).await);
        for error in removed.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "a lease is left to expire");
        }
    }
}

impl Shared {
    async fn renew(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        // The name is spent even if writing it fails: it may have been written.
        state.sequence += 1;
        let (sequence, moment) = (state.sequence, now(&self.core));
        state.written.insert(sequence);
        state.body.renewed_at = moment.wall;
        let name = names::renewal(&self.id, sequence);
        let bytes = state.body.encode(&self.core.keys, &name, self.core.new_id()?)?;
        self.core.backend.put_new(&name, vec![bytes.into()]).await?;
        *self.renewed.lock() = moment;
        let State { body, held, .. } = &mut *state;
        held.clone_from(&body.roots);
        while state.written.len() > RENEWALS_KEPT {
            let Some(oldest) = state.written.first().copied() else { break };
            if let Err(error) = self.core.backend.delete(&names::renewal(&self.id, oldest)).await {
                tracing::debug!(%error, "an old renewal stays until the lease is released");
                break;
            }
            state.written.remove(&oldest);
        }
        Ok(())
    }
}

async fn keep(shared: Arc<Shared>) {
    let mut pause = RENEW_EVERY;
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = match shared.renew().await {
            Ok(()) => RENEW_EVERY,
            Err(error) => {
                tracing::warn!(%error, "a lease could not be renewed, trying again");
                RENEW_AGAIN_AFTER
            }
        };
    }
}

fn now(core: &Core) -> Moment {
    Moment { monotonic: Instant::now(), wall: core.environment.clock.now() }
}

/// A lease as others see it: its newest readable state.
pub struct Seen {
    pub id: ObjectId,
    pub body: LeaseBody,
    /// All objects of it and their lengths, the lease itself last.
    pub objects: Vec<ObjectInfo>,
}

/// What a list of leases shows.
#[derive(Default)]
pub struct Leases {
    pub leases: Vec<Seen>,
    /// Renewals whose lease is gone, and objects that are none.
    pub stray: Vec<ObjectInfo>,
}

/// All leases that are there. One that cannot be read at all is an error: nobody knows what it protects.
pub async fn list(core: &Core) -> Result<Leases> {
    let mut found = Leases::default();
    let mut by_lease: BTreeMap<ObjectId, BTreeMap<u64, ObjectInfo>> = BTreeMap::new();
    for object in core.backend.list(names::LEASES).await? {
        match names::parse_lease(&object.name) {
            Some((id, sequence)) => drop(by_lease.entry(id).or_default().insert(sequence, object)),
            None => found.stray.push(object),
        }
    }
    for (id, of_it) in by_lease {
        let is_listed = of_it.contains_key(&0);
        let mut objects: Vec<ObjectInfo> = of_it.into_values().rev().collect();
        if !is_listed {
            // A list that lags may show a renewal before the lease.
            match core.backend.stat(&names::lease(&id)).await {
                Ok(object) => objects.push(object),
                Err(error) if error.kind == BackendErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        if objects.last().is_none_or(|last| last.name != names::lease(&id)) {
            found.stray.extend(objects);
        } else if let Some(body) = newest(core, &objects).await? {
            found.leases.push(Seen { id, body, objects });
        }
    }
    Ok(found)
}

/// The newest state that can be read; `None` when the lease went away meanwhile.
async fn newest(core: &Core, objects: &[ObjectInfo]) -> Result<Option<LeaseBody>> {
    let mut damage = None;
    for ObjectInfo { name, size } in objects {
        if *size > LEASE_BYTES_MAX {
            damage = Some(Error::damaged(name, "it is longer than any lease"));
            continue;
        }
        match core.backend.get(name, None).await {
            Ok(bytes) => match LeaseBody::decode(&core.keys, name, &bytes) {
                Ok(body) => return Ok(Some(body)),
                Err(error) => damage = Some(core.settle_generation(error).await),
            },
            Err(error) if error.kind == BackendErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    damage.map_or(Ok(None), Err)
}
