//! What the host keeps so that it can tell what changed since a point: journalled before it is asked for, kept with the
//! point, and let go of when no later run will ask with it.
//!
//! Owns: the life of marks on the host. Must never: let go of marks of the newest point or of the last full.
//! Read next: `reconcile/undo.rs`, for marks whose job died before its point was committed.

use super::prepare::Source;
use super::snapshot::Held;
use crate::context::JobContext;
use crate::errors;
use db::{ChangeId, ChangeKind};
use domain::job::JobError;
use domain::point::ChangeMark;
use repository::PointId;

/// Marks of a point that is about to be committed.
pub struct Sealed {
    pub marks: Vec<ChangeMark>,
    /// None: the host keeps nothing.
    change_id: Option<ChangeId>,
}

/// Asks for what the next increment asks with. Without it the point is as good, but the next run reads everything.
pub async fn seal(ctx: &JobContext, source: &Source, held: &Held, point: PointId) -> Result<Sealed, JobError> {
    ctx.check(&source.what)?;
    let token = format!("stillframe-marks-{}", point.0);
    let change_id = ctx.journal(&source.change(ChangeKind::Marks, token, None)).await?;
    // Whoever cleans up after us tells by it what came. A host that does not answer now will not seal either.
    if let Ok(Some(before)) = source.host.kept_for_marks(&source.machine.reference).await {
        ctx.essential(ctx.core.db.marks_intended(change_id, &before).await)?;
    }
    match source.host.seal_snapshot(&source.machine.reference, &held.snapshot).await {
        Ok(sealed) => {
            for cause in &sealed.unmarked {
                ctx.warn(&format!("The next backup will read all of a disk instead of what changed. {cause}.")).await;
            }
            let marks = sealed.marks;
            if marks.is_empty() {
                ctx.journal_removed(change_id).await;
                return Ok(Sealed { marks, change_id: None });
            }
            let noted = ctx.core.db.marks_made(change_id, db::PointId(point.0), &marks).await;
            if let Err(error) = ctx.essential(noted) {
                // Nobody could let go of what is not written down.
                let _ = source.host.forget_marks(&source.machine.reference, &marks).await;
                return Err(error);
            }
            Ok(Sealed { marks, change_id: Some(change_id) })
        }
        Err(error) => {
            ctx.journal_removed(change_id).await;
            let cause = errors::chain(&error);
            ctx.warn(&format!("The next backup will read everything: the change marks were not to be had ({cause})."))
                .await;
            Ok(Sealed { marks: Vec::new(), change_id: None })
        }
    }
}

impl Sealed {
    /// The point is committed, and its row is there.
    pub async fn keep(&self, ctx: &JobContext) {
        if let Some(change_id) = self.change_id {
            ctx.heard(ctx.core.db.change_kept(change_id).await);
        }
    }
}

/// Lets go of marks that nobody will ask with again. What fails is tried again after the next backup.
pub async fn let_go(ctx: &JobContext, source: &Source) {
    let idle = match ctx.core.db.idle_marks(source.vm_id).await {
        Ok(idle) => idle,
        Err(error) => return ctx.heard::<()>(Err(error)),
    };
    for change in idle {
        if ctx.stop.reason().is_some() {
            return;
        }
        match source.host.forget_marks(&source.machine.reference, &change.marks).await {
            Ok(()) => ctx.heard(ctx.core.db.marks_forgotten(change.change_id).await),
            Err(error) => {
                let what = format!("Old change marks of {} could not be let go of.", source.name);
                let error = errors::host(&what, &error);
                ctx.journal_failed(change.change_id, &error).await;
                ctx.info(&format!("{} {} They are tried again after the next backup.", error.what, error.why)).await;
                return;
            }
        }
    }
}
